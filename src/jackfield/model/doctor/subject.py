"""The patient: a model, what it is run on, and its float64 copy."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from jackfield.core.errors import InputError, explain
from jackfield.edits import Edit
from jackfield.model.equations import Scope
from jackfield.model.inputs import arguments
from jackfield.model.sites import Site
from jackfield.model.views import first

if TYPE_CHECKING:
    from jackfield.model.model import Model
    from jackfield.model.run import Run

TOKENS = 8  # a row of the batch that the checks run on; there are two
COPY_LIMIT = 500_000_000  # parameters; above it a float64 copy would take more than 4 GB
_TEXTS = (
    "The harbour was quiet when the first boats came in, and the gulls waited on the wall.",
    "A function returns a value; a procedure changes the state of the program instead.",
)


@dataclass
class Subject:
    """A model under examination.

    Attributes:
        model: the model.
        given: what it is run on: token ids [2, position], or a tensor or mapping.
        layers: the blocks that are looked at closely: the first, one in the middle, the last.
        seed: of the changes that are written.
    """

    model: "Model"
    given: Any
    layers: tuple[int, ...] = ()
    seed: int = 0

    @property
    def local(self) -> float:
        """How far one equation may be off, relative, in the model's dtype."""
        rounding = torch.finfo(self.model.dtype).eps
        return (64 if rounding < 1e-5 else 8) * rounding

    @property
    def through(self) -> float:
        """How far the same whole forward may be off when its kernels see other shapes.

        At least what the parts that transformers does in float32 leave. A router in low precision
        may choose another expert by rounding; there only the float64 copy can tell.
        """
        low = self.local > 1e-5
        routed = any(site.role == "router" for site in self.model.sites)
        return 2.0 if low and routed else min(max(32 * self.local, 2e-6), 0.25)

    @property
    def has_tokens(self) -> bool:
        """Whether it runs on token ids."""
        return isinstance(self.given, Tensor) and not self.given.is_floating_point()

    def run(self, sites: Sequence[str] = (), edits: Sequence[Edit] = (), **options: Any) -> "Run":
        """`model.run` on the inputs."""
        return self.model.run(self.given, sites=sites, edits=edits, **options)

    @property
    def middle(self) -> int | None:
        """A block in the middle, None where none are known."""
        return self.layers[len(self.layers) // 2] if self.layers else None

    @property
    def sites(self) -> list[Site]:
        """The sites that a forward passes (the cache's are read after it)."""
        return [site for site in self.model.sites if site.point.side != "cache"]

    @property
    def sampled(self) -> list[Site]:
        """Those outside the blocks and in the blocks that are looked at closely."""
        return [site for site in self.sites if site.layer is None or site.layer in self.layers]

    def rerun(self, base: "Run", layer: int | None, edits: Sequence[Edit], **options: Any) -> "Run":
        """The forward of `base` with edits in one block, from there on; reads what is there."""
        if layer is None:
            return self.run(base.sites, edits, **options)
        entry = f"layers.{layer}.resid_pre"
        sites = list(self.sites_of(layer).values())
        return self.run(sites, edits, start={entry: base[entry]}, **options)

    def sites_of(self, layer: int) -> dict[str, str]:
        """Role → name of the block's sites, in the order of the forward."""
        return {site.role: site.name for site in self.sites if site.layer == layer}

    def values(self, run: "Run", layer: int) -> dict[str, Tensor]:
        """Role → value of the block's sites that the run has read."""
        return {r: run[name] for r, name in self.sites_of(layer).items() if name in run.sites}

    def scope(self, run: "Run", values: Mapping[str, Tensor], layer: int | None = None) -> Scope:
        """Where an equation of a block, or of the whole model, is evaluated."""
        model = self.model
        start = None if run.positions is None else run.positions == 0
        module = model.module if layer is None else model.blocks[layer]
        return Scope(module, values, model.config, model.d_head, start)

    def change(self, like: Tensor, scale: float = 0.5) -> Tensor:
        """A random Δ for a site with this value, `scale` times as large as it is on average."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        return (noise * scale * _size(like)).to(device=like.device, dtype=like.dtype)


def admit(model: "Model", inputs: Any = None) -> Subject:
    """The model with inputs, made up if none are given.

    Raises:
        InputError: nobody can tell what it runs on.
    """
    given = _guessed(model) if inputs is None else inputs
    given = _moved(given, model.device)
    last = model.n_layers - 1
    layers = sorted({0, last // 2, last}) if model.n_layers else ()
    admitted = Subject(model, given, tuple(layers))
    reason = _refuses(admitted)
    if reason:
        shape = list(given.shape) if isinstance(given, Tensor) else sorted(given)
        raise InputError(
            explain(
                where=f"doctor, {model.name}",
                expected=f"a model that runs on {shape}",
                got=reason,
                hint="examine(model, inputs=...)",
            )
        )
    return admitted


def twin(patient: Subject) -> Subject | str:
    """The same with a copy of the model in float64, or the reason why there is none."""
    from jackfield.model.model import Model

    model = patient.model
    size = sum(parameter.numel() for parameter in model.module.parameters())
    if model.dtype == torch.float64:
        return "the model is in float64 itself"
    if size > COPY_LIMIT:
        return f"model too large for a float64 copy ({size / 1e6:.0f} M parameters)"
    try:
        module = copy.deepcopy(model.module).double()
        if getattr(model.config, "_experts_implementation", "eager") != "eager":
            module.set_experts_implementation("eager")  # type: ignore[operator] # the fused kernels know no float64
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return f"no float64 copy: {error}"
    doubled = Model(module, model.tokenizer, name=model.name, family=model.family)
    copied = Subject(doubled, _double(patient.given), patient.layers, patient.seed)
    reason = _refuses(copied)
    return f"the bare module fails in float64 ({reason})" if reason else copied


def output(run: "Run") -> Tensor:
    """The last thing that the model computes: its logits, or the first tensor it returns."""
    made: Any = run.output
    if hasattr(made, "logits"):
        return made.logits
    return first(made[0] if isinstance(made, dict) else made)


def effect(run: "Run", base: "Run") -> float:
    """The largest relative change of any tensor that the model returned."""
    pairs = zip(_tensors(run.output), _tensors(base.output), strict=True)
    return max(relative(changed, plain) for changed, plain in pairs)


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in units of the token's largest value; NaN in `expected` is unsaid.

    Infinite when the shapes differ, or where only one of the two is finite.
    """
    if found.shape != expected.shape:
        return torch.inf
    a, b = found.detach().double(), expected.detach().double()
    said = ~b.isnan()
    if bool((a.isfinite() != b.isfinite())[said].any()):
        return torch.inf
    kept = said & b.isfinite()
    a, b = a.where(kept, 0.0), b.where(kept, 0.0)
    dims = tuple(range(2, b.dim())) if b.dim() == 3 else (-1,)
    scale = b.abs().amax(dim=dims, keepdim=True).clamp(min=1e-3 * float(b.abs().max()) + 1e-30)
    return float(((a - b).abs() / scale).max()) if b.numel() else 0.0


def calm(module: nn.Module) -> dict[nn.Module, bool]:
    """Puts every part in eval mode; returns what was, for `restore`."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    return modes


def restore(modes: Mapping[nn.Module, bool]) -> None:
    """Puts every part back in its mode."""
    for part, training in modes.items():
        part.training = training


def _tensors(made: Any) -> list[Tensor]:
    if isinstance(made, Tensor):
        return [made] if made.is_floating_point() else []
    parts = made.values() if hasattr(made, "values") else made
    listed = parts if isinstance(made, (tuple, list)) or hasattr(made, "values") else ()
    return [tensor for part in listed for tensor in _tensors(part)]


def _size(like: Tensor) -> float:
    sizes = like.detach().double().abs()
    sizes = sizes[sizes.isfinite() & (sizes > 0)]
    return float(sizes.median()) if sizes.numel() else 1.0


def _refuses(patient: Subject) -> str:
    """Why the bare model does not run on the inputs, "" if it does."""
    try:
        patient.run()
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def _moved(given: Any, device: torch.device) -> Any:
    if isinstance(given, Mapping):
        return {name: _moved(value, device) for name, value in given.items()}
    return given.to(device) if isinstance(given, Tensor) else given


def _double(given: Any) -> Any:
    if isinstance(given, Mapping):
        return {name: _double(value) for name, value in given.items()}
    return given.double() if isinstance(given, Tensor) and given.is_floating_point() else given


def _guessed(model: "Model") -> Any:
    config, takes = model.config, arguments(model.module)
    generator = torch.Generator().manual_seed(0)
    if "pixel_values" in takes and hasattr(config, "image_size") and "input_ids" not in takes:
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (2, getattr(config, "num_channels", 3), height, width)
        return {"pixel_values": torch.randn(shape, generator=generator).to(model.dtype)}
    if model.embedding is not None or _first(model.module, nn.Embedding):
        return _tokens(model, generator)
    return _shaped(model, generator)


def _tokens(model: "Model", generator: torch.Generator) -> Tensor:
    if model.tokenizer is not None:
        rows = [model.tokenizer(text)["input_ids"][:TOKENS] for text in _TEXTS]
        return torch.tensor(rows)
    embedding: Any = model.embedding or _first(model.module, nn.Embedding)
    count = getattr(model.config, "vocab_size", None) or embedding.num_embeddings
    ids = torch.randint(2, max(3, int(0.9 * count)), (2, TOKENS), generator=generator)
    return ids if model.context is None else ids[:, : model.context]


def _shaped(model: "Model", generator: torch.Generator) -> Tensor:
    part = _first(model.module, nn.Conv2d, nn.Conv1d, nn.Linear)
    if isinstance(part, nn.Conv2d):
        shape: tuple[int, ...] = (2, part.in_channels, 64, 64)
    elif isinstance(part, nn.Conv1d):
        shape = (2, part.in_channels, 64)
    elif isinstance(part, nn.Linear):
        shape = (2, part.in_features)
    else:
        raise InputError(
            explain(
                where=f"doctor, {model.name}",
                expected="inputs, as nothing tells what this module runs on",
                got="none",
                hint="examine(model, inputs=...)",
            )
        )
    return torch.randn(shape, generator=generator).to(model.dtype)


def _first(module: nn.Module, *kinds: type[nn.Module]) -> Any:
    return next((part for part in module.modules() if isinstance(part, kinds)), None)
