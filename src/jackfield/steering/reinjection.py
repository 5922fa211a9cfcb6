"""Reinjection: add again, in later blocks, what the parts that carry a fact have said.

Which parts carry facts is found by causal tracing: the subject's embeddings are covered with noise,
the clean output of one part m (attention or MLP of a middle block) is put back at the last token,
and the answer's probability says how much that brought back, its recovery rate:

    RR_m = Σ (p_restored − p_corrupt) / Σ (p_clean − p_corrupt)            sums over facts

The parts with the largest rates are then heard twice. At chosen later sites, at every token that
`where` chooses, so at each step of decoding,

    h ← h + λ ‖h‖ s / ‖s‖,        s = Σ_m RR_m o_m        o_m [d]: the output of m at this token

Li et al. 2025 (arXiv 2511.05923): FCCT, the tracing, and IRI, the injection, for images in
vision-language models. Our reading: the injection's formula is not confirmed there; we take the
outputs of the same forward, the rates over all facts, and leave out parts with a rate of 0 or
less. The text version, with the subject's tokens in the place of the image's, is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, SiteError, explain
from jackfield.core.fitted import Method
from jackfield.core.progress import Progress
from jackfield.core.sites import layer_of
from jackfield.edits import Replace
from jackfield.steering.behaviours import word_ids
from jackfield.steering.reinjected import Reinjected

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class Reinjection(Method):
    """Finds the parts that carry facts, and adds what they say again later.

    Attributes:
        keep: how many parts, those with the largest rates.
        noise: on the subject, in standard deviations of the subjects' embeddings.
        draws: of the noise, for each fact.
        seed: of the noise.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> prompts = world.tokens[:4]
    >>> likeliest = world.model.run(prompts).logits[:, -1].argmax(dim=-1).tolist()
    >>> facts = {"prompts": prompts, "subjects": [(2, 3)] * 4, "answers": likeliest}
    >>> sites = {"sources": "layers.0:2.mlp_out", "at": "layers.2.resid_post"}
    >>> Reinjection(draws=2).fit(world.model, **facts, **sites).rates.shape
    torch.Size([2])
    """

    keep: int = setting(default=4, ge=1)
    noise: float = setting(default=3.0, gt=0)
    draws: int = setting(default=4, ge=1)
    seed: int = 0

    def fit(
        self,
        model: "Model",
        *,
        prompts: Any,
        subjects: Sequence[str | Sequence[int]],
        answers: Sequence[str | int],
        sources: str | Sequence[str],
        at: str | Sequence[str],
        progress: bool = False,
    ) -> Reinjected:
        """Traces facts, and picks the parts.

        Args:
            model: a language model that knows the facts.
            prompts: texts, or token ids [fact, position]; each goes on with its answer.
            subjects: words of each prompt to cover, or the positions of their tokens.
            answers: one token each, text with its leading space, or an id.
            sources: attn_out and mlp_out of middle blocks, or a pattern of them.
            at: where to add, in later blocks: a resid_post, or a pattern.
            progress: show a live line.

        Raises:
            InputError: no facts, not as many of each, a subject that is not in its prompt, or
                noise that does not lower the probability of the answers.
            SiteError: a place to add that does not come after all parts that are kept.
        """
        names, targets = model.sites.select(sources), tuple(model.sites.select(at))
        _check_order(model, names, targets)
        facts = _facts(model, prompts, subjects, answers)
        spread = self.noise * torch.cat([each.embed[each.subject] for each in facts]).std()
        gaps, gains, clean = [], [], []
        with Progress("tracing", total=len(facts), unit="facts", enabled=progress) as shown:
            for index, fact in enumerate(facts):
                p_clean, p_corrupt, restored = self._traced(model, fact, names, spread, index)
                gaps.append(p_clean - p_corrupt)
                gains.append(restored - p_corrupt)
                clean.append(p_clean)
                shown.update(1)
        gap = torch.tensor(gaps, dtype=torch.float64)
        if not float(gap.sum()) > 0:
            where, expected = f"{model.name}, Reinjection", "noise that covers the answers"
            hint = "Facts that it does not know, or too little noise."
            got = f"a gap of {float(gap.sum()):.3g}"
            raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
        return Reinjected(
            rates=(torch.stack(gains).sum(dim=0) / gap.sum()).float(),
            sources=tuple(names),
            targets=targets,
            width=model.d_model,
            known=sum(clean) / len(clean),
            gap=float(gap.mean()),
            facts=len(facts),
            model=model.name,
            method={"name": "Reinjection", **to_json(self)},
        )

    def _traced(
        self, model: "Model", fact: "_Fact", sources: Sequence[str], spread: Tensor, index: int
    ) -> tuple[float, float, Float[Tensor, " source"]]:
        """The answer's probability clean, covered, and with each source restored."""
        clean = model.run(fact.tokens, sites=list(sources))
        if not all(bool(torch.isfinite(clean[name]).all()) for name in sources):
            where, expected = f"{model.name}, Reinjection", "finite activations"
            raise InputError(explain(where=where, expected=expected, got="NaN or Inf"))
        tokens = fact.tokens.expand(self.draws, -1)
        x = fact.embed.repeat(self.draws, 1, 1)
        drawn = torch.Generator().manual_seed(self.seed + index)
        noise = torch.randn(x[:, fact.subject].shape, generator=drawn)
        x[:, fact.subject] += spread * noise.to(x)
        starts = {name: f"layers.{layer_of(name)}.resid_pre" for name in sources}
        covered = model.run(
            tokens, sites=list(dict.fromkeys(starts.values())), edits=[Replace(x, at="embed")]
        )
        restored = []
        for name in sources:
            put = Replace(clean[name][:, -1:], at=name, where="last")
            start = {starts[name]: covered[starts[name]]}
            restored.append(fact.probability(model.run(tokens, edits=[put], start=start).logits))
        p = [fact.probability(run.logits) for run in (clean, covered)]
        return p[0], p[1], torch.tensor(restored, dtype=torch.float64)


