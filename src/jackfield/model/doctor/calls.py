"""The same tokens give the same values however they are run: padded, alone, or from a cache."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jackfield.edits import Add, Edit
from jackfield.model.doctor.diagnosis import Row, absent, judge
from jackfield.model.doctor.reading import beyond_float32
from jackfield.model.doctor.subject import Subject, relative
from jackfield.model.generation import Cache
from jackfield.model.inputs import arguments, pad, token_call
from jackfield.model.views import first

SHORTER = 3  # by so many tokens the second row is shorter
NEW = 3  # tokens that are generated


def check_padding(patient: Subject, twin: Subject | None) -> Iterator[Row]:
    """Left padding, right padding and a batch of one agree at every sampled site."""
    takes = arguments(patient.model.module)
    if not patient.layers or not patient.has_tokens or "attention_mask" not in takes:
        reason = "no known blocks, no tokens, or no attention mask"
        yield absent("padding left = right = a batch of one", reason)
        return
    if not _pads(patient):
        yield absent(
            "padding left = right = a batch of one", "the bare module gives NaN on padding"
        )
        return
    able = twin if twin and _pads(twin) else None
    remark = "transformers' own padded forward is NaN in float64" if twin and not able else ""
    for name, edited in (("", False), (", with edits by position", True)):
        found = _padding_mistakes(patient, edited)
        exact = _beyond(_padding_mistakes(able, edited)) if able else None
        check = f"padding left = right = a batch of one{name}"
        yield judge(check, found, patient.through, twin=exact, remark=remark)


def check_decoding(patient: Subject, twin: Subject | None) -> Iterator[Row]:
    """A cached run, token by token, agrees with one forward; so do the caches when generating."""
    reason = _no_cache(patient)
    if reason:
        yield absent("prefill = decoding token by token", reason)
        return
    for name, edited in (("", False), (", with edits of k, v and the residual stream", True)):
        found = _decoding_mistakes(patient, edited)
        exact = _beyond(_decoding_mistakes(twin, edited)) if twin else None
        check = f"prefill = decoding token by token{name}"
        yield judge(check, found, patient.through, twin=exact)
    if f"cache.{patient.middle}.k" in patient.model.sites:
        kept, exact = _cache_mistakes(patient), _cache_mistakes(twin) if twin else None
        yield judge("the cache holds k and v as they were before edits", kept, 0.0, twin=exact)
    for cache in ("dynamic", "static"):
        yield _generated(patient, twin, cache)


def _padding_mistakes(patient: Subject, edited: bool) -> dict[str, float]:
    """Site → how far the padded rows are from the same rows alone."""
    sites = [site.name for site in patient.sampled]
    rows = _ragged(patient)
    edits = _edits_by_position(patient) if edited else []
    alone = [
        patient.model.run(torch.tensor([row], device=patient.given.device), sites, edits)
        for row in rows
    ]
    found: dict[str, float] = {}
    for side in ("left", "right"):
        ids, mask = pad(rows, side=side, value=_filler(patient))
        run = patient.model.run({"input_ids": ids, "attention_mask": mask.long()}, sites, edits)
        for name in sites:
            for index, single in enumerate(alone):
                part = _real(name, run[name][index : index + 1], mask[index], patient)
                found[name] = max(found.get(name, 0.0), relative(part, single[name]))
    return found


def _real(name: str, x: Tensor, mask: Tensor, patient: Subject) -> Tensor:
    """The part of a row's value that stands on real tokens."""
    if "query" in patient.model.sites[name].axes:
        return x[:, :, mask][:, :, :, mask]
    return x[:, mask]


def _ragged(patient: Subject) -> list[list[int]]:
    return [patient.given[0].tolist(), patient.given[1].tolist()[:-SHORTER]]


def _pads(patient: Subject) -> bool:
    """Whether the bare module gives numbers on a left-padded batch (in float64 some give NaN)."""
    ids, mask = pad(_ragged(patient), side="left", value=_filler(patient))
    call = token_call(patient.model.module, ids, mask, patient.model.device)
    made = first(patient.model.module(**call))
    return bool(made[mask].isfinite().all())


def _edits_by_position(patient: Subject) -> list[Edit]:
    """A Δ at the last token and at the second, in the middle of the model."""
    site = f"layers.{patient.middle}.resid_post"
    vector = patient.change(patient.run([site])[site][0, 1])
    return [Add(vector, at=site, where=[1]), Add(-vector, at=site, where="last")]


def _filler(patient: Subject) -> int:
    for source in (patient.model.tokenizer, patient.model.config):
        token = getattr(source, "pad_token_id", None)
        if isinstance(token, int) and token >= 0:
            return token
    return 0


