"""The examples of our own entries, and what is known to fail."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from jackfield.circuits import IOI, ActivationPatching, LogitDifference, PatchGrid
from jackfield.circuits.ioi import NAMES, OBJECTS, PLACES, TEMPLATES
from jackfield.core.config import replace
from jackfield.dictionaries import (
    ICA,
    NMF,
    PCA,
    SNMF,
    BatchTopK,
    Crosscoder,
    CrosscoderDictionary,
    Factors,
    Gated,
    JumpReLU,
    KMeans,
    Matryoshka,
    ReLU,
    SparseDictionary,
    ThresholdSAE,
    TopK,
    Transcoder,
    Variational,
)
from jackfield.dictionaries.factor_method import FactorMethod
from jackfield.dictionaries.sparse_method import SparseMethod
from jackfield.edits import Edit
from jackfield.functions import SELU
from jackfield.lenses import LogitLens
from jackfield.memory import LowPrecision
from jackfield.model.model import Model
from jackfield.sparsity import WINA, SparseInputs
from jackfield.steering import MeanDifference, SteeringVector
from jackfield.streams import Batch, Stream
from jackfield.streams.views import Derived
from jackfield.testing.example import (
    BatteryExample,
    Example,
    MethodExample,
    PartExample,
    SavingExample,
    StudyExample,
)
from jackfield.testing.worlds import World, tiny_llama

# (name of the record, name of the check): why. A check that passes after all is a failure too.
KNOWN_FAILURES: dict[tuple[str, str], str] = {
    ("transcoder", "gradient_flows_through_edits"): (
        "it replaces the output from the input alone, so nothing flows to the output it replaces"
    ),
}


_SMALL: dict[str, Any] = {
    "latents": 24,
    "rows": 512,
    "batch": 64,
    "dead_after": 200,
}  # of a sparse dictionary
_MLP = ("layers.1.mlp_in", "layers.1.mlp_out")
_LAYERS = ("layers.0.resid_post", "layers.1.resid_post")


def _fit_sparse(method: SparseMethod[SparseDictionary], world: World) -> SparseDictionary:
    return method.fit(world.stream(), progress=False)


def _sparse_identity(method: SparseMethod[SparseDictionary], world: World) -> list[Edit]:
    return _fit_sparse(method, world).edits("splice_with_error", where="all")


def _sparse(
    cls: type[SparseMethod[SparseDictionary]], wrong: dict[str, Any], **settings: Any
) -> MethodExample:
    """A sparse autoencoder; `wrong` are settings that contradict each other."""
    refused = {"two sites": lambda world: cls().fit(world.stream("embed", world.site))}
    if wrong:
        refused["settings at odds"] = lambda world: cls(**wrong).fit(world.stream())
    return MethodExample(
        make=lambda: cls(**_SMALL, **settings),
        fit=_fit_sparse,
        identity=_sparse_identity,
        refused=refused,
    )


def _factors(
    make: Callable[[], FactorMethod],
    *,
    magnitudes: bool = False,
    differentiable: bool = True,
    refused: dict[str, Callable[[World], Any]] | None = None,
) -> MethodExample:
    """A factorisation, of the activations or of their magnitudes."""

    def fit(method: FactorMethod, world: World) -> Factors:
        return method.fit(_magnitudes(world.stream()) if magnitudes else world.stream())

    two_sites = {"two sites": lambda world: make().fit(world.stream("embed", world.site))}
    return MethodExample(
        make=make,
        fit=fit,
        identity=lambda method, world: fit(method, world).edits("splice_with_error", where="all"),
        differentiable=differentiable,
        refused=two_sites | (refused or {}),
    )


def _magnitudes(stream: Stream) -> Stream:
    """|x| in the place of x."""

    def through(source: Stream, start: int) -> Iterator[Batch]:
        for batch in source.batches(start):
            sizes = {site: x.abs() for site, x in batch.activations.items()}
            yield dataclasses.replace(batch, activations=sizes)

    return Derived(stream, through, note={"magnitudes": True})


def _fit_transcoder(method: Transcoder, world: World) -> SparseDictionary:
    return method.fit(world.stream(*_MLP), progress=False)


def _transcoder_identity(method: Transcoder, world: World) -> list[Edit]:
    return _fit_transcoder(method, world).edits("splice_with_error", where="all")


def _fit_crosscoder(method: Crosscoder, world: World) -> CrosscoderDictionary:
    return method.fit(world.stream(*_LAYERS), progress=False)


def _crosscoder_identity(method: Crosscoder, world: World) -> list[Edit]:
    return _fit_crosscoder(method, world).edits("splice_with_error", where="all")


def _fit_direction(method: MeanDifference, world: World) -> SteeringVector:
    return method.fit(world.model, positive=world.tokens, negative=world.other, at=world.site)


def _direction_identity(method: MeanDifference, world: World) -> list[Edit]:
    return _fit_direction(method, world).edits(strength=0.0, where="all")


def _fit_wina(method: WINA, world: World) -> SparseInputs:
    return method.fit(world.model, world.stream(*method.sites))


def _wina_identity(method: WINA, world: World) -> list[Edit]:
    return _fit_wina(replace(method, sparsity=0.0), world).edits(where="all")


def _patch(study: ActivationPatching, world: World) -> PatchGrid:
    return study.run(
        world.model,
        clean=world.tokens[:2],
        corrupted=world.other[:2],
        metric=LogitDifference(answer=5, wrong=9),
    )


def _speaker() -> Model:
    """A model with a tokenizer that knows the words of the indirect-object prompts."""
    words = " ".join((*NAMES, *PLACES, *OBJECTS))
    return tiny_llama(texts=[f" {words}", *TEMPLATES])


EXAMPLES: dict[str, Example] = {
    "topk": _sparse(TopK, {"latents": 2, "k": 3}, k=4),
    "batch-topk": _sparse(BatchTopK, {"latents": 2, "k": 3}, k=4),
    "sae-matryoshka": _sparse(Matryoshka, {"latents": 8, "k": 3, "widths": (4,)}, k=4),
    "sae-relu": _sparse(ReLU, {}),
    "sae-jump-relu": _sparse(JumpReLU, {}),
    "sae-gated": _sparse(Gated, {}),
    "sae-variational": _sparse(Variational, {"latents": 2, "k": 3}, k=4),
    "sae-threshold": MethodExample(
        make=lambda: ThresholdSAE(**_SMALL),
        fit=lambda method, world: method.fit(world.stream(), progress=False),
        identity=lambda method, world: method.fit(world.stream(), progress=False).edits(
            "splice_with_error", where="all"
        ),
        refused={
            "two sites": lambda world: ThresholdSAE().fit(world.stream("embed", world.site)),
            "fewer rows than dimensions": lambda world: ThresholdSAE().fit(world.stream().take(9)),
        },
    ),
    "transcoder": MethodExample(
        make=lambda: Transcoder(reads=_MLP[0], writes=_MLP[1], skip=True, k=4, **_SMALL),
        fit=_fit_transcoder,
        identity=_transcoder_identity,
        refused={
            "a stream without the sites": lambda world: Transcoder(
                reads=_MLP[0], writes=_MLP[1]
            ).fit(world.stream()),
            "one site for both": lambda world: Transcoder(reads=world.site, writes=world.site).fit(
                world.stream()
            ),
        },
    ),
    "crosscoder": MethodExample(
        make=lambda: Crosscoder(k=4, **_SMALL),
        fit=_fit_crosscoder,
        identity=_crosscoder_identity,
        refused={"one site": lambda world: Crosscoder().fit(world.stream())},
    ),
    "pca": _factors(
        lambda: PCA(latents=8),
        refused={"too many latents": lambda world: PCA(latents=64).fit(world.stream())},
    ),
    "ica": _factors(
        lambda: ICA(latents=4, passes=20),
        refused={"too many latents": lambda world: ICA(latents=64).fit(world.stream())},
    ),
    "k-means": _factors(
        lambda: KMeans(latents=8, passes=10),
        differentiable=False,
        refused={"too many latents": lambda world: KMeans(latents=1000).fit(world.stream())},
    ),
    "nmf": _factors(
        lambda: NMF(latents=4, passes=3),
        magnitudes=True,
        refused={"negative rows": lambda world: NMF(latents=4).fit(world.stream())},
    ),
    "snmf": _factors(
        lambda: SNMF(latents=4, keep=0.5, rounds=20),
        refused={"too many latents": lambda world: SNMF(latents=1000).fit(world.stream())},
    ),
    "mean-difference": MethodExample(
        make=MeanDifference,
        fit=_fit_direction,
        identity=_direction_identity,
        refused={
            "a site with heads": lambda world: MeanDifference().fit(
                world.model, positive=world.tokens, negative=world.other, at="layers.1.z"
            ),
            "a layer that is not there": lambda world: MeanDifference().fit(
                world.model, positive=world.tokens, negative=world.other, at="layers.9.resid_post"
            ),
            "equal sides": lambda world: MeanDifference().fit(
                world.model, positive=world.tokens, negative=world.tokens, at=world.site
            ),
        },
    ),
    "wina": MethodExample(
        make=lambda: WINA(sparsity=0.5),
        fit=_fit_wina,
        identity=_wina_identity,
        refused={
            "a site that nothing linear reads": lambda world: WINA(sites=("layers.*.mlp_pre",)).fit(
                world.model
            ),
            "threshold without a stream": lambda world: WINA(rule="threshold").fit(world.model),
            "a stream without the sites": lambda world: WINA().fit(world.model, world.stream()),
        },
    ),
    "logit-lens": StudyExample(
        make=lambda: LogitLens(k=3),
        run=lambda study, world: study.run(world.model, world.tokens[:3]),
        refused={
            "a site of another width": lambda world: LogitLens(sites="layers.*.mlp_post").run(
                world.model, world.tokens[:1]
            ),
            "no tokens": lambda world: LogitLens().run(
                world.model, {"inputs_embeds": torch.zeros(1, 3, world.model.d_model)}
            ),
        },
    ),
    "activation-patching": StudyExample(
        make=ActivationPatching,
        run=_patch,
        varying=("seconds",),
        refused={
            "the same prompts": lambda world: ActivationPatching().run(
                world.model,
                clean=world.tokens[:1],
                corrupted=world.tokens[:1],
                metric=LogitDifference(answer=5, wrong=9),
            ),
            "heads where there are none": lambda world: ActivationPatching(by="head").run(
                world.model,
                clean=world.tokens[:1],
                corrupted=world.other[:1],
                metric=LogitDifference(answer=5, wrong=9),
            ),
        },
    ),
    "ioi": BatteryExample(make=IOI, model=_speaker),
    "selu": PartExample(make=SELU, swap="model.layers.*.mlp.act_fn"),
    "low-precision": SavingExample(make=lambda: LowPrecision(min_elements=1), tolerance=0.02),
}
