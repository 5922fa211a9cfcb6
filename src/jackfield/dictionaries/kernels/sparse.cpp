// Products with k-sparse codes, and the choice of the codes, on raw pointers of row-major tensors.
//
// Formulas and shapes are those of plain.py, which gives the same numbers. Every output row belongs
// to one thread and is summed in the order of the codes, so that neither the number of threads nor
// their timing changes a bit. Nothing here knows of torch or Python: cpu.py is the caller, and has
// checked types, shapes and the range of the latents.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

namespace {

struct bfloat16 {
    uint16_t bits;
};

// What a type is summed in, 32 bytes of it, and how it gets there and back.
template <class T>
struct Number {
    using Sum = T;
    typedef T Lanes __attribute__((vector_size(32)));
    static Sum up(T value) { return value; }
    static T down(Sum value) { return value; }
    static void load(Lanes& lanes, const T* from) { std::memcpy(&lanes, from, sizeof lanes); }
};

template <>
struct Number<bfloat16> {
    using Sum = float;
    typedef float Lanes __attribute__((vector_size(32)));
    typedef uint32_t Words __attribute__((vector_size(32)));
    typedef uint16_t Halves __attribute__((vector_size(16)));

    static Sum up(bfloat16 value) {
        uint32_t word = uint32_t(value.bits) << 16;
        float sum;
        std::memcpy(&sum, &word, sizeof sum);
        return sum;
    }
    static bfloat16 down(Sum value) {  // to the nearest, of two as near to the even one
        uint32_t word;
        std::memcpy(&word, &value, sizeof word);
        if (std::isnan(value)) return {0x7fc0};
        return {uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16)};
    }
    static void load(Lanes& lanes, const bfloat16* from) {
        Halves halves;
        std::memcpy(&halves, from, sizeof halves);
        Words words = __builtin_convertvector(halves, Words) << 16;
        std::memcpy(&lanes, &words, sizeof lanes);
    }
};

template <class T>
using SumOf = typename Number<T>::Sum;

constexpr int64_t ahead = 8;  // rows fetched before they are needed, because they lie anywhere

int team(int64_t work, int threads) { return work < (1 << 15) ? 1 : threads; }

template <class T>
void fetch(const T* row, int64_t d) {
    const char* bytes = reinterpret_cast<const char*>(row);
    for (int64_t at = 0; at < d * int64_t(sizeof(T)); at += 64) __builtin_prefetch(bytes + at);
}

// sum = Σ_i weight(i) · row(i) over begin <= i < end, in this order. Four at a time, so that the sum
// is read and written a quarter as often.
template <class T, class Weight, class Row>
void add_rows(std::vector<SumOf<T>>& sums, int64_t begin, int64_t end, Weight weight, Row row) {
    const int64_t d = sums.size();
    SumOf<T>* __restrict sum = sums.data();
    std::fill(sums.begin(), sums.end(), SumOf<T>(0));
    for (int64_t i = begin; i < std::min(begin + ahead, end); ++i) fetch<T>(row(i), d);
    int64_t i = begin;
    for (; i + 4 <= end; i += 4) {
        for (int64_t next = i + ahead; next < std::min(i + ahead + 4, end); ++next)
            fetch<T>(row(next), d);
        const SumOf<T> w0 = weight(i), w1 = weight(i + 1), w2 = weight(i + 2), w3 = weight(i + 3);
        const T *r0 = row(i), *r1 = row(i + 1), *r2 = row(i + 2), *r3 = row(i + 3);
        for (int64_t c = 0; c < d; ++c) {
            SumOf<T> here = sum[c] + w0 * Number<T>::up(r0[c]);
            here += w1 * Number<T>::up(r1[c]);
            here += w2 * Number<T>::up(r2[c]);
            sum[c] = here + w3 * Number<T>::up(r3[c]);
        }
    }
    for (; i < end; ++i) {
        const SumOf<T> w = weight(i);
        const T* __restrict r = row(i);
        for (int64_t c = 0; c < d; ++c) sum[c] += w * Number<T>::up(r[c]);
    }
}

template <class T>
void store(T* __restrict out, const SumOf<T>* __restrict sum, int64_t d) {
    for (int64_t c = 0; c < d; ++c) out[c] = Number<T>::down(sum[c]);
}

// In lanes of a fixed number whatever the CPU, so that the order of the sum is the same on each.
template <class T>
SumOf<T> dot(const T* a, const T* b, int64_t d) {
    using Lanes = typename Number<T>::Lanes;
    constexpr int64_t width = sizeof(Lanes) / sizeof(SumOf<T>), parts = 4;
    Lanes sums[parts] = {}, left, right;
    int64_t c = 0;
    for (; c + parts * width <= d; c += parts * width)
        for (int64_t part = 0; part < parts; ++part) {
            Number<T>::load(left, a + c + part * width);
            Number<T>::load(right, b + c + part * width);
            sums[part] += left * right;
        }
    const Lanes all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    SumOf<T> sum = 0;
    for (int64_t lane = 0; lane < width; ++lane) sum += all[lane];
    for (; c < d; ++c) sum += Number<T>::up(a[c]) * Number<T>::up(b[c]);
    return sum;
}

template <class T>
void combine(const T* values, const int64_t* latents, const T* W, T* out, int64_t rows, int64_t k,
             int64_t d, int threads) {
#pragma omp parallel num_threads(team(rows * k * d, threads))
    {
        std::vector<SumOf<T>> sum(d);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; ++row) {
            add_rows<T>(
                sum, row * k, (row + 1) * k, [&](int64_t at) { return Number<T>::up(values[at]); },
                [&](int64_t at) { return W + latents[at] * d; });
            store(out + row * d, sum.data(), d);
        }
    }
}

