"""Answers in roles: a model is asked the same questions plainly and in many roles.

Every role is asked with every system prompt and every question, and answers with its likeliest
tokens. The default is the same questions without a system prompt of ours. What counts as an answer
in the role may be judged by a function that the caller gives; the paper has a language model judge
it. Reading is over the tokens of the answer alone, never over the words that ask for the role.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.progress import Progress
from jackfield.steering.axes.role_texts import QUESTIONS, ROLES, SYSTEM_PROMPTS

if TYPE_CHECKING:
    from jackfield.model.model import Model

Chat = list[dict[str, str]]
Judge = Callable[[str, str, str], bool]  # role, question, answer: is it in the role?
_CHATS = 16  # in one batch


@dataclass(frozen=True)
class RoleAnswers:
    """Answers of a model as itself and in roles.

    Attributes:
        default: chats that end with the model's own answer.
        roles: {role: chats}; roles without an answer that was kept are not among them.
        dropped: {role: answers that were empty or that the judge refused}.
    """

    default: tuple[Chat, ...]
    roles: Mapping[str, tuple[Chat, ...]]
    dropped: Mapping[str, int] = field(default_factory=dict)


@dataclass
class AnswersRead:
    """What was read of some answers.

    Attributes:
        rows: {site: [answer, d]} float64, the mean over the tokens of each.
        norms: {site: the sum of the lengths of the activation on those tokens}.
        tokens: how many tokens.
    """

    rows: dict[str, Tensor]
    norms: dict[str, float]
    tokens: int


def ask_roles(
    model: "Model",
    roles: Sequence[str] = ROLES,
    questions: Sequence[str] = QUESTIONS,
    *,
    system_prompts: Sequence[str] = SYSTEM_PROMPTS,
    max_new_tokens: int = 32,
    keep: Judge | None = None,
    progress: bool = False,
) -> RoleAnswers:
    """Has the model answer in each role, and as itself.

    Args:
        model: a chat model.
        roles: such as "a pirate".
        questions: what each is asked.
        system_prompts: with "{role}" in them.
        max_new_tokens: of an answer.
        keep: given role, question and answer, says whether to keep it; all are kept without one.
        progress: show a live line.

    Raises:
        InputError: no roles, questions or prompts, a prompt without "{role}", no answer kept.
    """
    _check(model, roles, questions, system_prompts)
    plain = [[_says("user", question)] for question in questions]
    asked = [
        (role, [_says("system", prompt.format(role=role)), _says("user", question)])
        for role in roles
        for prompt in system_prompts
        for question in questions
    ]
    with Progress(
        "asking", total=len(plain) + len(asked), unit="answers", enabled=progress
    ) as shown:
        default = _answered(model, plain, max_new_tokens, shown)
        chats = _answered(model, [chat for _, chat in asked], max_new_tokens, shown)
    kept: dict[str, list[Chat]] = {role: [] for role in roles}
    dropped = dict.fromkeys(roles, 0)
    for (role, _), chat in zip(asked, chats, strict=True):
        question, answer = chat[-2]["content"], chat[-1]["content"]
        if answer and (keep is None or keep(role, question, answer)):
            kept[role].append(chat)
        else:
            dropped[role] += 1
    found = {role: tuple(each) for role, each in kept.items() if each}
    own = tuple(chat for chat in default if chat[-1]["content"])
    if not found or not own:
        got = f"{len(own)} of the model as itself, and {len(found)} roles with one"
        raise InputError(explain(where=model.name, expected="answers that are kept", got=got))
    return RoleAnswers(own, found, dropped)


def read_answers(model: "Model", given: Any, sites: Sequence[str], *, name: str) -> AnswersRead:
    """The mean activation over the tokens of each answer.

    Args:
        model: the model to read.
        given: chats that end with an answer; or texts, or token ids [text, position], which are
            answers as a whole. Sinks are left out.
        sites: sites [batch, position, d].
        name: whose answers they are, for messages.

    Raises:
        InputError: no answers, one without a token, or numbers that are not finite.
    """
    where = f"{model.name}, answers of {name}"
    answers = [_tokens(model, each) for each in ([given] if isinstance(given, str) else given)]
    if not answers:
        raise InputError(explain(where=where, expected="at least one answer", got="none"))
    rows: dict[str, list[Tensor]] = {site: [] for site in sites}
    norms, tokens = dict.fromkeys(sites, 0.0), 0
    for first in range(0, len(answers), _CHATS):
        call, chosen = _batch(model, answers[first : first + _CHATS])
        if not bool(chosen.any(dim=1).all()):
            got = "one without, or of sinks alone"
            raise InputError(explain(where=where, expected="answers with a token", got=got))
        run = model.run(call, sites=list(sites), logits=False)
        tokens += int(chosen.sum())
        for site in sites:
            x = run[site].cpu().double()
            if not bool(torch.isfinite(x[chosen]).all()):
                got, at = "NaN or Inf", f"{where}, {site}"
                raise InputError(explain(where=at, expected="finite activations", got=got))
            rows[site].append(_means(x, chosen))
            norms[site] += float(x[chosen].norm(dim=-1).sum())
    return AnswersRead({site: torch.cat(parts) for site, parts in rows.items()}, norms, tokens)


def _check(
    model: "Model", roles: Sequence[str], questions: Sequence[str], prompts: Sequence[str]
) -> None:
    for what, given in (("role", roles), ("question", questions), ("system prompt", prompts)):
        if not given:
            expected = f"at least one {what}"
            raise InputError(explain(where=model.name, expected=expected, got="none"))
    bad = next((prompt for prompt in prompts if "{role}" not in prompt), None)
    if bad is not None:
        expected = "system prompts with {role} in them"
        raise InputError(explain(where=model.name, expected=expected, got=repr(bad)))


def _says(who: str, what: str) -> dict[str, str]:
    return {"role": who, "content": what}


def _answered(
    model: "Model", chats: Sequence[Chat], max_new_tokens: int, shown: Progress
) -> list[Chat]:
    found: list[Chat] = []
    for first in range(0, len(chats), _CHATS):
        part = list(chats[first : first + _CHATS])
        texts = model.generate(part, max_new_tokens=max_new_tokens).texts
        found += [
            [*c, _says("assistant", text.strip())] for c, text in zip(part, texts, strict=True)
        ]
        shown.update(len(part))
    return found


def _tokens(model: "Model", answer: Any) -> tuple[Int[Tensor, " position"], int]:
    """The ids of a conversation, and where its answer begins."""
    if isinstance(answer, (str, Tensor)):
        made = model.inputs(answer)
        assert made.tokens is not None
        return made.tokens[0].cpu(), 0
    made = model.inputs([list(answer[:-1])], answer=True)
    assert made.tokens is not None
    said = model.tokenizer(answer[-1]["content"], add_special_tokens=False)["input_ids"]
    asked = made.tokens[0].cpu()
    return torch.cat([asked, torch.tensor(said, dtype=asked.dtype)]), len(asked)


def _batch(
    model: "Model", answers: Sequence[tuple[Tensor, int]]
) -> tuple[dict[str, Tensor], Bool[Tensor, "answer position"]]:
    """Padded ids with their mask, and which tokens are of answers."""
    longest = max(len(ids) for ids, _ in answers)
    tokens = torch.zeros(len(answers), longest, dtype=torch.int64)
    mask, chosen = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
    for row, (ids, start) in enumerate(answers):
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
        chosen[row, start : len(ids)] = True
    sinks = [position for position in model.sinks if position < longest]
    chosen[:, sinks] = False
    return {"input_ids": tokens, "attention_mask": mask}, chosen


def _means(
    x: Float[Tensor, "answer position d"], chosen: Bool[Tensor, "answer position"]
) -> Float[Tensor, "answer d"]:
    weights = chosen.double()[..., None]
    return (x.where(chosen[..., None], torch.zeros(1).to(x)) * weights).sum(1) / weights.sum(1)
