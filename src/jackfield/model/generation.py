"""Generation with edits: batched, cached, token by token.

Prompts are padded on the left, positions are absolute in each row, and edits see at each step
which tokens they have before them. The result is that of the same edits without a cache (but for
edits that draw at random: a cache saves them from drawing anew for what was read before).
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
from jackfield.model.inputs import Inputs, arguments, check_length, token_call
from jackfield.model.session import Session

if TYPE_CHECKING:
    from jackfield.model.model import Model

Cache = Literal["dynamic", "static", "none"]


@dataclass(frozen=True)
class Step:
    """One new token in each row: ids [batch] and the text they add.

    The text is "" in rows that have ended, and while a character still lacks tokens.
    """

    tokens: Int[Tensor, "batch"]  # noqa: F821
    texts: list[str]
    logits: Float[Tensor, "batch vocab"]


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

    Raises:
        InputError: prompts that cannot be run.
        ModelError: the model has no language-model head.
    """
    made = _prompt(model, prompts)
    steps = list(
        stream(
            model,
            prompts,
            edits=edits,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            cache=cache,
        )
    )
    assert made.tokens is not None
    assert made.mask is not None
    tokens = torch.stack([step.tokens for step in steps], dim=1)
    rows = zip(made.tokens, made.mask, strict=True)
    return Generation(
        prompts=["".join(_decode(model, ids[mask])) for ids, mask in rows],
        texts=["".join(_decode(model, _until_end(model, row))) for row in tokens],
        tokens=tokens,
        logits=torch.stack([step.logits for step in steps], dim=1) if logits else None,
    )


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
) -> Iterator[Step]:
    """`generate` as an iterator of steps; the model is edited only while a step is made."""
    _check_settings(model, max_new_tokens, temperature, top_k, top_p)
    made = _prompt(model, prompts)
    assert made.tokens is not None
    assert made.mask is not None
    longest = int(made.mask.sum(-1).max()) + max_new_tokens - 1  # the last one is not read again
    check_length(longest, model.context, f"{model.name}.generate, prompt and max_new_tokens")
    plan = model.plan((), edits)
    session = Session(
        sinks=model.sinks_for(plan.edits),
        lengths=made.mask.sum(-1),
        spans=made.spans,
        roles=made.roles,
    )
    tokens, mask, ended = made.tokens, made.mask, torch.zeros(len(made.tokens), dtype=torch.bool)
    past = _new_cache(model, cache, tokens.shape[1] + max_new_tokens)
    generator = torch.Generator().manual_seed(seed)
    said = [""] * len(tokens)
    for left in reversed(range(max_new_tokens)):
        given = tokens if past is None or not past.get_seq_length() else tokens[:, -1:]
        with torch.no_grad(), model.claimed(), plan.installed(session):
            last = _last_logits(model, given, mask, past)
        plan.check_fired(session, model.name)
        new = _choose(last, temperature, top_k, top_p, generator).where(~ended, _filler(model))
        ended = ended | torch.isin(new, _ends(model))
        tokens = torch.cat([tokens, new[:, None].to(tokens.device)], dim=1)
        over = ended if left else torch.ones_like(ended)
        yield Step(new, _said_now(model, tokens[:, made.tokens.shape[1] :], said, over), last)
        if bool(ended.all()):
            return
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)


def copied(past: Any) -> Any:
    """A cache of its own with the same content, so that one prefix serves many runs."""
    return copy.deepcopy(past)


def _prompt(model: "Model", prompts: Any) -> Inputs:
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
    model: "Model", tokens: Tensor, mask: Tensor, past: Any
) -> Float[Tensor, "batch vocab"]:
    call = token_call(model.module, tokens, mask, model.device)
    takes = arguments(model.module)
    call["use_cache"] = past is not None
    if past is not None:
        call["past_key_values"] = past
    if "logits_to_keep" in takes:
        call["logits_to_keep"] = 1
    return model.module(**call).logits[:, -1].float()


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


def _ends(model: "Model") -> Tensor:
    """Ids that end a row."""
    config = getattr(model.module, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    ends = model.config.eos_token_id if ends is None else ends
    listed = [] if ends is None else ends if isinstance(ends, list) else [ends]
    return torch.tensor(listed, dtype=torch.long)


def _filler(model: "Model") -> Tensor:
    ends = _ends(model)
    sources = (model.tokenizer, getattr(model.module, "generation_config", None), model.config)
    named = (getattr(source, "pad_token_id", None) for source in sources)
    padding = next((each for each in named if each is not None), None)
    return torch.tensor(padding if padding is not None else int(ends[0]) if len(ends) else 0)


def _until_end(model: "Model", row: Tensor) -> Tensor:
    at_end = torch.isin(row, _ends(model)).nonzero()
    return row[: int(at_end[0])] if len(at_end) else row


def _decode(model: "Model", ids: Tensor) -> str:
    if model.tokenizer is None:
        return " ".join(str(int(each)) for each in ids)
    return str(model.tokenizer.decode(ids))


def _said_now(model: "Model", rows: Tensor, said: list[str], over: Tensor) -> list[str]:
    """What each row's text has become longer by; `said` is brought up to date."""
    pieces = []
    for index, row in enumerate(rows.cpu()):
        text = _decode(model, _until_end(model, row))
        cut = text.endswith("\ufffd") and not over[index]  # a character of several tokens
        pieces.append("" if cut else text[len(said[index]) :])
        said[index] += pieces[-1]
    return pieces
