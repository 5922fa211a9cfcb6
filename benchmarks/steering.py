"""Steering: generating while steered, fitting and doses, beside the peers and plain hooks."""

import copy
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import jackfield as jf
from benchmarks.timing import Timing, paired, table

NEW = 40
PROMPT = "The history of the harbour begins with"
FOUR = (PROMPT, "The road to the north follows", "Every winter the farmers of", "In the old city")
SITE, STRENGTH = "layers.15.resid_post", 0.1
_BEHAVIOURS = [jf.steering.BEHAVIOURS[name] for name in ("sentiment", "formality", "french")]
POSITIVE = [text for each in _BEHAVIOURS for text in each.positive][:64]
NEGATIVE = [text for each in _BEHAVIOURS for text in each.negative][:64]


def generating(rounds: int = 15) -> str:
    """40 new tokens of SmolLM2, greedy; each steered loop beside the same loop unsteered."""
    model = jf.load("smollm2")
    vector = _vector(model, 0)
    ten = [_add(model, f"layers.{layer}.resid_post", layer) for layer in range(10, 20)]
    own = _own_loop(model.module, model)
    candidates = {
        "jackfield, unsteered": lambda: model.generate(PROMPT, max_new_tokens=NEW),
        "jackfield, one add": _generate(model, [_add(model, SITE, 0)]),
        "jackfield, ten adds": _generate(model, ten),
        "transformers, unsteered": own,
        "transformers, a plain hook": _hooked(model, vector, own),
        **_peers(model, vector),
    }
    for call in candidates.values():
        assert _made(call()) == NEW, "every loop has to make as many tokens"
    found = {each.name: each for each in paired(candidates, rounds=rounds)}
    lines = ["| | tokens/s | share of the same loop unsteered | 95 % |", "|---|---|---|---|"]
    for name, timing in found.items():
        loop = "jackfield" if name.startswith("jackfield") else "transformers"
        lines.append(_share(timing, found[f"{loop}, unsteered"], NEW))
    return "\n".join(lines)


def rows(rounds: int = 15) -> str:
    """Four prompts in one batch, 40 new tokens each: one vector for all, and one for each row."""
    model = jf.load("smollm2")
    vectors = torch.stack([_vector(model, seed) for seed in range(len(FOUR))])
    kept = "~sinks"
    own = [
        jf.edits.Add(v, at=SITE, where=jf.Rows((row,)) & kept, strength=STRENGTH)
        for row, v in enumerate(vectors)
    ]
    each = jf.edits.Add(vectors[:, None], at=SITE, where=kept, strength=STRENGTH)
    one = jf.edits.Add(vectors[0], at=SITE, where=kept, strength=STRENGTH)
    candidates = {
        "unsteered": _generate(model, [], FOUR),
        "one vector for all": _generate(model, [one], FOUR),
        "a vector a row, one edit": _generate(model, [each], FOUR),
        "a vector a row, four edits": _generate(model, own, FOUR),
    }
    for call in candidates.values():
        assert _made(call()) == NEW, "every loop has to make as many tokens"
    found = paired(candidates, rounds=rounds)
    lines = ["| | tokens/s | share of unsteered | 95 % |", "|---|---|---|---|"]
    return "\n".join([*lines, *(_share(each, found[0], NEW * len(FOUR)) for each in found)])


def fitting(rounds: int = 5) -> str:
    """64 pairs of sentences, a direction at every layer, last token; from an open model."""
    model = jf.load("smollm2")
    sides = {"positive": POSITIVE, "negative": NEGATIVE}
    mean = jf.steering.MeanDifference(tokens="last")
    pca = jf.steering.PairedPCA(tokens="last")
    candidates: dict[str, Callable[[], object]] = {
        "jackfield, mean difference": lambda: mean.fit_all(model, **sides),
        "jackfield, PCA of pairs": lambda: pca.fit_all(model, **sides),
        "plain: output_hidden_states, by 16": lambda: _plain_fit(model),
    }
    pairs = list(zip(POSITIVE, NEGATIVE, strict=True))
    if importlib.util.find_spec("repeng"):
        candidates["repeng, its PCA"] = _repeng_fit(model, pairs)
    if importlib.util.find_spec("steering_vectors"):
        from steering_vectors import train_steering_vector

        candidates["steering-vectors, mean difference, by 16"] = lambda: train_steering_vector(
            model.module, model.tokenizer, pairs, batch_size=16
        )
    return table(paired(candidates, rounds=rounds))


