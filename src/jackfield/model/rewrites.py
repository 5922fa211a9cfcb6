"""Rewrites: other weights that compute the same, and the check that they do.

    rewritten = FoldNormGain().rewritten(model)        a copy; `model` is not touched
    FoldNormGain().check(model, "The capital of")      the largest difference of the logits

A rewrite is a function from state dict to state dict. One is here:

    FoldNormGain    norm(x) = g * n(x) + b with gain g [d_model], bias b and n without weights.
                    Each linear layer that reads it, y = W norm(x) + c, becomes

                        W' = W diag(g)    c' = c + W b    g' = 1    b' = 0

After it attn_in, mlp_in and final_norm are n(x) itself, ((old value) − b) / g, so that weights can
be compared with directions of the residual stream without a gain between them. All other sites keep
their values. The logits stay but for rounding: within 2e-6 of the largest in float32 (4.7e-5 of 29
on SmolLM2-135M); in bfloat16, where W' is rounded once more, about 1e-2.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jackfield.core.errors import BusyError, ModelError, explain
from jackfield.model.equations import parse
from jackfield.model.model import Model
from jackfield.model.readers import linear_readers, matrix

FOLDS = ("llama", "gpt2")  # families whose norms are read by linear layers alone


class Rewrite(ABC):
    """A change of the weights that keeps what the model computes."""

    @abstractmethod
    def apply(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        """The new state dict; `state` itself, that of `model.module`, is not changed.

        A tensor that is not changed is the same object. A name that is new is a new parameter (the
        bias of a linear layer that had none).

        Raises:
            ModelError: the rewrite does not know this architecture.
        """

    def rewritten(self, model: Model) -> Model:
        """A copy of the model with the new weights; the given one is not touched.

        Weights that were tied are so no more if one of them changed.

        Raises:
            ModelError: the rewrite does not know this architecture, or the weights are not here.
            BusyError: the model has hooks, such as those of an open `editing` block.
        """
        _refuse_hooks(model)
        state = model.module.state_dict()
        _refuse_absent(model, state)
        new, module = self.apply(state, model), copy.deepcopy(model.module)
        for name, value in new.items():
            if value is not state.get(name):
                _put(module, name, value)
        what = type(self).__name__
        made = Model(
            module,
            model.tokenizer,
            name=f"{model.name} ({what})",
            family=model.family,
            provenance={**model.provenance, "rewrite": what},
        )
        _note_untied(made)
        return made

    def check(self, model: Model, inputs: Any) -> float:
        """The largest difference of a logit between the model and its rewritten copy.

        Args:
            model: what to rewrite.
            inputs: as `model.run` takes them; padding does not count.

        Raises:
            ModelError: the rewrite does not know this architecture.
        """
        before, after = model.run(inputs), self.rewritten(model).run(inputs)
        apart = (after.logits - before.logits).abs().amax(dim=-1)
        return float(apart[before.mask].max())


class FoldNormGain(Rewrite):
    """Multiplies each norm's gain, and adds its bias, into the linear layers that read it.

    For the Llama family (Mistral, Qwen 2 and 3, SmolLM, …) and GPT-2. Gemma is refused, whose gain
    is 1 + weight. GPT-2's head gets a bias that its class in transformers does not have: a folder
    written by `save_pretrained` loses it there.
    """

    def apply(self, state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
        new = dict(state)
        for path, linears in _norms(model):
            gain, bias = state[f"{path}.weight"], state.get(f"{path}.bias")
            for name, linear in linears.items():
                new |= _folded(state, name, linear, gain, bias)
            new[f"{path}.weight"] = torch.ones_like(gain)
            if bias is not None:
                new[f"{path}.bias"] = torch.zeros_like(bias)
        return new


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    """Gives a module a parameter, which is its own even if the old one was shared."""
    owner, _, leaf = name.rpartition(".")
    part = module.get_submodule(owner)
    old = getattr(part, leaf)
    trained = old is None or old.requires_grad
    part.register_parameter(leaf, nn.Parameter(value.detach().clone(), requires_grad=trained))


def _norms(model: Model) -> Iterator[tuple[str, dict[str, nn.Module]]]:
    """Each norm's path with the linear layers that read its output, by their paths.

    Raises:
        ModelError: not one of the families, or a norm that is not gain times n(x) plus bias.
    """
    family = model.family
    if family is None or family.name not in FOLDS:
        got = family.name if family else type(model.module).__name__
        _refuse(model, f"a model of the families {' and '.join(FOLDS)}", got)
    places = {}
    for layer in range(model.n_layers):
        block = f"{model.sites.base}{family.blocks}.{layer}"
        for role in ("attn_in", "mlp_in"):
            places[f"layers.{layer}.{role}"] = f"{block}.{parse(family.equations[role]).name}"
    if "final_norm" in model.sites and "logits" in model.sites:
        places["final_norm"] = f"{model.sites.base}{family.final_norm}"
    for site, path in places.items():
        linears = linear_readers(model, site)
        _refuse_other_norms(model, path)
        _refuse_quantized(model, linears)
        yield path, linears


def _folded(
    state: Mapping[str, Tensor],
    name: str,
    linear: nn.Module,
    gain: Float[Tensor, "d_model"],  # noqa: F821
    bias: Float[Tensor, "d_model"] | None,  # noqa: F821
) -> dict[str, Tensor]:
    """The new weight, and bias where there is one, of a linear layer behind a norm."""
    weight = state[f"{name}.weight"]
    transposed = not isinstance(linear, nn.Linear)  # Conv1D: [in, out]
    scaled = weight * (gain[:, None] if transposed else gain)
    new = {f"{name}.weight": scaled.to(weight.dtype)}
    if bias is not None:
        added = (weight.T if transposed else weight) @ bias.to(weight.dtype)
        new[f"{name}.bias"] = state.get(f"{name}.bias", 0) + added
    return new


def _refuse_other_norms(model: Model, path: str) -> None:
    """A norm's gain is its weight if at weight and bias 0 it gives 0 (Gemma's is 1 + weight)."""
    norm = model.module.get_submodule(path)
    silent = {name: torch.zeros_like(each) for name, each in norm.named_parameters()}
    weight = silent.get("weight", torch.empty(0))
    x = torch.linspace(-1, 2, weight.numel()).to(weight)
    with torch.no_grad():
        left = torch.func.functional_call(norm, silent, (x[None],))
    if left.any() or silent.keys() - {"weight", "bias"} or not weight.numel():
        _refuse(model, f"a norm whose gain is its weight at {path}", type(norm).__name__)


def _refuse_quantized(model: Model, linears: Mapping[str, nn.Module]) -> None:
    for path, linear in linears.items():
        dtype = matrix(linear).dtype
        if not dtype.is_floating_point or dtype.itemsize < 2:
            _refuse(model, f"a weight of at least 16 bits floating-point at {path}", str(dtype))


def _refuse(model: Model, expected: str, got: str) -> NoReturn:
    hint = f"The norms of {' and '.join(FOLDS)} models can be folded, those of Gemma cannot."
    where = f"{model.name}, FoldNormGain"
    raise ModelError(explain(where=where, expected=expected, got=got, hint=hint))


def _refuse_absent(model: Model, state: Mapping[str, Tensor]) -> None:
    absent = next((name for name, value in state.items() if value.is_meta), None)
    if absent:
        expected, got = "a model with all its weights in memory", f"{absent} elsewhere"
        raise ModelError(explain(where=f"{model.name}, rewrite", expected=expected, got=got))


def _refuse_hooks(model: Model) -> None:
    hooked = [
        path or "the module"
        for path, part in model.module.named_modules()
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
    ]
    if hooked:
        got = f"hooks at {hooked[0]}"
        hint = "A copy would share them; rewrite outside of blocks that edit."
        expected = "a module without hooks"
        raise BusyError(explain(where=model.name, expected=expected, got=got, hint=hint))


def _note_untied(model: Model) -> None:
    """Has the config say that the head is not the embedding any more; saved copies load by it."""
    head = getattr(model.module, "get_output_embeddings", lambda: None)()
    tied = getattr(model.config, "tie_word_embeddings", False)
    if tied and head is not None and model.embedding is not None:
        model.config.tie_word_embeddings = head.weight is model.embedding.weight