@dataclass(frozen=True)
class _Fact:
    """A prompt [1, position], its embedding, the places of its subject, and its answer's id."""

    tokens: Int[Tensor, "1 position"]
    embed: Float[Tensor, "position d"]
    subject: list[int]
    answer: int

    def probability(self, logits: Float[Tensor, "draw position vocab"]) -> float:
        return float(logits[:, -1].double().softmax(dim=-1)[:, self.answer].mean())


def _facts(model: "Model", prompts: Any, subjects: Any, answers: Any) -> list[_Fact]:
    where = f"{model.name}, Reinjection"
    counts = [len(each) for each in (prompts, subjects, answers)]
    if not min(counts) or len(set(counts)) > 1:
        expected = "as many prompts, subjects and answers, and at least one"
        raise InputError(explain(where=where, expected=expected, got=str(counts)))
    facts = []
    for prompt, subject, answer in zip(prompts, subjects, answers, strict=True):
        run = model.run(prompt, sites=["embed"], logits=False)
        assert run.tokens is not None
        places = _places(model, prompt, subject, where)
        (said,) = word_ids(model, [answer]).tolist()
        facts.append(_Fact(run.tokens.cpu(), run["embed"][0].cpu(), places, said))
    return facts


def _places(model: "Model", prompt: Any, subject: str | Sequence[int], where: str) -> list[int]:
    """The positions of the subject's tokens."""
    if not isinstance(subject, str):
        return [int(each) for each in subject]
    start = prompt.find(subject)
    if start < 0 or not subject:
        raise InputError(explain(where=where, expected=f"{subject!r} in {prompt!r}", got="none"))
    spans = model.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    end = start + len(subject)
    return [i for i, (a, b) in enumerate(spans) if a < end and b > start]


def _check_order(model: "Model", sources: Sequence[str], targets: Sequence[str]) -> None:
    order = {name: index for index, name in enumerate(model.sites.names())}
    for name in (*sources, *targets):
        if layer_of(name) is None or name not in order:
            where, expected = f"{model.name}, {name}", "a whole site in the blocks"
            raise SiteError(explain(where=where, expected=expected, got=name))
    last = max(sources, key=order.__getitem__)
    first = min(targets, key=order.__getitem__)
    if order[last] >= order[first]:
        where, expected = f"{model.name}, Reinjection", f"places to add after {last}"
        raise SiteError(explain(where=where, expected=expected, got=first))
