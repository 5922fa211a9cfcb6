"""The cost of edits: how much worse a language model predicts a text while they act.

    cost = language_cost(model, jf.corpus("docs"), {"WINA 50 %": fitted.edits()}, max_tokens=4000)
    cost.report()

For every token but the first of a piece of text, from the same forward on the same tokens:

    loss          −log p(token)                            nats;  perplexity = exp(mean loss)
    KL            Σ_v p(v) log (p(v) / p'(v))              nats,  p without edits, p' with them

Which tokens the edits act on is theirs to say (`where`); the losses of all tokens count, those at
the sinks too. Intervals are 95 % bootstrap intervals over documents, as the tokens of one document
are alike; they are of the edits' cost on this text, not of the model on others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.study import Result
from jackfield.edits import Edit
from jackfield.reports import Report, Table
from jackfield.reports.intervals import bootstrap_weights, tails
from jackfield.streams import TokenBatch, corpus, padded_batches

if TYPE_CHECKING:
    from jackfield.model.model import Model

NONE = "none"


@dataclass(frozen=True)
class LanguageCost(Result):
    """Sums over the tokens of each document, for each variant.

    Attributes:
        model: its name.
        variants: names; the first, "none", is the model without edits.
        tokens: [document] how many tokens were predicted.
        loss: [variant, document] the sum of −log p, in nats.
        kl: [variant, document] the sum of the KL divergence from the model without edits, in nats.
    """

    model: str
    variants: tuple[str, ...]
    tokens: Tensor
    loss: Tensor
    kl: Tensor

    def perplexity(self, variant: str = NONE) -> tuple[float, float, float]:
        """exp(mean loss) and its interval: value, low, high."""
        mean, draws = self._ratios(self.loss[self._index(variant)])
        return _with_interval(mean.exp(), draws.exp())

    def change(self, variant: str, versus: str = NONE) -> tuple[float, float, float]:
        """Perplexity as a multiple of another variant's, paired by document: value, low, high."""
        apart = self.loss[self._index(variant)] - self.loss[self._index(versus)]
        mean, draws = self._ratios(apart)
        return _with_interval(mean.exp(), draws.exp())

    def divergence(self, variant: str) -> tuple[float, float, float]:
        """Mean KL in nats a token: value, low, high."""
        return _with_interval(*self._ratios(self.kl[self._index(variant)]))

    def report(self) -> Report:
        """Perplexity, its change and the KL, each with its interval."""
        columns = [
            *("edits", "perplexity", "low", "high"),
            *("times that of none", "low ×", "high ×"),
            *("KL (nats)", "low KL", "high KL"),
        ]
        rows = [
            [name, *self.perplexity(name), *self.change(name), *self.divergence(name)]
            for name in self.variants
        ]
        total, documents = int(self.tokens.sum()), len(self.tokens)
        caption = f"{total:,} tokens of {documents} documents; 95 % intervals over documents."
        worst = max(self.variants, key=lambda name: self.change(name)[0])
        summary = (
            f"{self.model}: perplexity {self.perplexity()[0]:.2f} without edits; the dearest, "
            f"{worst}, multiplies it by {self.change(worst)[0]:.2f}."
        )
        return Report(
            "What the edits cost", [Table(columns, rows, caption=caption)], summary=summary
        )

    def _index(self, variant: str) -> int:
        if variant not in self.variants:
            expected = f"one of {', '.join(self.variants)}"
            raise InputError(explain(where="language cost", expected=expected, got=repr(variant)))
        return self.variants.index(variant)

    def _ratios(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over tokens, and the same for documents drawn with replacement: [draw]."""
        weights = bootstrap_weights(len(sums))
        means = (weights @ sums.double()) / (weights @ self.tokens.double())
        return sums.sum() / self.tokens.sum(), means


def language_cost(
    model: "Model",
    texts: Any,
    variants: Mapping[str, Sequence[Edit]],
    *,
    max_tokens: int = 4096,
    context: int = 256,
    batch_tokens: int = 512,
) -> LanguageCost:
    """Runs a text without edits and with each of several lists of them.

    Args:
        model: a causal language model with a tokenizer.
        texts: a corpus, or what `jf.corpus` takes.
        variants: name → edits.
        max_tokens: how many tokens to read; whole documents, so it can be a few less.
        context: of each document so many tokens, from its beginning.
        batch_tokens: positions in one forward; a forward holds logits of all of them twice.

    Raises:
        InputError: no text of at least two tokens, or a variant called "none".
    """
    if NONE in variants:
        got = f"{NONE!r}, which is the model without edits"
        raise InputError(explain(where="language_cost", expected="names of variants", got=got))
    lists: list[Sequence[Edit]] = [(), *variants.values()]
    sums: dict[int, Tensor] = {}
    pieces = _pieces(model, texts, max_tokens, min(context, model.context or context))
    for batch in padded_batches(pieces, context=context, batch_tokens=batch_tokens):
        for document, found in _measured(model, batch, lists):
            sums[document] = sums.get(document, torch.zeros_like(found)) + found
    if not sums:
        expected = "a document of at least two tokens"
        raise InputError(explain(where="language_cost", expected=expected, got="none"))
    table = torch.stack(list(sums.values()), dim=-1)  # [tokens, losses ..., KLs ...; document]
    loss, kl = table[1:].chunk(2)
    return LanguageCost(model.name, (NONE, *variants), table[0], loss, kl)


def _pieces(
    model: "Model", texts: Any, max_tokens: int, context: int
) -> Iterator[tuple[int, list[int]]]:
    """The beginning of each document, until `max_tokens` are reached."""
    if model.tokenizer is None:
        got = "a model without one"
        raise InputError(explain(where=model.name, expected="a tokenizer", got=got))
    read = 0
    for document in corpus(texts):
        ids = model.tokenizer(document.text, verbose=False)["input_ids"][:context]
        read += len(ids)
        if read > max_tokens:
            return
        yield document.id, ids


def _measured(
    model: "Model", batch: TokenBatch, variants: Sequence[Sequence[Edit]]
) -> Iterator[tuple[int, Tensor]]:
    """For each document in a batch: tokens, then the loss of each variant, then the KL of each."""
    predicted = batch.attention_mask[:, 1:].bool()
    documents, next_tokens = batch.document[:, 1:][predicted], batch.input_ids[:, 1:][predicted]
    call = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    plain, losses, divergences = None, [], []
    for edits in variants:
        logits = model.run(call, edits=edits).logits[:, :-1].cpu()[predicted]
        log_p = logits.float().log_softmax(dim=-1)
        plain = log_p if plain is None else plain
        losses.append(-log_p.gather(1, next_tokens[:, None])[:, 0])
        divergences.append((plain.exp() * (plain - log_p)).sum(dim=-1))
    rows = torch.stack([torch.ones_like(losses[0]), *losses, *divergences]).double()
    for document in documents.unique().tolist():
        yield document, rows[:, documents == document].sum(dim=1)


def _with_interval(value: Tensor, draws: Tensor) -> tuple[float, float, float]:
    low, high = tails(draws).tolist()
    return float(value), low, high
