"""Model: a PyTorch module with its sites. Everything in Jackfield begins here.

model = jf.load("smollm2")
run = model.run(["The capital of France is"], sites=["layers.*.resid_post"])
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jackfield.core.errors import BusyError, InputError, ModelError, explain
from jackfield.edits import Edit
from jackfield.model import contexts, generation, segment, sinks
from jackfield.model.detect import detect
from jackfield.model.families import Family, family_of
from jackfield.model.generation_steps import Step, Stop
from jackfield.model.inputs import (
    Inputs,
    Side,
    arguments,
    check_length,
    check_tokens,
    context_limit,
    encode,
    encode_chats,
    first_position,
    pad,
    positions_of,
    token_call,
)
from jackfield.model.plan import Plan
from jackfield.model.run import Run, execute
from jackfield.model.sites import SiteTable, base_of

if TYPE_CHECKING:
    from jackfield.model.saving import SavingPolicy
    from jackfield.model.stream import LiveStream

_claims: WeakKeyDictionary[nn.Module, tuple[int, int]] = WeakKeyDictionary()
_claims_lock = threading.Lock()


class Model:
    """A module and its sites; made by `jf.load` or `jf.wrap`, which never change the module.

    Attributes:
        module: the PyTorch module itself.
        tokenizer: a transformers tokenizer, or None.
        name: how messages call it.
        provenance: where it came from: source, hashes, dtype.
    """

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Any = None,
        *,
        name: str | None = None,
        family: Family | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.module, self.tokenizer = module, tokenizer
        self.name = name or type(module).__name__
        self.provenance = dict(provenance or {})
        self._family = family
        self._cloned: frozenset[str] = frozenset()

    # What the model is -----------------------------------------------------------------------

    @cached_property
    def family(self) -> Family | None:
        """Its entry of the role table, or one detected and proven at the first use, or None."""
        known = self._family or family_of(self.config)
        if known and not self._family and base_of(self.module, known) is None:
            known = None  # a module of another make around a model, with that model's config
        return known or detect(self.module)

    @cached_property
    def sites(self) -> SiteTable:
        """The table of its sites."""
        return SiteTable(self.module, self.family, self.name)

    @property
    def config(self) -> Any:
        """The transformers config of the language part, None for other modules."""
        config: Any = getattr(self.module, "config", None)
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the first parameter.

        If accelerate brings the weights only when they are used, it is the device they come to.
        """
        first = next(self.module.parameters(), None)
        if first is None:
            return torch.device("cpu")
        return _brought_to(self.module) if first.device.type == "meta" else first.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first floating-point parameter."""
        floats = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        return next(floats, torch.float32)

    @property
    def blocks(self) -> nn.ModuleList:
        """The list of blocks.

        Raises:
            ModelError: the model has none that we know.
        """
        if self.family is None:
            raise ModelError(
                explain(
                    where=self.name,
                    expected="a model whose blocks are known",
                    got=type(self.module).__name__,
                    hint="Use module paths such as features.3:out.",
                )
            )
        return self.module.get_submodule(self.sites.base + self.family.blocks)  # type: ignore[return-value]

    @property
    def n_layers(self) -> int:
        """How many blocks there are, 0 where none are known."""
        return len(self.blocks) if self.family else 0

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        size = getattr(self.config, "hidden_size", None)
        if size is None:  # a module of the user's own: as wide as its token embedding
            tables = (part for part in self.module.modules() if isinstance(part, nn.Embedding))
            size = next((table.embedding_dim for table in tables), 0)
        return int(size)

    @property
    def d_head(self) -> int | None:
        """The width of an attention head."""
        if self.config is None or not getattr(self.config, "num_attention_heads", None):
            return None
        head = getattr(self.config, "head_dim", None)
        return int(head or self.config.hidden_size // self.config.num_attention_heads)

    @property
    def n_heads(self) -> int | None:
        """How many query heads an attention has, None where that is not known."""
        heads = getattr(self.config, "num_attention_heads", None)
        return heads if isinstance(heads, int) else None

    @property
    def block_returns_tuple(self) -> bool:
        """Whether a block returns a tuple; blocks that pass through must do the same."""
        return bool(self.family and self.family.returns_tuple)

    @property
    def embedding(self) -> nn.Module | None:
        """The token embedding, None for a model without tokens."""
        try:
            return self.module.get_input_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError, TypeError):
            return None

    @property
    def context(self) -> int | None:
        """The longest input in tokens, None where there is no bound."""
        limit = context_limit(self.config)
        return None if limit is None else limit - first_position(self.module)

    @cached_property
    def sinks(self) -> tuple[int, ...]:
        """Positions whose residual norm is over ten times the median on a calibration text.

        Raises:
            BusyError: asked for the first time while the model is edited: they are those of the
                model as it is.
        """
        if self.module in _claims:
            raise BusyError(
                explain(
                    where=f"{self.name}.sinks",
                    expected="to be found before the model is edited",
                    got="a model in use",
                    hint="Say model.sinks before the block.",
                )
            )
        return sinks.profile(self)

    def sinks_for(self, edits: Sequence[Edit]) -> tuple[int, ...]:
        """The sink profile, if a `where` of these edits asks for it."""
        return self.sinks if any(sinks.mentioned(edit.where) for edit in edits) else ()

    # Read and write --------------------------------------------------------------------------

    def run(
        self,
        inputs: Any,
        sites: str | Sequence[str] = (),
        edits: Sequence[Edit] = (),
        *,
        grad: bool = False,
        logits: bool = True,
        start: Mapping[str, Tensor] | None = None,
        past: Any = None,
        cache: bool = False,
        padding: Side = "right",
        prompt_lengths: Int[Tensor, "batch"] | Sequence[int] | None = None,  # noqa: F821
    ) -> Run:
        """One forward: edits act, sites are read.

        Args:
            inputs: a text, texts, a chat (list of messages) or chats, token ids
                [batch, position], a mapping of the module's arguments, or any tensor.
            sites: names or patterns to read.
            edits: act in this order; reads see their effect.
            grad: keep the graph; then `run.gradients(scalar)` gives gradients at the sites.
            logits: False ends the forward after the last site.
            start: {"layers.7.resid_pre": x} begins in the middle with x [batch, position, d_model].
            past: a cache to continue; it is copied, not changed. `run.past` is the longer one.
                With `start` it serves the blocks from there on, and none is given back.
            cache: make a cache, given as `run.past`.
            padding: the side on which shorter rows are padded; it does not change results.
            prompt_lengths: [batch] where the prompt ends, for `where="prompt"` and "generated";
                the whole input if not given.

        Raises:
            InputError: an input that cannot be run.
            SiteError: an unknown site, one that did not fire, or one that cannot be written.
        """
        listed = [sites] if isinstance(sites, str) else list(sites)
        cache = cache or any(name.startswith("cache.") for name in listed)
        made = self.inputs(inputs, padding=padding, past=past, cache=cache)
        if start and past is not None and not cache:
            made.call["use_cache"] = False
        if start and grad:  # the given value begins the graph, also where all is frozen
            start = {
                name: x if x.requires_grad else x.detach().requires_grad_()
                for name, x in start.items()
            }
        lengths = None if prompt_lengths is None else torch.as_tensor(prompt_lengths)
        return execute(
            self, made, sites=listed, edits=edits, grad=grad, start=start, past=past,
            logits=logits or "logits" in listed or cache, lengths=lengths,
        )  # fmt: skip

    def generate(
        self,
        prompts: Any,
        *,
        edits: Sequence[Edit] = (),
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        cache: generation.Cache = "dynamic",
        logits: bool = False,
        stop: Stop | None = None,
    ) -> generation.Generation:
        """Generates text with edits in place; see `jackfield.model.generation.generate`."""
        return generation.generate(
            self, prompts, edits=edits, max_new_tokens=max_new_tokens, temperature=temperature,
            top_k=top_k, top_p=top_p, seed=seed, cache=cache, logits=logits, stop=stop,
        )  # fmt: skip

    def generate_stream(
        self,
        prompts: Any,
        *,
        edits: Sequence[Edit] = (),
        max_new_tokens: int = 50,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        cache: generation.Cache = "dynamic",
        sites: str | Sequence[str] = (),
        stop: Stop | None = None,
    ) -> Iterator[Step]:
        """The same, token by token, with the activations of `sites`; see `generation.stream`."""
        return generation.stream(
            self, prompts, edits=edits, max_new_tokens=max_new_tokens, temperature=temperature,
            top_k=top_k, top_p=top_p, seed=seed, cache=cache, sites=sites, stop=stop,
        )  # fmt: skip

    def segment(self, start: str, stop: str, inputs: Any, **options: Any) -> segment.Segment:
        """The model between two sites as a function; see `jackfield.model.segment`."""
        return segment.Segment(self, start, stop, inputs, **options)

    def unembed(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows vocab"]:
        """Logits of residual-stream vectors, by the model's own final norm and head."""
        named = "input_ids" in arguments(self.module)
        rows = x.reshape(1, -1, x.shape[-1]) if named else x.reshape(-1, 1, x.shape[-1])
        last = f"layers.{len(self.blocks) - 1}.resid_post"
        tokens = torch.zeros(rows.shape[:2], dtype=torch.long)
        call = Inputs({}, args=(tokens.to(self.device),))
        if named:
            real = torch.ones_like(tokens).bool()
            call = Inputs(token_call(self.module, tokens, real, self.device))
        if "position_ids" in call.call:  # any number of rows is within the context
            call.call["position_ids"] = torch.zeros_like(call.call["position_ids"])
        run = execute(
            self, call, sites=(), edits=(), grad=torch.is_grad_enabled() and x.requires_grad,
            logits=True, start={last: rows}, past=None, lengths=None,
        )  # fmt: skip
        return run.logits.reshape(*x.shape[:-1], -1)

    def stream(self, corpus: Any, sites: str | Sequence[str], **options: Any) -> "LiveStream":
        """Activations over a corpus, as a re-iterable recipe; see `jackfield.model.stream`."""
        from jackfield.model.stream import LiveStream

        return LiveStream(self, corpus, sites, **options)

    # Contexts for the bare module ------------------------------------------------------------

    def editing(self, edits: Sequence[Edit]) -> AbstractContextManager[Plan]:
        """Edits the bare module inside the block; backward belongs inside too."""
        return contexts.editing(self, edits)

    def swapping(
        self, pattern: str, factory: Callable[[nn.Module, str], nn.Module | Callable[..., Any]]
    ) -> AbstractContextManager[list[str]]:
        """Puts `factory(old, path)` in the place of each matching module inside the block."""
        return contexts.swapping(self, pattern, factory)

    def saving(self, policy: "SavingPolicy") -> AbstractContextManager[Any]:
        """Keeps tensors for the backward as `policy` says, inside the block."""
        return contexts.saving(self, policy)

    def plan(self, sites: Sequence[str], edits: Sequence[Edit]) -> Plan:
        """The hooks that reading `sites` under `edits` needs; `.describe()` says what they do.

        Raises:
            ModelError: the module was compiled, and hooks would be missed.
        """
        self._refuse_compiled()
        return Plan(
            self.module,
            self.sites,
            reads=sites,
            edits=edits,
            d_head=self.d_head,
            heads=self.n_heads,
            cloned=self._cloned,
        )

    def must_clone(self, names: set[str]) -> None:
        """Notes sites that the model changes in place after they were read."""
        self._cloned |= names

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Holds the module for this thread.

        Raises:
            BusyError: another thread holds it.
        """
        me = threading.get_ident()
        with _claims_lock:
            thread, depth = _claims.get(self.module, (me, 0))
            if thread != me:
                raise BusyError(
                    explain(
                        where=self.name,
                        expected="a model that no other thread reads or edits now",
                        got="one in use",
                        hint="Give each thread its own copy of the model, or take turns.",
                    )
                )
            _claims[self.module] = (me, depth + 1)
        try:
            yield
        finally:
            with _claims_lock:
                _, depth = _claims[self.module]
                if depth == 1:
                    del _claims[self.module]
                else:
                    _claims[self.module] = (me, depth - 1)

    def _refuse_compiled(self) -> None:
        compiled = [
            name
            for name, part in self.module.named_modules()
            if part.__dict__.get("_compiled_call_impl") is not None
            or "_orig_mod" in part._modules
            or hasattr(part.__dict__.get("forward"), "_torchdynamo_orig_callable")
        ]
        if compiled:
            raise ModelError(
                explain(
                    where=self.name,
                    expected="a module that is not compiled: its hooks would be missed silently",
                    got=f"torch.compile on {compiled[0] or 'the module'}",
                    hint="Wrap the module before compiling it (its ._orig_mod).",
                )
            )

    # Inputs ----------------------------------------------------------------------------------

    def tokenize(
        self, texts: str | Sequence[str], labels: bool = False, padding: Side = "right"
    ) -> dict[str, Tensor]:
        """Arguments for `model.module(**…)`: ids, mask, position ids, and labels if asked.

        Labels are the ids with −100 on padding.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)
        tokens, mask = encode(
            self.tokenizer, listed, side=padding, limit=self.context, where=f"{self.name}.tokenize"
        )
        call = token_call(self.module, tokens, mask, self.device)
        if labels:
            call["labels"] = call["input_ids"].masked_fill(~mask.to(self.device), -100)
        return call

    def token_strings(self, ids: Int[Tensor, "..."] | Sequence[int]) -> list[str]:
        """The text of each token by itself."""
        if self.tokenizer is None:
            return [str(int(each)) for each in ids]
        return [self.tokenizer.decode([int(each)]) for each in ids]

    def inputs(
        self,
        given: Any,
        *,
        padding: Side = "right",
        past: Any = None,
        cache: bool = False,
        answer: bool = False,
    ) -> Inputs:
        """What `run` makes of its `inputs` argument; with `answer`, chats end where one begins.

        Raises:
            InputError: it cannot be run.
        """
        where = f"{self.name}.run"
        if isinstance(given, str):
            given = [given]
        if isinstance(given, (list, tuple)) and given and isinstance(given[0], Mapping):
            given = [given]
        if isinstance(given, (list, tuple)) and all(isinstance(each, str) for each in given):
            tokens, mask = encode(
                self.tokenizer, given, side=padding, limit=self.context, where=where
            )
            return self._tokens(tokens, mask, past, cache)
        if _is_chats(given):
            return self._chats(given, padding, past, cache, answer)
        if (
            isinstance(given, Tensor)
            and not given.is_floating_point()
            and self.embedding is not None
        ):
            tokens = given[None] if given.dim() == 1 else given
            check_tokens(tokens, getattr(self.config, "vocab_size", None), self.context, where)
            return self._tokens(tokens, torch.ones_like(tokens, dtype=torch.bool), past, cache)
        if isinstance(given, Tensor):
            return Inputs({}, args=(given.to(self.device),))
        if isinstance(given, Mapping):
            return self._mapping(given, past, cache)
        raise InputError(
            explain(
                where=where,
                expected="text, texts, messages, token ids [batch, position] or tensors",
                got=type(given).__name__,
            )
        )

    def _chats(self, chats: Any, padding: Side, past: Any, cache: bool, answer: bool) -> Inputs:
        rows, spans, roles = encode_chats(
            self.tokenizer, chats, limit=self.context, where=f"{self.name}.run", answer=answer
        )
        tokens, mask = pad(rows, side=padding, value=self.tokenizer.pad_token_id or 0)
        placed = None
        if spans is not None:
            placed = pad(spans, side=padding, value=-1)[0].to(self.device)
        return self._tokens(tokens, mask, past, cache, placed, roles)

    def _tokens(
        self,
        tokens: Tensor,
        mask: Tensor,
        past: Any,
        cache: bool,
        spans: Tensor | None = None,
        roles: tuple[str, ...] = (),
    ) -> Inputs:
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        whole = self._with_past(mask, past)
        call = token_call(self.module, tokens, whole, self.device)
        return Inputs({**call, **self._cache_arguments(past, cache)}, tokens, mask, spans, roles)

    def _mapping(self, given: Mapping[str, Any], past: Any, cache: bool) -> Inputs:
        if given.get("past_key_values") is not None:
            got = "past_key_values among the inputs"
            raise InputError(
                explain(where=f"{self.name}.run", expected="a cache as past=", got=got)
            )
        call = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in given.items()
        }
        tokens, mask = call.get("input_ids"), call.get("attention_mask")
        if tokens is not None:
            check_tokens(tokens, getattr(self.config, "vocab_size", None), self.context, self.name)
        placed = tokens if tokens is not None else call.get("inputs_embeds")
        caching = self._cache_arguments(past, cache)
        if placed is None or (mask is not None and mask.dim() != 2):
            return Inputs({**call, **caching}, tokens)
        count = placed.shape[1]
        real = torch.ones_like(placed[..., 0] if tokens is None else tokens, dtype=torch.bool)
        real = real if mask is None else mask.bool()
        whole = self._with_past(real, past) if real.shape[1] == count else real
        takes = arguments(self.module)
        if "attention_mask" in takes:
            call["attention_mask"] = whole.long()
        if "position_ids" in takes:
            positions = positions_of(whole)[:, -count:] + first_position(self.module)
            call.setdefault("position_ids", positions)
        return Inputs({**call, **caching}, tokens, whole[:, -count:])

    def _with_past(self, mask: Tensor, past: Any) -> Tensor:
        """`mask` behind that of the cached places.

        Raises:
            InputError: the cache is of another batch, or both are longer than the context.
        """
        if past is None:
            return mask
        if not hasattr(past, "get_seq_length"):
            expected, got = "a cache of transformers", type(past).__name__
            raise InputError(explain(where=f"{self.name}, past", expected=expected, got=got))
        held = getattr(past, "jackfield_mask", None)  # as the run that made the cache noted
        if held is None:
            held = mask.new_ones(len(mask), past.get_seq_length())
        held = held[:, : past.get_seq_length()].to(mask.device)
        if len(held) != len(mask):
            expected = f"a cache of {len(mask)} rows, as the input has"
            raise InputError(
                explain(where=f"{self.name}, past", expected=expected, got=f"{len(held)}")
            )
        whole = torch.cat([held, mask], dim=1)
        check_length(int(whole.sum(-1).max()), self.context, f"{self.name}, past and input")
        return whole

    def _cache_arguments(self, past: Any, cache: bool) -> dict[str, Any]:
        if "use_cache" not in arguments(self.module):
            return {}
        if past is None:
            return {"use_cache": cache}
        return {"past_key_values": generation.copied(past), "use_cache": True}

    def __repr__(self) -> str:
        size = sum(p.numel() for p in self.module.parameters())
        family = self.family.name if self.family else "no family: raw module paths only"
        layers = f", {self.n_layers} layers, d_model {self.d_model}" if self.family else ""
        kind = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        return f"Model {self.name} ({family}{layers}, {size / 1e6:.1f} M parameters, {kind})"


def _brought_to(module: nn.Module) -> torch.device:
    """The first device that accelerate's hooks bring weights to."""
    hooks = (getattr(part, "_hf_hook", None) for part in module.modules())
    each = (one for hook in hooks for one in getattr(hook, "hooks", (hook,)))
    places = (getattr(one, "execution_device", None) for one in each)
    found = next((place for place in places if place is not None), None)
    return torch.device("meta" if found is None else found)


def _is_chats(given: Any) -> bool:
    return isinstance(given, (list, tuple)) and bool(given) and all(
        isinstance(chat, (list, tuple)) and chat and isinstance(chat[0], Mapping) for chat in given
    )  # fmt: skip
