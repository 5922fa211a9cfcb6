"""The live stream: activations of a model over a corpus, as a recipe for any number of passes.

    stream = model.stream(jf.corpus("docs"), sites=["layers.15.resid_post"], max_tokens=50_000)

Each row is one token of one document. Padding is never a row; special tokens and the model's sink
positions are left out unless asked for. Documents never see each other, packed or padded: what is
run in one piece gives the same rows however it is batched. (Where a document is longer than the
context, or than what is left of a packed row, each piece is run by itself.)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from jackfield.core import where as rules
from jackfield.core.errors import InputError, explain, warn
from jackfield.edits import Edit
from jackfield.model import stream_cost, stream_recipe
from jackfield.model.stream_cost import StreamCost
from jackfield.model.token_rows import Tally, TokenRows, check_axes, check_rules
from jackfield.streams import Batch, Stream, corpus
from jackfield.streams.protocol import without_first
from jackfield.streams.store.encoding import number_dtype
from jackfield.streams.texts import Texts
from jackfield.streams.tokenised import Held
from jackfield.streams.vocabulary import vocabulary_of

if TYPE_CHECKING:
    from jackfield.model.model import Model


class LiveStream(Stream):
    """Rows of activations, made by running the model anew at each pass.

    Args:
        model: the model to read.
        source: a corpus (or a part of one), or what `jf.corpus` takes; for a model without tokens,
            an iterable of input tensors [batch, ...], whose rows are the items of the batch.
        sites: names or patterns; each must have batch and position as its first axes.
        max_tokens: rows after which a pass ends; None is the whole corpus.
        batch_tokens: positions in one forward, padding included.
        context: the longest piece of a document that is run at once.
        pack: join documents in full rows instead of padding short ones.
        long: what is done with a document longer than the context: "split" runs all its pieces,
            "cut" keeps the first, and a pass ends with a warning that says how much was left out.
        where: which tokens become rows; the sink positions of the model are left out by default.
        keep_special: also rows of special tokens.
        dtype: of the rows; that of the model if not given.
        edits: in place while reading.

    Attributes:
        left_out: tokens that `long="cut"` left out in the latest whole pass.
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
        long: Literal["split", "cut"] = "split",
        where: Any = "~sinks",
        keep_special: bool = False,
        dtype: torch.dtype | None = None,
        edits: Sequence[Edit] = (),
    ) -> None:
        if long not in ("split", "cut"):
            where = f"{model.name}.stream, long"
            raise InputError(explain(where=where, expected="'split' or 'cut'", got=repr(long)))
        self._model, self._max, self._options = model, max_tokens, {"context": context}
        self._tokens = model.embedding is not None and model.tokenizer is not None
        self._source = corpus(source) if self._tokens else source
        self._rows = TokenRows(
            model,
            tuple(model.sites.select(sites)),
            batch_tokens=batch_tokens,
            context=min(context, model.context or context),
            pack=pack,
            long=long,
            where=rules.where(where),
            keep_special=keep_special,
            dtype=dtype,
            edits=tuple(edits),
        )
        self.left_out = 0
        self._known_rows: int | None = None
        self._known_apart = not pack
        check_axes(model, self.sites if self._tokens else ())
        check_rules(model, [self._rows.where, *(edit.where for edit in edits)], pack)

    @property
    def sites(self) -> tuple[str, ...]:
        return self._rows.sites

    @property
    def rows(self) -> int | None:
        return self._known_rows

    @property
    def documents(self) -> int | None:
        """How many documents there are, empty ones counted; None for a model without tokens.

        At once for lists, Parquet and datasets; otherwise by going through the corpus.
        """
        return self._source.count() if self._tokens else None

    @property
    def provenance(self) -> dict[str, Any]:
        """What determines the rows.

        Parts of one corpus differ only in the keys "part" ([rank, world]) and "span"
        ([first, stop]), which a whole one has not.
        """
        rows = self._rows
        told = {
            "model": {"name": self._model.name, **self._model.provenance},
            "corpus": self._source.provenance if self._tokens else repr(self._source),
            "max_tokens": self._max,
            "context": rows.context,
            "pack": rows.pack,
            "long": rows.long,
            "where": rules.to_json(rows.where),
            "sinks": list(self._sinks()),
            "keep_special": rows.keep_special,
            "edits": [stream_recipe.told(edit) for edit in rows.edits],
        }
        parts = {"part": self._source.part_of, "span": self._source.span_of} if self._tokens else {}
        return {**told, **{name: list(each) for name, each in parts.items() if each is not None}}

    def span(self, first: int, stop: int | None = None) -> "LiveStream":
        """The stream of the documents with `first <= id < stop`, all else equal.

        Raises:
            InputError: wrong bounds, or a model without tokens, whose inputs have no numbers.
        """
        if not self._tokens:
            where, expected = f"{self._model.name}.stream, span", "a stream over documents"
            raise InputError(explain(where=where, expected=expected, got="one over tensors"))
        return LiveStream(self._model, self._source.span(first, stop), self.sites, **self._given())

    def recipe(self) -> dict[str, Any]:
        """The stream as JSON, from which another process makes the same one.

        Raises:
            InputError: the model was not loaded by `jf.load`, the corpus is objects of this process
                only, or an edit cannot be saved as data.
        """
        return stream_recipe.of_stream(self._model, self._source, self.sites, self._given())

    @staticmethod
    def from_recipe(recipe: Mapping[str, Any], **load: Any) -> "LiveStream":
        """The stream that `recipe()` described; the model is loaded anew.

        Args:
            recipe: as `recipe()` gave it.
            load: where this machine differs: `device`, `device_map`, `trust_remote_code`.

        Raises:
            SourceError: the model is not to be had here.
            InputError: the corpus is not.
        """
        return LiveStream(*stream_recipe.model_and_corpus(recipe, load), recipe["sites"],
                          **stream_recipe.options(recipe))  # fmt: skip

    def cost(self, seconds: float = 10.0, *, dtype: str | torch.dtype | None = None) -> StreamCost:
        """What a pass will take: rows, bytes and time, from tokenising and a few forwards.

        Args:
            seconds: after so long the rest of the corpus is estimated from what was tokenised.
            dtype: the rows are to be kept in, as `write` takes it; the stream's if not given.

        Raises:
            InputError: a model without tokens, or no rows.
        """
        if not self._tokens:
            where, expected = f"{self._model.name}.stream, cost", "a stream over documents"
            raise InputError(explain(where=where, expected=expected, got="one over tensors"))
        self._check_apart()
        return stream_cost.measure(
            self._rows, self._source, self._max, seconds, number_dtype(dtype)
        )

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """A pass from row `start` on; batches whose rows all come before are not run."""
        return self._pass(start) if self._tokens else without_first(self._tensor_pass(), start)

    def _pass(self, start: int) -> Iterator[Batch]:
        self._check_apart()
        held, tally, made = Held(), Tally(), 0
        vocabulary = vocabulary_of(self._model.tokenizer)
        documents = self._rows.documents(self._source, tally)
        for given, chosen in self._rows.planned(held.through(documents)):
            count = self._up_to_most(made, int(chosen.sum()))
            if count and made + count > start:
                batch = self._rows.read(given, chosen)
                batch = replace(batch, texts=Texts(held.texts(batch.documents), vocabulary))
                first = max(start - made, 0)
                yield batch.rows(slice(first, count)) if count - first < len(batch) else batch
            made += count
            held.release(given.document)
            if made == self._max:
                break
        self._end(made, tally)

    def _tensor_pass(self) -> Iterator[Batch]:
        made = 0
        for batch in self._tensor_batches():
            count = self._up_to_most(made, len(batch))
            made += count
            yield batch.rows(slice(0, count)) if count < len(batch) else batch
            if made == self._max:
                break
        self._known_rows = made

    def _up_to_most(self, made: int, more: int) -> int:
        return more if self._max is None else min(more, self._max - made)

    def _end(self, made: int, tally: Tally) -> None:
        self._known_rows, self.left_out = made, tally.tokens
        if tally.tokens:
            warn(
                f"{self._model.name}.stream: long='cut' left out {tally.tokens:,} tokens of "
                f"{tally.documents:,} documents longer than {self._rows.context} tokens. "
                "long='split' reads them in pieces."
            )

    def _check_apart(self) -> None:
        if not self._known_apart:
            self._rows.check_apart()
            self._known_apart = True

    def _tensor_batches(self) -> Iterator[Batch]:
        """Inputs that are tensors: each item of a batch is a document of one row."""
        seen, dtype = 0, self._rows.dtype
        for given in self._source:
            run = self._model.run(given, sites=self.sites, edits=self._rows.edits, logits=False)
            values = {site: run[site] for site in self.sites}
            count = len(next(iter(values.values())))
            documents = torch.arange(seen, seen + count)
            if dtype is not None:
                values = {site: x.to(dtype) for site, x in values.items()}
            yield Batch(values, None, documents, torch.zeros_like(documents))
            seen += count

    def _given(self) -> dict[str, Any]:
        """The arguments it was made with, but for model, corpus and sites."""
        names = ("batch_tokens", "pack", "long", "where", "keep_special", "dtype", "edits")
        options = {name: getattr(self._rows, name) for name in names}
        return {"max_tokens": self._max, **self._options, **options}

    def _sinks(self) -> tuple[int, ...]:
        return self._rows.sinks if self._tokens else ()

    def __repr__(self) -> str:
        shown = ", ".join(self.sites[:3]) + (", …" if len(self.sites) > 3 else "")
        without = f", without sink positions {list(self._sinks())}" if self._sinks() else ""
        most = f", at most {self._max:,} rows" if self._max else ""
        return f"Stream of {self._model.name} over {self._source!r}: {shown}{most}{without}"
