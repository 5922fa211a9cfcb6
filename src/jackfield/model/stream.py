"""The live stream: activations of a model over a corpus, as a recipe for any number of passes.

    stream = model.stream(jf.corpus("docs"), sites=["layers.15.resid_post"], max_tokens=50_000)

Each row is one token of one document. Padding is never a row; special tokens and the model's sink
positions are left out unless asked for. Documents never see each other, packed or padded: what is
run in one piece gives the same rows however it is batched. (Where a document is longer than the
context, or than what is left of a packed row, each piece is run by itself.)
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jackfield.core import where as rules
from jackfield.core.errors import InputError, SiteError, explain
from jackfield.core.where import Coordinates
from jackfield.edits import Edit
from jackfield.model import sinks
from jackfield.model.inputs import Inputs, arguments, first_position
from jackfield.model.run import execute
from jackfield.streams import Batch, Stream, TokenBatch, corpus, packed_batches, padded_batches
from jackfield.streams.protocol import without_first

if TYPE_CHECKING:
    from jackfield.model.model import Model


class LiveStream(Stream):
    """Rows of activations, made by running the model anew at each pass.

    Args:
        model: the model to read.
        source: a corpus, or what `jf.corpus` takes; for a model without tokens, an iterable of
            input tensors [batch, ...], whose rows are the items of the batch.
        sites: names or patterns; each must have batch and position as its first axes.
        max_tokens: rows after which a pass ends; None is the whole corpus.
        batch_tokens: positions in one forward, padding included.
        context: the longest piece of a document that is run at once.
        pack: join documents in full rows instead of padding short ones.
        where: which tokens become rows; the sink positions of the model are left out by default.
        keep_special: also rows of special tokens.
        dtype: of the rows; that of the model if not given.
        edits: in place while reading.
    """

    def __init__(
        self,
        model: "Model",
        source: Any,
        sites: str | Sequence[str],
        *,
        max_tokens: int | None = None,
        batch_tokens: int = 2048,
        context: int = 256,
        pack: bool = False,
        where: Any = "~sinks",
        keep_special: bool = False,
        dtype: torch.dtype | None = None,
        edits: Sequence[Edit] = (),
    ) -> None:
        self._model, self._max, self._dtype = model, max_tokens, dtype
        self._batch_tokens, self._pack, self._edits = batch_tokens, pack, tuple(edits)
        self._context = min(context, model.context or context)
        self._where, self._keep_special = rules.where(where), keep_special
        self._sites = tuple(model.sites.select(sites))
        self._tokens = model.embedding is not None and model.tokenizer is not None
        self._source = corpus(source) if self._tokens else source
        self._known_rows: int | None = None
        _check_axes(model, self._sites if self._tokens else ())
        self._known_apart = not pack
        _check_rules(model, [self._where, *(edit.where for edit in edits)], pack)

    @property
    def sites(self) -> tuple[str, ...]:
        return self._sites

    @property
    def rows(self) -> int | None:
        return self._known_rows

    @property
    def provenance(self) -> dict[str, Any]:
        return {
            "model": {"name": self._model.name, **self._model.provenance},
            "corpus": self._source.provenance if self._tokens else repr(self._source),
            "max_tokens": self._max,
            "context": self._context,
            "pack": self._pack,
            "where": rules.to_json(self._where),
            "sinks": list(self._sinks()),
            "keep_special": self._keep_special,
            "edits": [repr(edit) for edit in self._edits],
        }

    def batches(self, start: int = 0) -> Iterator[Batch]:
        return without_first(self._pass(), start)

    def _pass(self) -> Iterator[Batch]:
        made = 0
        for batch in self._token_batches() if self._tokens else self._tensor_batches():
            left = len(batch) if self._max is None else self._max - made
            made += min(left, len(batch))
            yield batch if left >= len(batch) else batch.rows(slice(0, left))
            if made == self._max:
                break
        self._known_rows = made

    def _token_batches(self) -> Iterator[Batch]:
        tokenizer = self._model.tokenizer
        options: dict[str, Any] = {
            "context": self._context,
            "batch_tokens": self._batch_tokens,
            "pad": tokenizer.pad_token_id or 0,
            "bos": self._begin(),
        }
        if self._pack:
            self._check_apart()
            made = packed_batches(self._documents(), eos=tokenizer.eos_token_id, **options)
        else:
            made = padded_batches(self._documents(), **options)
        for tokens in made:
            batch = self._read(tokens)
            if len(batch):
                yield batch

    def _check_apart(self) -> None:
        """Fails where packed documents would see each other.

        It looks: two rows whose first documents differ must give the same for their second one.
        """
        if self._known_apart:
            return
        length = max(1, min(8, self._context // 2))
        size = int(self._model.config.vocab_size)
        first = torch.arange(2 * length).reshape(2, length)
        ids = torch.cat([first, torch.arange(length).expand(2, -1) + 2 * length], dim=1) % size
        positions = torch.arange(length).repeat(2).expand(2, -1)
        real, none = torch.ones_like(ids), torch.zeros_like(ids)
        probe = self._inputs(TokenBatch(ids, real, positions, none, none))
        run = execute(
            self._model, probe, sites=self._sites, edits=(), grad=False,
            logits=False, start=None, past=None, lengths=None,
        )  # fmt: skip
        for site in self._sites:
            one, other = run[site][:, length:].float()
            if not torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max())):
                expected = "a model whose masks keep packed documents apart"
                got = f"{type(self._model.module).__name__}, in which they see each other"
                where = f"{self._model.name}.stream, pack"
                raise InputError(
                    explain(where=where, expected=expected, got=got, hint="Say pack=False.")
                )
        self._known_apart = True

    def _begin(self) -> int | None:
        """The token that this model expects before every text, which later chunks need too."""
        begin: int | None = self._model.tokenizer.bos_token_id
        return begin if self._model.tokenizer("a")["input_ids"][:1] == [begin] else None

    def _read(self, given: TokenBatch) -> Batch:
        """One forward, and its rows."""
        run = execute(
            self._model, self._inputs(given), sites=self._sites, edits=self._edits, grad=False,
            logits=False, start=None, past=None, lengths=None,
        )  # fmt: skip
        chosen = self._chosen(given)
        values = {site: run[site][chosen.to(run[site].device)] for site in self._sites}
        return Batch(
            {site: x if self._dtype is None else x.to(self._dtype) for site, x in values.items()},
            given.input_ids[chosen],
            given.document[chosen],
            given.doc_position[chosen],
        )

    def _inputs(self, given: TokenBatch) -> Inputs:
        """Without a mask, transformers keeps apart what begins anew in the position ids."""
        model, mask = self._model, given.attention_mask.bool()
        takes = arguments(model.module)
        positions = given.position_ids + first_position(model.module)
        call = {"input_ids": given.input_ids, "position_ids": positions}
        if not self._pack:
            call["attention_mask"] = given.attention_mask
        call = {name: value.to(model.device) for name, value in call.items() if name in takes}
        if "use_cache" in takes:
            call["use_cache"] = False  # type: ignore[assignment]
        return Inputs(call, given.input_ids, mask)

    def _chosen(self, given: TokenBatch) -> Tensor:
        """[batch, position] the tokens that become rows."""
        real = given.document >= 0
        positions = given.position_ids.masked_fill(given.attention_mask == 0, -1)
        lengths = positions.amax(-1) + 1
        at = Coordinates(positions, lengths, given.input_ids, self._sinks())
        chosen = real & self._where.mask(at)
        if self._keep_special:
            return chosen
        special = torch.tensor(self._model.tokenizer.all_special_ids)
        return chosen & ~torch.isin(given.input_ids, special)

    def _documents(self) -> Iterator[tuple[int, list[int]]]:
        for document in self._source:
            if document.tokens is not None:
                yield document.id, document.tokens.tolist()
            elif document.messages is not None:
                render = self._model.tokenizer.apply_chat_template
                text = render(document.messages, tokenize=False)
                ids = self._model.tokenizer(text, add_special_tokens=False, verbose=False)
                yield document.id, ids["input_ids"]
            else:
                yield document.id, self._model.tokenizer(document.text, verbose=False)["input_ids"]

    def _tensor_batches(self) -> Iterator[Batch]:
        """Inputs that are tensors: each item of a batch is a document of one row."""
        seen = 0
        for given in self._source:
            run = self._model.run(given, sites=self._sites, edits=self._edits, logits=False)
            values = {site: run[site] for site in self._sites}
            count = len(next(iter(values.values())))
            documents = torch.arange(seen, seen + count)
            if self._dtype is not None:
                values = {site: x.to(self._dtype) for site, x in values.items()}
            yield Batch(values, None, documents, torch.zeros_like(documents))
            seen += count

    def _sinks(self) -> tuple[int, ...]:
        return self._model.sinks if self._tokens and sinks.mentioned(self._where) else ()

    def __repr__(self) -> str:
        shown = ", ".join(self._sites[:3]) + (", …" if len(self._sites) > 3 else "")
        without = f", without sink positions {list(self._sinks())}" if self._sinks() else ""
        most = f", at most {self._max:,} rows" if self._max else ""
        return f"Stream of {self._model.name} over {self._source!r}: {shown}{most}{without}"


def _check_rules(model: "Model", given: Sequence[rules.Where], pack: bool) -> None:
    """Rules that speak of a row of the batch, or of its end, where these are not the user's."""
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


def _check_axes(model: "Model", names: Sequence[str]) -> None:
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