def memory() -> str:
    """Peak resident memory of fitting at all 30 layers, beyond what was there before."""
    lines = ["| pairs | peak MB above the start |", "|---|---|"]
    for pairs in (64, 256, 1024):
        done = subprocess.run(
            [sys.executable, "-c", _PEAK.format(pairs=pairs)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines.append(f"| {pairs} | {done.stdout.split()[-1]} |")
    return "\n".join(lines)


def realised() -> str:
    """Mean difference of sentiment: the KL asked for, and the KL measured after at most 5 steps."""
    model, (sentiment, *_) = jf.load("smollm2"), _BEHAVIOURS
    sides = {"positive": sentiment.positive, "negative": sentiment.negative}
    asked = (0.01, 0.1, 0.3, 1.0)
    fitted = jf.steering.MeanDifference().fit_all(model, **sides, at="layers.4:26.resid_post")
    lines = [f"| layer | {' | '.join(f'asked {kl:g}' for kl in asked)} |", "|---" * 5 + "|"]
    worst = 0.0
    for each in fitted:
        got = [each.dose(model, f"kl:{kl}").cost.mean for kl in asked]
        worst = max(worst, *(abs(mine / kl - 1) for mine, kl in zip(got, asked, strict=True)))
        lines.append(f"| {each.at.split('.')[1]} | {' | '.join(f'{kl:.4g}' for kl in got)} |")
    return "\n".join([*lines, "", f"The largest miss is {worst:.1%} of what was asked."])


def _share(timing: Timing, unsteered: Timing, tokens: int) -> str:
    against = Timing(timing.name, timing.seconds, unsteered.seconds)
    low, high = against.interval
    return (
        f"| {timing.name} | {tokens / timing.median:.1f} | {1 / against.ratio:.3f} "
        f"| {1 / high:.3f}–{1 / low:.3f} |"
    )


def _vector(model: jf.Model, seed: int) -> Tensor:
    return torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed))


def _add(model: jf.Model, site: str, seed: int) -> jf.edits.Edit:
    return jf.edits.Add(_vector(model, seed), at=site, where="generated", strength=STRENGTH)


def _generate(
    model: jf.Model, edits: list[jf.edits.Edit], prompts: Any = PROMPT
) -> Callable[[], Any]:
    return lambda: model.generate(prompts, max_new_tokens=NEW, edits=edits)


def _made(result: Any) -> int:
    tokens = result if isinstance(result, Tensor) else result.tokens
    return int(tokens.shape[1])


def _own_loop(module: Any, model: jf.Model) -> Callable[[], Tensor]:
    """transformers' own greedy loop; the new tokens."""
    given = model.tokenize(PROMPT)
    settings = {"do_sample": False, "pad_token_id": model.tokenizer.pad_token_id}
    prompt = {key: given[key] for key in ("input_ids", "attention_mask")}
    count = given["input_ids"].shape[1]

    def call() -> Tensor:
        made = module.generate(**prompt, max_new_tokens=NEW, min_new_tokens=NEW, **settings)
        return made[:, count:]

    return call


def _hooked(model: jf.Model, vector: Tensor, loop: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def add(block: object, args: object, out: Any) -> Any:
        hidden = out[0] if isinstance(out, tuple) else out
        moved = hidden + STRENGTH * vector
        return (moved, *out[1:]) if isinstance(out, tuple) else moved

    def call() -> Tensor:
        handle = model.blocks[15].register_forward_hook(add)
        try:
            return loop()
        finally:
            handle.remove()

    return call


def _peers(model: jf.Model, vector: Tensor) -> dict[str, Callable[[], Tensor]]:
    """One vector at layer 15, by the libraries that are there."""
    found: dict[str, Callable[[], Tensor]] = {}
    if importlib.util.find_spec("repeng"):
        repeng = _repeng()
        theirs = repeng.ControlModel(copy.deepcopy(model.module), layer_ids=[15])
        directions = {15: vector.numpy()}
        control = repeng.ControlVector(model_type="llama", directions=directions)
        theirs.set_control(control, coeff=STRENGTH)
        found["transformers, repeng"] = _own_loop(theirs, model)
    if importlib.util.find_spec("steering_vectors"):
        from steering_vectors import SteeringVector

        loop = _own_loop(model.module, model)
        steering = SteeringVector({15: vector}, "decoder_block")

        def call() -> Tensor:
            with steering.apply(model.module, multiplier=STRENGTH):
                return loop()

        found["transformers, steering-vectors"] = call
    return found


def _repeng() -> Any:
    if not hasattr(np, "float_"):  # repeng 0.4.0 names a type that NumPy 2 has no more
        np.float_ = np.float64  # type: ignore[attr-defined]
    import repeng

    return repeng


def _repeng_fit(model: jf.Model, pairs: list[tuple[str, str]]) -> Callable[[], Any]:
    repeng = _repeng()
    entries = [repeng.DatasetEntry(positive=plus, negative=minus) for plus, minus in pairs]
    return lambda: repeng.ControlVector.train(
        model.module, model.tokenizer, entries, method="pca_center", batch_size=16
    )


def _plain_fit(model: jf.Model) -> Tensor:
    """[layer, d]: the difference of means at the last token, as one writes it by hand."""
    means = []
    for texts in (POSITIVE, NEGATIVE):
        last = []
        for start in range(0, len(texts), 16):
            given = model.tokenizer(list(texts[start : start + 16]), return_tensors="pt",
                                    padding=True, padding_side="left")  # fmt: skip
            with torch.no_grad():
                out = model.module.model(**given, output_hidden_states=True)
            last.append(torch.stack([hidden[:, -1] for hidden in out.hidden_states[1:]]))
        means.append(torch.cat(last, dim=1).mean(dim=1))
    return means[0] - means[1]


_PEAK = """
import jackfield as jf
def status(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) / 1e3
m = jf.load("smollm2")
plus, minus = ([t for _ in range(99) for t in s][:{pairs}] for s in
               (jf.steering.JOYFUL, jf.steering.SORROWFUL))
method = jf.steering.MeanDifference()
method.fit_all(m, positive=plus[:16], negative=minus[:16])
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
before = status("VmRSS")
method.fit_all(m, positive=plus, negative=minus)
print(f"{{status('VmHWM') - before:.0f}}")
"""
