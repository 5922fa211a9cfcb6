"""The feature index: what each latent of a dictionary fires on, how strongly, and what it does.

    index = index_features(sae, store.stream("layers.15.resid_post"), model)
    index.show(index.interesting(1)[0])

Two passes over the stream. The first keeps, for every latent, its largest activations (one a
document) and the histogram of all. The second reads the tokens around those, and how the latent
fires on them. What is kept does not grow with the stream.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.dictionaries.dictionary import CODES, Dictionary
from jackfield.dictionaries.effects import direct_effect, effect_by_ablation
from jackfield.dictionaries.windows import Token, Windows
from jackfield.reports import Bars, Block, Report, Table, Tokens
from jackfield.reports import Histogram as HistogramBlock
from jackfield.streams import Histogram, Stream, TopExamples, TopRows

if TYPE_CHECKING:
    from jackfield.model.model import Model

_COMMON, _RARE = 0.03, 0.001  # densities between which a feature is likely to mean one thing
_UP, _DOWN = 8, 4  # tokens shown that a latent makes more likely, and less


def index_features(
    dictionary: Dictionary,
    stream: Stream,
    model: "Model | None" = None,
    *,
    examples: int = 8,
    before: int = 20,
    after: int = 8,
    bins: int = 32,
    progress: bool = False,
) -> "FeatureIndex":
    """Builds the index, in two passes over the stream.

    Args:
        dictionary: whose latents.
        stream: rows of the dictionary's site, with documents, positions and tokens. A live stream
            runs its model twice; write it to a store first.
        model: gives the text of tokens, and the effects; without it tokens are ids.
        examples: texts for each latent, from different documents.
        before: tokens shown before the one that a text was chosen for.
        after: tokens shown after it.
        bins: of the histograms, at least 4.
        progress: show a line for each pass.

    Raises:
        SiteError: the stream does not have the dictionary's site.
        InputError: rows that are not finite or of another width.
    """
    codes = dictionary.codes(stream)
    top, histogram = codes.into(
        TopExamples(CODES, k=examples, above=0.0),
        Histogram(CODES, bins=bins, above=0.0),
        progress=progress,
    )
    windows = codes.into(Windows(CODES, top, before=before, after=after), progress=progress)
    return FeatureIndex(dictionary, top, histogram, windows, model)


@dataclass(frozen=True, eq=False)
class FeatureIndex:
    """What the latents of a dictionary do; made by `index_features`.

    Attributes:
        dictionary: the one indexed.
        top: the rows that each latent is largest on.
        histogram: of each latent's activations above zero.
        windows: tokens and activations around the top rows.
        model: the model that was read, if given.
    """

    dictionary: Dictionary
    top: TopRows
    histogram: Histogram
    windows: Windows
    model: "Model | None" = None

    @property
    def density(self) -> Float[Tensor, " latent"]:
        """[latent], the share of rows on which each fires."""
        return self.histogram.density

    @property
    def strongest(self) -> Float[Tensor, " latent"]:
        """[latent], each one's largest activation; 0 if it never fired."""
        return self.top.values[:, 0].clamp_min(0)

    @cached_property
    def peakedness(self) -> Float[Tensor, " latent"]:
        """[latent], the least of its examples' activations over its mean where it fires; 0 if it
        has fewer examples than were asked for. Large: silent or faint, except where it is meant.
        """  # noqa: D205
        mean = torch.tensor([self._mean(latent) for latent in range(self.dictionary.latents)])
        return self.top.values[:, -1].clamp_min(0) / mean

    def interesting(self, n: int) -> list[int]:
        """`n` latents worth a look, always the same ones.

        The rule: it fires on 0.1 % to 3 % of tokens and in as many documents as there are examples;
        most of the tokens that it fires on there are words, and no one word (case and spaces
        aside) is more than half of them, so that what they share is a meaning. Of those the most
        peaked (`peakedness`), leaving out any whose commonest word another has already. If they
        are too few, what fails only the rule about words fills up.
        """
        scores = self.peakedness.where((self.density >= _RARE) & (self.density <= _COMMON), 0)
        order = scores.sort(descending=True, stable=True)
        ranked = order.indices[order.values > 0].tolist()
        ranked.sort(key=lambda latent: not self._shares_a_meaning(latent))  # stable
        chosen: dict[str, int] = {}
        for latent in ranked:
            chosen.setdefault(self._commonest(latent), latent)
            if len(chosen) == n:
                break
        return list(chosen.values())

    def nearest(self, latent: int, n: int = 5) -> list[tuple[int, float]]:
        """The latents whose directions have the largest cosine with this one's."""
        directions = self.dictionary.directions
        cosines = directions @ directions[self._checked(latent)]
        cosines[latent] = -math.inf
        best = cosines.topk(min(n, len(cosines) - 1))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def effects(self, latent: int) -> Bars:
        """Next tokens that the latent makes more and less likely in its texts, by ablation.

        Raises:
            InputError: there is no model, or the latent never fired on a token.
        """
        model, texts = self._model(), self._texts_to_peaks(latent)
        if not texts:
            where, expected = f"latent {latent}", "texts that it fires on"
            raise InputError(explain(where=where, expected=expected, got="none"))
        percent = 100 * effect_by_ablation(self.dictionary, latent, model, texts)
        caption = "What it adds to the chance of the next token in these texts (by silencing it)."
        return _bars(percent, model, "percentage points", caption)

    def promoted(self, latent: int) -> Bars:
        """Output tokens that the direction promotes and suppresses by the direct path alone.

        Raises:
            InputError: there is no model, or the site is not in its residual stream.
        """
        effect = direct_effect(self.dictionary, self._checked(latent), self._model())
        caption = "What its direction adds to the logits by the direct path."
        return _bars(effect, self._model(), "logit", caption)

    def show(self, latent: int) -> Report:
        """One latent: its texts with the tokens highlighted, histogram, effects, neighbours.

        Raises:
            InputError: there is no such latent.
        """
        blocks: list[Block] = []
        if self.top.counts[self._checked(latent)]:
            blocks += [self._texts(latent), self._histogram(latent)]
            if self.model is not None and self._texts_to_peaks(latent):
                blocks.append(self.effects(latent))
        near = Table(["nearest latent", "cosine"], self.nearest(latent), formats={"cosine": ".2f"})
        return Report(f"Feature {latent}", [*blocks, near], summary=self._summary(latent))

    def _checked(self, latent: int) -> int:
        if not 0 <= latent < self.dictionary.latents:
            where = f"feature index at {self.dictionary.site}"
            expected = f"a latent from 0 to {self.dictionary.latents - 1}"
            raise InputError(explain(where=where, expected=expected, got=str(latent)))
        return latent

    def _model(self) -> "Model":
        if self.model is None:
            where, expected = "feature index", "a model: index_features(dictionary, stream, model)"
            raise InputError(explain(where=where, expected=expected, got="none"))
        return self.model

    def _mean(self, latent: int) -> float:
        """The mean activation where the latent fires, from its histogram; NaN if it never does."""
        counts, edges = self.histogram.counts[latent], self.histogram.edges(latent)
        return float((counts * (edges[1:] + edges[:-1]) / 2).sum() / counts.sum())

    @cached_property
    def _words(self) -> list[list[str]]:
        """[latent] of [example] the token it fires on, in lower case without spaces."""
        if self.top.tokens is None:
            return [[""] * int(count) for count in self.top.counts]
        ids = self.top.tokens.unique().clamp_min(0).tolist()  # -1 is an empty slot
        names = dict(zip(ids, self._names(ids), strict=True))
        return [[names[i] for i in row if i >= 0] for row in self.top.tokens.tolist()]

    def _names(self, ids: Sequence[int]) -> list[str]:
        strings = self.model.token_strings(ids) if self.model is not None else map(str, ids)
        return [string.strip().lower() for string in strings]

    def _commonest(self, latent: int) -> str:
        return Counter(self._words[latent]).most_common(1)[0][0]

    def _shares_a_meaning(self, latent: int) -> bool:
        words = self._words[latent]
        spelled = sum(any(letter.isalpha() for letter in word) for word in words)
        most = Counter(words).most_common(1)[0][1]
        return 2 * spelled > len(words) >= 2 * most

    def _windows(self, latent: int) -> list[list[Token]]:
        return [self.windows.of(latent, i) for i in range(int(self.top.counts[latent]))]

    def _texts_to_peaks(self, latent: int) -> list[list[int]]:
        """The tokens of each text up to the one it was chosen for."""
        peaks = self.top.positions[latent].tolist()
        texts = [
            [token.id for token in window if token.id is not None and token.position <= peak]
            for window, peak in zip(self._windows(latent), peaks, strict=False)
        ]
        return [text for text in texts if text]

    def _texts(self, latent: int) -> Tokens:
        windows = self._windows(latent)
        return Tokens(
            [self._strings(window) for window in windows],
            [[token.value for token in window] for window in windows],
            caption="Where it fires most, one text a document, with its largest activation.",
        )

    def _strings(self, window: Sequence[Token]) -> list[str]:
        """A text for each token: "…" for a gap, the position where there are no tokens."""
        ids = [token.id for token in window if token.id is not None]
        told = iter(
            self.model.token_strings(ids)
            if self.model is not None
            else [f" {each}" for each in ids]
        )
        return [
            next(told) if token.id is not None else "…" if token.is_gap else f" @{token.position}"
            for token in window
        ]

    def _histogram(self, latent: int) -> HistogramBlock:
        counts, edges = self.histogram.counts[latent], self.histogram.edges(latent)
        used = int(counts.nonzero()[-1]) + 1
        return HistogramBlock(
            counts[:used],
            edges[: used + 1],
            x_title="activation",
            y_title="tokens",
            log_y=True,
            caption="How strongly it fires, where it fires.",
        )

    def _summary(self, latent: int) -> str:
        if not self.top.counts[latent]:
            return "It never fired."
        words = Counter(self._words[latent])
        told = ", ".join(f"“{word}”" for word, _ in words.most_common(4) if word)
        on = f", most on {told}" if self.top.tokens is not None and told else ""
        share = f"{float(self.density[latent]):.2%}"
        return f"It fires on {share} of tokens{on}; at most {float(self.strongest[latent]):.3g}."


def _bars(effect: Tensor, model: "Model", unit: str, caption: str) -> Bars:
    high, low = effect.topk(_UP), effect.topk(_DOWN, largest=False)
    tokens = [*high.indices.tolist(), *low.indices.flip(0).tolist()]
    return Bars(
        model.token_strings(tokens),
        torch.cat([high.values, low.values.flip(0)]),
        label_title="token",
        value_title=unit,
        caption=caption,
    )
