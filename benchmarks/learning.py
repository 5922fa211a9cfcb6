"""Learning: a training step of TopK beside SAELens, dictionary_learning and sparsify.

Peers that are not installed are left out. Each does what its own trainer does in a step: the loss
with its auxiliary part, gradients, its optimiser, the bookkeeping of what fired.
"""

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

import jackfield as jf
from benchmarks.timing import paired, table
from jackfield.dictionaries.sparse_method import learner_of

WIDTH, LATENTS, K, BATCH = 576, 16_384, 32, 4096


def step(rounds: int = 5) -> str:
    """d = 576, 16 384 latents, k = 32, batch 4096, float32 but where said; data alike for all."""
    draw = torch.Generator().manual_seed(0)
    parts = torch.randn(2000, WIDTH, generator=draw)
    codes = torch.rand(BATCH, 2000, generator=draw) * (torch.rand(BATCH, 2000) < 0.02)
    x = codes @ parts
    candidates: dict[str, Callable[[], object]] = {
        "the encoder's product alone": _product(x),
        "jackfield": _ours(x, "float32"),
        "jackfield, bfloat16 products": _ours(x, "bfloat16"),
    }
    peers = {
        "SAELens": ("sae_lens", _saelens),
        "dictionary_learning": ("dictionary_learning", _dictionary_learning),
        "sparsify": ("sparsify", _sparsify),
    }
    for name, (module, make) in peers.items():
        if importlib.util.find_spec(module) is not None:
            candidates[name] = make(x)
    return table(paired(candidates, rounds=rounds))


def _product(x: Tensor) -> Callable[[], object]:
    encoder = torch.randn(LATENTS, WIDTH)
    return lambda: x @ encoder.T


def _ours(x: Tensor, compute: str) -> Callable[[], object]:
    rows = BATCH * 1000
    method = jf.dictionaries.TopK(latents=LATENTS, k=K, batch=BATCH, rows=rows, compute=compute)
    learner = learner_of(method, ("x",))
    learner.start({"x": x})
    return lambda: learner.step({"x": x}, 0.5)


def _saelens(x: Tensor) -> Callable[[], object]:
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=WIDTH, d_sae=LATENTS, k=K, device="cpu"))
    adam = torch.optim.Adam(sae.parameters(), lr=3e-4)
    silent = torch.zeros(LATENTS)

    def step() -> None:
        given = TrainStepInput(x, {}, silent > 1000, 0, False)
        out = sae.training_forward_pass(given)
        with torch.no_grad():
            silent.add_(1)[out.feature_acts.bool().float().sum(-2).bool()] = 0
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        adam.step()
        adam.zero_grad()

    return step


def _dictionary_learning(x: Tensor) -> Callable[[], object]:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10_000, activation_dim=WIDTH, dict_size=LATENTS, k=K, layer=0, lm_name="x",
        device="cpu", warmup_steps=10,
    )  # fmt: skip
    count = iter(range(1, 10_000))
    return lambda: trainer.update(next(count), x)


def _sparsify(x: Tensor) -> Callable[[], object]:
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(WIDTH, SparseCoderConfig(num_latents=LATENTS, k=K), device="cpu")
    adam = torch.optim.Adam(coder.parameters(), lr=3e-4)

    def step() -> None:
        coder(x).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        coder.set_decoder_norm_to_unit_norm()

    return step
