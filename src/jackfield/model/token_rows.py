"""Token rows: documents to batches of tokens, and batches to rows of activations.

Which tokens become rows is a matter of the tokens alone: `planned` tells it without running the
model, `read` runs one batch. `LiveStream` puts the two together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from jackfield.core import where as rules
from jackfield.core.errors import InputError, SiteError, explain
from jackfield.core.where import Coordinates
from jackfield.edits import Edit
from jackfield.model import sinks
from jackfield.model.inputs import Inputs, arguments, first_position
from jackfield.model.run import Run, execute
from jackfield.streams import Batch, Document, TokenBatch, packed_batches, padded_batches
from jackfield.streams.tokenised import Tokenised, tokenised

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass
class Tally:
    """What `long="cut"` left out in a pass."""

    tokens: int = 0
    documents: int = 0


@dataclass(frozen=True, eq=False)
class TokenRows:
    """A model read token by token; the fields are `LiveStream`'s arguments."""

    model: "Model"
    sites: tuple[str, ...]
    batch_tokens: int
    context: int
    pack: bool
    long: Literal["split", "cut"]
    where: rules.Where
    keep_special: bool
    dtype: torch.dtype | None
    edits: tuple[Edit, ...]

    @property
    def sinks(self) -> tuple[int, ...]:
        """The sink positions that the rule speaks of; none if it does not."""
        return self.model.sinks if sinks.mentioned(self.where) else ()

    def documents(self, corpus: Iterable[Document], tally: Tally) -> Iterator[Tokenised]:
        """Tokenises; with `long="cut"` each document is what fits the context."""
        begin = self._begin()
        for document in corpus:
            whole = tokenised(document, self.model.tokenizer)
            if self.long == "split":
                yield whole
                continue
            room = self.context - (begin is not None and list(whole.tokens[:1]) != [begin])
            cut = whole.cut(room)
            tally.tokens += len(whole.tokens) - len(cut.tokens)
            tally.documents += len(cut.tokens) < len(whole.tokens)
            yield cut

    def planned(
        self, documents: Iterable[tuple[int, Sequence[int]]]
    ) -> Iterator[tuple[TokenBatch, Bool[Tensor, "batch position"]]]:
        """The batches that are to be run, and which of their tokens become rows."""
        tokenizer = self.model.tokenizer
        options: dict[str, Any] = {
            "context": self.context,
            "batch_tokens": self.batch_tokens,
            "pad": tokenizer.pad_token_id or 0,
            "bos": self._begin(),
        }
        if self.pack:
            made = packed_batches(documents, eos=tokenizer.eos_token_id, **options)
        else:
            made = padded_batches(documents, **options)
        left_out = [] if self.keep_special else tokenizer.all_special_ids
        special = torch.tensor(left_out, dtype=torch.int64)
        for batch in made:
            yield batch, self._chosen(batch) & ~torch.isin(batch.input_ids, special)

    def read(self, given: TokenBatch, chosen: Bool[Tensor, "batch position"]) -> Batch:
        """One forward, and its rows."""
        run = self._run(given, self.edits)
        at = chosen.flatten().nonzero().flatten()  # six times as fast as a mask
        values = {
            site: run[site].flatten(0, 1).index_select(0, at.to(run[site].device))
            for site in self.sites
        }
        return Batch(
            {site: x if self.dtype is None else x.to(self.dtype) for site, x in values.items()},
            given.input_ids[chosen],
            given.document[chosen],
            given.doc_position[chosen],
        )

    def check_apart(self) -> None:
        """Fails where packed documents would see each other.

        It looks: two rows whose first documents differ must give the same for their second one.

        Raises:
            InputError: they do not.
        """
        length = max(1, min(8, self.context // 2))
        size = int(self.model.config.vocab_size)
        first = torch.arange(2 * length).reshape(2, length)
        ids = torch.cat([first, torch.arange(length).expand(2, -1) + 2 * length], dim=1) % size
        positions = torch.arange(length).repeat(2).expand(2, -1)
        real, none = torch.ones_like(ids), torch.zeros_like(ids)
        run = self._run(TokenBatch(ids, real, positions, none, none), ())
        for site in self.sites:
            one, other = run[site][:, length:].float()
            if not torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max())):
                expected = "a model whose masks keep packed documents apart"
                got = f"{type(self.model.module).__name__}, in which they see each other"
                where = f"{self.model.name}.stream, pack"
                raise InputError(
                    explain(where=where, expected=expected, got=got, hint="Say pack=False.")
                )

    def _begin(self) -> int | None:
        """The token that this model expects before every text, which later chunks need too."""
        begin: int | None = self.model.tokenizer.bos_token_id
        return begin if self.model.tokenizer("a")["input_ids"][:1] == [begin] else None

    def _chosen(self, given: TokenBatch) -> Tensor:
        """[batch, position] the documents' tokens that the rule chooses."""
        positions = given.position_ids.masked_fill(given.attention_mask == 0, -1)
        lengths = positions.amax(-1) + 1
        at = Coordinates(positions, lengths, given.input_ids, self.sinks)
        return (given.document >= 0) & self.where.mask(at)

    def _run(self, given: TokenBatch, edits: Sequence[Edit]) -> Run:
        return execute(
            self.model, self._inputs(given), sites=self.sites, edits=edits, grad=False,
            logits=False, start=None, past=None, lengths=None,
        )  # fmt: skip

    def _inputs(self, given: TokenBatch) -> Inputs:
        """Without a mask, transformers keeps apart what begins anew in the position ids."""
        model, mask = self.model, given.attention_mask.bool()
        takes = arguments(model.module)
        positions = given.position_ids + first_position(model.module)
        call = {"input_ids": given.input_ids, "position_ids": positions}
        if not self.pack:
            call["attention_mask"] = given.attention_mask
        call = {name: value.to(model.device) for name, value in call.items() if name in takes}
        if "use_cache" in takes:
            call["use_cache"] = False  # type: ignore[assignment]
        return Inputs(call, given.input_ids, mask)


def check_rules(model: "Model", given: Sequence[rules.Where], pack: bool) -> None:
    """Refuses rules that speak of a row of the batch, or of its end: these are not the user's.

    Raises:
        InputError: names the rule.
    """
    for rule in given:
        if rules.depends_on_row(rule) or (pack and rules.depends_on_prompt(rule)):
            packed = " or the end of a packed row" if pack else ""
            raise InputError(
                explain(
                    where=f"{model.name}.stream, where",
                    expected=f"a rule that does not name rows of a batch{packed}",
                    got=str(rule),
                )
            )


def check_axes(model: "Model", names: Sequence[str]) -> None:
    """Refuses sites without a row a token.

    Raises:
        SiteError: names the site and its axes.
    """
    for name in names:
        axes = model.sites[name].axes
        if axes and axes[:2] != ("batch", "position"):
            raise SiteError(
                explain(
                    where=f"{model.name}.stream, {name}",
                    expected="a site with a row a token: first axes batch and position",
                    got=f"[{' '.join(axes)}]",
                )
            )
