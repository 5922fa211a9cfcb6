"""Generation with edits and reads: batched, cached, token by token.

Prompts are padded on the left, positions are absolute in each row, and edits see at each step
which tokens they have before them. The result is that of the same edits without a cache (but for
edits that draw at random: a cache saves them from drawing anew for what was read before). What a
step has read are the tokens that are new to it, with any cache and with none: the prompt first,
then one token a row.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jackfield.core.errors import InputError, ModelError, explain, warn
from jackfield.edits import Edit
from jackfield.model.generation_steps import (
    Rows,
    Step,
    Stop,
    activations_of,
    decoded,
    lean,
    plan_of,
)
from jackfield.model.inputs import Inputs, arguments, check_length, token_call
from jackfield.model.session import Session

if TYPE_CHECKING:
    from jackfield.model.model import Model

Cache = Literal["dynamic", "static", "none"]


@dataclass(frozen=True)
class Generation:
    """What was generated: `texts[row]`; print it to read it.

    Attributes:
        prompts: the prompts as text.
        texts: the new text of each row, to its end of sequence.
        tokens: [batch, position] new ids, padded after a row's end.
        logits: [batch, position, vocab] that each new token was chosen from, if asked for.
    """

    prompts: list[str]
    texts: list[str]
    tokens: Int[Tensor, "batch position"]
    logits: Float[Tensor, "batch position vocab"] | None

    def __repr__(self) -> str:
        pairs = zip(self.prompts, self.texts, strict=True)
        return "\n\n".join(f"{prompt}⟶{text}" for prompt, text in pairs)


def generate(
    model: "Model",
    prompts: Any,
    *,
    edits: Sequence[Edit] = (),
    max_new_tokens: int = 50,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    cache: Cache = "dynamic",
    logits: bool = False,
    stop: Stop | None = None,
) -> Generation:
    """Generates for each prompt until its end of sequence or `max_new_tokens`.

    Args:
        model: a language model with a head.
        prompts: a text, texts, a chat or chats (the template's answer marker is added), or
            token ids [batch, position].
        edits: act on the prompt and on each new token as their `where` says.
        max_new_tokens: at most so many.
        temperature: 0 takes the likeliest token.
        top_k: sample among the k likeliest.
        top_p: sample among the fewest whose share reaches p.
        seed: of the sampling.
        cache: "dynamic" (follows the model's sliding windows), "static", or "none", which runs
            the whole text again at each step.
        logits: keep the logits of each step.
        stop: sees each step, and says which rows [batch] end before its token: they keep what
            they had, and are filled as after an end of sequence.

    Raises:
        InputError: prompts that cannot be run.
        ModelError: the model has no language-model head.
    """
    made = prompt_of(model, prompts)
    steps = stream(
        model, prompts, edits=edits, max_new_tokens=max_new_tokens, temperature=temperature,
        top_k=top_k, top_p=top_p, seed=seed, cache=cache, stop=stop,
    )  # fmt: skip
    kept = [lean(step, logits=logits) for step in steps]
    return gathered(model, made, kept, logits=logits)


def stream(
    model: "Model",
    prompts: Any,
    *,
    edits: Sequence[Edit] = (),
    max_new_tokens: int = 50,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    cache: Cache = "dynamic",
    sites: str | Sequence[str] = (),
    stop: Stop | None = None,
) -> Iterator[Step]:
    """`generate` as an iterator of steps; the model is edited only while a step is made.

    Each step has the activations of `sites`, names or patterns, as the edits left them; what a raw
    module path gives depends on the cache. The other arguments are those of `generate`.

    Raises:
        SiteError: a site that cannot be read token by token.
    """
    _check_settings(model, max_new_tokens, temperature, top_k, top_p)
    made = prompt_of(model, prompts)
    assert made.tokens is not None
    assert made.mask is not None
    longest = int(made.mask.sum(-1).max()) + max_new_tokens - 1  # the last one is not read again
    check_length(longest, model.context, f"{model.name}.generate, prompt and max_new_tokens")
    plan = plan_of(model, made.tokens, sites, edits)
    session = Session(
        sinks=model.sinks_for(plan.edits),
        lengths=made.mask.sum(-1),
        spans=made.spans,
        roles=made.roles,
    )
    rows, mask = Rows(model, made.tokens), made.mask
    past = _new_cache(model, cache, rows.tokens.shape[1] + max_new_tokens)
    generator = torch.Generator().manual_seed(seed)
    for left in reversed(range(max_new_tokens)):
        fresh = rows.tokens[:, rows.read :]
        given = fresh if past is not None else rows.tokens
        with torch.no_grad(), model.claimed(), plan.installed(session):
            last = _last_logits(model, given, mask, past, whole="logits" in plan.reads)
        plan.check_fired(session, model.name)
        new = _choose(last, temperature, top_k, top_p, generator)
        own = mask[:, -fresh.shape[1] :] & ~rows.ended[:, None].to(mask.device)
        read = activations_of(model, plan, session, fresh.shape[1], static=cache == "static")
        step = rows.offered(new, Step(new, [], last, own, rows.ended, read), final=not left)
        if stop is not None:
            step = rows.stopped(step, stop(step), final=not left)
        rows.take(step)
        yield step
        if bool(rows.ended.all()):
            return
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)


def gathered(
    model: "Model", made: Inputs, steps: Sequence[Step], *, logits: bool = False
) -> Generation:
    """The steps of one `stream` as one `Generation`; `made` is what `prompt_of` gave."""
    assert made.tokens is not None
    assert made.mask is not None
    tokens = torch.stack([step.tokens for step in steps], dim=1)
    kept = (~torch.stack([step.ended for step in steps], dim=1)).sum(dim=1)
    rows = zip(made.tokens, made.mask, strict=True)
    return Generation(
        prompts=[decoded(model, ids[mask]) for ids, mask in rows],
        texts=[decoded(model, row[:count]) for row, count in zip(tokens, kept, strict=True)],
        tokens=tokens,
        logits=torch.stack([step.logits for step in steps], dim=1) if logits else None,
    )


def copied(past: Any) -> Any:
    """A cache of its own with the same content, so that one prefix serves many runs."""
    return copy.deepcopy(past)


def prompt_of(model: "Model", prompts: Any) -> Inputs:
    """The prompts as a generation reads them: padded on the left, a chat open for its answer.

    Raises:
        InputError: they cannot be run.
        ModelError: the model has no language-model head.
    """
    if not hasattr(model.module, "generate") or "logits" not in model.sites:
        raise ModelError(
            explain(
                where=f"{model.name}.generate",
                expected="a language model with a head",
                got=type(model.module).__name__,
            )
        )
    made = model.inputs(prompts, padding="left", answer=True)
    if made.tokens is None:
        raise InputError(
            explain(where=f"{model.name}.generate", expected="text or token ids", got="tensors")
        )
    return made


def _check_settings(
    model: "Model", count: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    where = f"{model.name}.generate"
    if count < 1:
        raise InputError(explain(where=where, expected="max_new_tokens >= 1", got=str(count)))
    if not temperature >= 0:
        raise InputError(explain(where=where, expected="temperature >= 0", got=str(temperature)))
    if top_k is not None and top_k < 1:
        raise InputError(explain(where=where, expected="top_k >= 1", got=str(top_k)))
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(explain(where=where, expected="0 < top_p <= 1", got=str(top_p)))
    if temperature == 0 and (top_k is not None or top_p is not None):
        warn("top_k and top_p have no effect at temperature 0, which takes the likeliest token.")


def _new_cache(model: "Model", kind: Cache, length: int) -> Any:
    if kind == "none":
        return None
    from transformers import DynamicCache, StaticCache

    config: Any = model.module.config
    if kind == "static":
        return StaticCache(config=config, max_cache_len=length)
    return DynamicCache(config=config)


def _last_logits(
    model: "Model", tokens: Tensor, mask: Tensor, past: Any, *, whole: bool
) -> Float[Tensor, "batch vocab"]:
    call = token_call(model.module, tokens, mask, model.device)
    takes = arguments(model.module)
    call["use_cache"] = past is not None
    if past is not None:
        call["past_key_values"] = past
    if "logits_to_keep" in takes and not whole:
        call["logits_to_keep"] = 1
    last = model.module(**call).logits[:, -1].float()
    return last.clone() if whole else last  # a part would keep the logits of the whole prompt


def _choose(
    logits: Float[Tensor, "batch vocab"],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> Int[Tensor, "batch"]:  # noqa: F821
    if temperature == 0:
        return logits.argmax(-1).cpu()
    from transformers import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p and top_p < 1 else []
    shares = torch.softmax(warpers(None, logits), dim=-1).cpu()  # type: ignore[arg-type]
    return torch.multinomial(shares, 1, generator=generator)[:, 0]