def _no_cache(patient: Subject) -> str:
    """Why the model cannot decode, "" if it can."""
    takes = arguments(patient.model.module)
    if not patient.has_tokens or "past_key_values" not in takes:
        return "no KV cache"
    if "logits" not in patient.model.sites or not hasattr(patient.model.module, "generate"):
        return "no language-model head"
    return "" if _is_causal(patient) else "later tokens act on earlier ones: an encoder"


def _is_causal(patient: Subject) -> bool:
    """Whether the last token leaves the logits before it as they are."""
    other = patient.given.clone()
    other[:, -1] = patient.given[:, 0]
    here, there = patient.run().logits, patient.model.run(other).logits
    return relative(there[:, :-1], here[:, :-1]) <= patient.through


def _decoding_mistakes(patient: Subject, edited: bool) -> dict[str, float]:
    sites = [s.name for s in patient.sampled if "query" not in s.axes]
    edits = _edits_of_the_cache(patient) if edited else []
    lengths = torch.full((len(patient.given),), patient.given.shape[1])
    whole = patient.run(sites, edits, prompt_lengths=lengths)
    past, parts = None, []
    for step in patient.given.split(1, dim=1):
        run = patient.model.run(step, sites, edits, past=past, cache=True, prompt_lengths=lengths)
        past = run.past
        parts.append(run)
    return {
        name: relative(torch.cat([p[name] for p in parts], dim=1), whole[name]) for name in sites
    }


def _cache_mistakes(patient: Subject) -> dict[str, float]:
    """What the cache of a block holds, against k and v, without and with edits of them."""
    found = {}
    for part in ("k", "v"):
        held, used = f"cache.{patient.middle}.{part}", f"layers.{patient.middle}.{part}"
        if used not in patient.model.sites:
            continue
        plain = patient.run([held, used])
        edited = patient.run([held], [Add(patient.change(plain[used]), at=used)])
        last = plain[used][:, -plain[held].shape[1] :]  # a sliding cache holds the last ones
        found[held] = max(relative(plain[held], last), relative(edited[held], plain[held]))
    return found


def _edits_of_the_cache(patient: Subject) -> list[Edit]:
    """Δ of k at every position, of v at one, of the stream at two: each as `where` says it."""
    wheres: Mapping[str, Any] = {"k": "all", "v": [2], "resid_post": [1, 3]}
    names = {role: f"layers.{patient.middle}.{role}" for role in wheres}
    sites = {name: wheres[r] for r, name in names.items() if name in patient.model.sites}
    run = patient.run(list(sites))
    return [Add(patient.change(run[s][0, 1]), at=s, where=w) for s, w in sites.items()]


def _generated(patient: Subject, twin: Subject | None, cache: Cache) -> Row:
    check = f"generate: a {cache} cache = none, left-padded, with and without edits"
    if cache == "static":
        reason = _static_refused(patient)
        if reason:
            return absent(check, reason)
    found = _generation_mistakes(patient, cache)
    able = twin if twin and _pads(twin) else None
    exact = _beyond(_generation_mistakes(able, cache)) if able else None
    return judge(check, found, patient.through, twin=exact)


def _generation_mistakes(patient: Subject, cache: Cache) -> dict[str, float]:
    ids, mask = pad(_ragged(patient), side="left", value=_filler(patient))
    prompt = {"input_ids": ids, "attention_mask": mask.long()}
    found = {}
    for name, edits in (("no edits", []), ("edits", _edits_of_the_cache(patient))):
        caches: tuple[Cache, ...] = (cache, "none")
        ways: Sequence[Any] = [
            patient.model.generate(prompt, edits=edits, max_new_tokens=NEW, cache=way, logits=True)
            for way in caches
        ]
        found[name] = relative(ways[0].logits, ways[1].logits)
    return found


def _static_refused(patient: Subject) -> str:
    """Why the bare module itself has no use for a static cache, "" if it has."""
    from transformers import StaticCache

    module: Any = patient.model.module
    ids, mask = pad(_ragged(patient), side="left", value=_filler(patient))
    call = token_call(module, ids, mask, patient.model.device)
    past = StaticCache(config=module.config, max_cache_len=ids.shape[1] + NEW)
    try:
        cached = module(**call, past_key_values=past, use_cache=True).logits[:, -1]
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return f"the bare module fails with one ({type(error).__name__})"
    right = relative(cached, module(**call, use_cache=False).logits[:, -1]) <= patient.through
    return "" if right else "the bare module itself gives other logits with one"


def _beyond(errors: Mapping[str, float]) -> dict[str, float]:
    """Rotary tables, eager softmaxes and caches are float32 in places: less than that is theirs."""
    return {site: beyond_float32(error) for site, error in errors.items()}
