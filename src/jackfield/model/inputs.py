"""Inputs: what a user may give to run on, made into what the module takes.

Padding never changes a result: attention masks and position ids are always passed explicitly, so
a row gives the same numbers alone, in a batch, padded left or right.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from jackfield.core.errors import InputError, explain

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Inputs:
    """The call to make and what is known of its tokens.

    Attributes:
        call: keyword arguments of the module; `args` positional ones.
        tokens: [batch, position] ids, or None for a model without tokens.
        mask: [batch, position] True on real tokens.
        spans, roles: the role of each token of a chat.
    """

    call: dict[str, Any]
    tokens: Tensor | None = None
    mask: Tensor | None = None
    spans: Tensor | None = None
    roles: tuple[str, ...] = ()
    args: tuple[Any, ...] = field(default=())


def encode(
    tokenizer: Any, texts: Sequence[str], *, side: Side, limit: int | None, where: str
) -> tuple[Int[Tensor, "batch position"], Bool[Tensor, "batch position"]]:
    """Token ids and mask of texts, padded on one side.

    Raises:
        InputError: no texts, an empty text, or one longer than the context.
    """
    if tokenizer is None:
        raise InputError(
            explain(
                where=where,
                expected="a tokenizer, to run on text",
                got="none",
                hint="Give token ids, or jf.wrap(module, tokenizer=...).",
            )
        )
    if not texts:
        raise InputError(explain(where=where, expected="at least one text", got="an empty list"))
    rows = [tokenizer(text)["input_ids"] for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if not text or not row:
            raise InputError(explain(where=where, expected="texts with at least a token", got="''"))
        check_length(len(row), limit, where)
    return pad(rows, side=side, value=tokenizer.pad_token_id or 0)


def pad(
    rows: Sequence[Sequence[int]], *, side: Side, value: int
) -> tuple[Int[Tensor, "batch position"], Bool[Tensor, "batch position"]]:
    """Rows of ids as one tensor, with a mask that is True on them."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[index, place] = torch.tensor(row)
        mask[index, place] = True
    return ids, mask


def encode_chats(
    tokenizer: Any,
    chats: Sequence[Sequence[Mapping[str, str]]],
    *,
    limit: int | None,
    where: str,
    answer: bool = False,
) -> tuple[list[list[int]], list[list[int]] | None, tuple[str, ...]]:
    """Ids of chats by the model's own template, the role of each token as an index, the roles.

    A message's span is what the template adds for it, its markers included. With `answer` the
    template's marker for an answer follows, as the assistant's. The spans are None where the
    template writes earlier messages anew when later ones follow.

    Raises:
        InputError: no template, or one that refuses the chat.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise InputError(explain(where=where, expected="a chat template, for messages", got="none"))
    named = [message.get("role") for chat in chats for message in chat]
    if not all(isinstance(role, str) for role in named):
        expected = "messages such as {'role': 'user', 'content': 'Hi'}"
        raise InputError(explain(where=where, expected=expected, got="one without a role"))
    roles: tuple[Any, ...] = tuple(dict.fromkeys([*named, *(["assistant"] if answer else [])]))
    rows = [_templated(tokenizer, chat, where, answer) for chat in chats]
    for row in rows:
        check_length(len(row), limit, where)
    spans = [
        _spans(tokenizer, chat, row, roles, where) for chat, row in zip(chats, rows, strict=True)
    ]
    known = [span for span in spans if span is not None]
    return rows, known if len(known) == len(rows) else None, roles


def positions_of(mask: Bool[Tensor, "batch position"]) -> Int[Tensor, "batch position"]:
    """Position ids: the index among the real tokens of the row, 0 on padding."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def token_call(
    module: nn.Module,
    tokens: Int[Tensor, "batch position"],
    mask: Bool[Tensor, "batch total"],
    device: torch.device,
) -> dict[str, Any]:
    """Keyword arguments for tokens, with mask and position ids wherever the module takes them.

    `mask` may be longer than `tokens`: then its first part is what the cache holds.
    """
    takes = arguments(module)
    call: dict[str, Any] = {"input_ids": tokens.to(device)}
    if "attention_mask" in takes:
        call["attention_mask"] = mask.long().to(device)
    if "position_ids" in takes:
        positions = positions_of(mask)[:, -tokens.shape[1] :] + first_position(module)
        call["position_ids"] = positions.to(device)
    return call


def first_position(module: nn.Module) -> int:
    """The position id of a row's first token: 0, but after the padding's in RoBERTa's kin."""
    embeddings = getattr(getattr(module, "base_model", module), "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def arguments(module: nn.Module) -> frozenset[str]:
    """The names of the arguments of the module's forward."""
    return frozenset(inspect.signature(module.forward).parameters)


def context_limit(config: Any) -> int | None:
    """The longest input that the model's positions allow, None where it has no bound."""
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(getattr(config, name, None), int):
            return int(getattr(config, name))
    return None


def check_tokens(tokens: Tensor, vocabulary: int | None, limit: int | None, where: str) -> None:
    """Fails on ids of the wrong shape or outside the vocabulary.

    Raises:
        InputError: says which.
    """
    if tokens.dim() != 2 or tokens.dtype not in (torch.int64, torch.int32) or not tokens.numel():
        got = f"{list(tokens.shape)} {tokens.dtype}"
        raise InputError(explain(where=where, expected="token ids [batch, position]", got=got))
    low, high = int(tokens.min()), int(tokens.max())
    if vocabulary is not None and (low < 0 or high >= vocabulary):
        got = str(low if low < 0 else high)
        raise InputError(explain(where=where, expected=f"ids from 0 to {vocabulary - 1}", got=got))
    check_length(tokens.shape[1], limit, where)


def check_length(length: int, limit: int | None, where: str) -> None:
    """Fails on more tokens than the model's context holds."""
    if limit is not None and length > limit:
        raise InputError(
            explain(
                where=where,
                expected=f"at most {limit} tokens (the model's context)",
                got=str(length),
            )
        )


def _spans(
    tokenizer: Any,
    chat: Sequence[Mapping[str, str]],
    row: list[int],
    roles: tuple[str, ...],
    where: str,
) -> list[int] | None:
    """The role of each token of a chat's `row`; what follows the last message is an answer."""
    span: list[int] = []
    for count in range(1, len(chat) + 1):
        try:
            prefix = _templated(tokenizer, chat[:count], where)
        except InputError:  # some templates refuse a chat that ends with this message
            return None
        if row[: len(prefix)] != prefix:
            return None
        span += [roles.index(chat[count - 1]["role"])] * (len(prefix) - len(span))
    rest = len(row) - len(span)
    return span + [roles.index("assistant")] * rest if rest else span


def _templated(
    tokenizer: Any, chat: Sequence[Mapping[str, str]], where: str, answer: bool = False
) -> list[int]:
    from jinja2 import TemplateError

    render = tokenizer.apply_chat_template
    try:
        text = render(list(chat), tokenize=False, add_generation_prompt=answer)
    except TemplateError as error:
        expected = "messages that the model's chat template takes"
        raise InputError(explain(where=where, expected=expected, got=str(error))) from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