template <class T>
void dots(const T* x, const int64_t* latents, const T* W, T* out, int64_t rows, int64_t k,
          int64_t d, int threads) {
#pragma omp parallel for schedule(static) num_threads(team(rows * k * d, threads))
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t at = row * k; at < (row + 1) * k; ++at) {
            if (at + ahead < (row + 1) * k) fetch(W + latents[at + ahead] * d, d);
            out[at] = Number<T>::down(dot(x + row * d, W + latents[at] * d, d));
        }
}

// The codes sorted by latent, and within a latent by row; then each latent sums its own.
template <class T>
void scatter(const T* values, const int64_t* latents, const T* x, T* out, int64_t rows, int64_t k,
             int64_t d, int64_t n, int threads) {
    std::vector<int64_t> ends(n + 1), order(rows * k);
    for (int64_t at = 0; at < rows * k; ++at) ++ends[latents[at] + 1];
    for (int64_t latent = 0; latent < n; ++latent) ends[latent + 1] += ends[latent];
    for (int64_t at = 0; at < rows * k; ++at) order[ends[latents[at]]++] = at;
#pragma omp parallel num_threads(team(rows * k * d, threads))
    {
        std::vector<SumOf<T>> sum(d);
#pragma omp for schedule(dynamic, 16)
        for (int64_t latent = 0; latent < n; ++latent) {
            const int64_t begin = latent ? ends[latent - 1] : 0, end = ends[latent];
            add_rows<T>(
                sum, begin, end, [&](int64_t i) { return Number<T>::up(values[order[i]]); },
                [&](int64_t i) { return x + order[i] / k * d; });
            store(out + latent * d, sum.data(), d);
        }
    }
}

template <class S>
struct Candidate {
    S value;
    int64_t latent;

    // NaN before all numbers, as torch has it; of equals the first latent.
    bool operator<(const Candidate& other) const {
        if (value > other.value || (std::isnan(value) && !std::isnan(other.value))) return true;
        if (value < other.value || (std::isnan(other.value) && !std::isnan(value))) return false;
        return latent < other.latent;
    }
};

// A bar that at least k of p are not below: the k-th of the greatest of groups. A group is every
// so-manieth, which a CPU compares side by side.
template <class T>
SumOf<T> bar_of(const T* p, int64_t n, int64_t k, std::vector<SumOf<T>>& greatest) {
    const int64_t groups = 4 * k;
    greatest.assign(groups, -std::numeric_limits<SumOf<T>>::infinity());
    SumOf<T>* __restrict most = greatest.data();
    for (int64_t start = 0; start + groups <= n; start += groups)
        for (int64_t c = 0; c < groups; ++c)
            most[c] = Number<T>::up(p[start + c]) > most[c] ? Number<T>::up(p[start + c]) : most[c];
    std::nth_element(greatest.begin(), greatest.begin() + (k - 1), greatest.end(),
                     std::greater<SumOf<T>>());
    return greatest[k - 1];
}

// What is not below the bar, NaN included. Most blocks are passed over after one comparison.
template <class T>
void collect(const T* p, int64_t n, SumOf<T> bar, std::vector<Candidate<SumOf<T>>>& found) {
    constexpr int64_t block = 32;
    int64_t start = 0;
    found.clear();
    for (; start + block <= n; start += block) {
        int any = 0;
        for (int64_t c = 0; c < block; ++c) any |= !(Number<T>::up(p[start + c]) < bar);
        if (!any) continue;
        for (int64_t c = start; c < start + block; ++c)
            if (!(Number<T>::up(p[c]) < bar)) found.push_back({Number<T>::up(p[c]), c});
    }
    for (; start < n; ++start)
        if (!(Number<T>::up(p[start]) < bar)) found.push_back({Number<T>::up(p[start]), start});
}

template <class T>
void top_k(const T* p, T* values, int64_t* latents, int64_t rows, int64_t k, int64_t n,
           int threads) {
#pragma omp parallel num_threads(team(rows * n, threads))
    {
        std::vector<SumOf<T>> greatest;
        std::vector<Candidate<SumOf<T>>> found, ranked;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; ++row) {
            collect(p + row * n, n, bar_of(p + row * n, n, k, greatest), found);
            ranked = found;
            std::nth_element(ranked.begin(), ranked.begin() + (k - 1), ranked.end());
            int64_t at = row * k;
            for (const auto& each : found) {  // in the order of the latents
                if (ranked[k - 1] < each) continue;
                values[at] = Number<T>::down(each.value < 0 ? 0 : each.value);
                latents[at++] = each.latent;
            }
        }
    }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))
#define KERNELS(T, NAME)                                                                         \
    EXPORT void combine_##NAME(const T* values, const int64_t* latents, const T* W, T* out,      \
                               int64_t rows, int64_t k, int64_t d, int threads) {                \
        combine(values, latents, W, out, rows, k, d, threads);                                   \
    }                                                                                            \
    EXPORT void dots_##NAME(const T* x, const int64_t* latents, const T* W, T* out,              \
                            int64_t rows, int64_t k, int64_t d, int threads) {                   \
        dots(x, latents, W, out, rows, k, d, threads);                                           \
    }                                                                                            \
    EXPORT void scatter_##NAME(const T* values, const int64_t* latents, const T* x, T* out,      \
                               int64_t rows, int64_t k, int64_t d, int64_t n, int threads) {     \
        scatter(values, latents, x, out, rows, k, d, n, threads);                                \
    }                                                                                            \
    EXPORT void top_k_##NAME(const T* p, T* values, int64_t* latents, int64_t rows, int64_t k,   \
                             int64_t n, int threads) {                                           \
        top_k(p, values, latents, rows, k, n, threads);                                          \
    }

KERNELS(float, float32)
KERNELS(double, float64)
KERNELS(bfloat16, bfloat16)
