"""The real libraries, by hand: makes the data of these tests, and checks what Jackfield writes.

    python libraries.py make data       every case: the library's own files, inputs and outputs
    python libraries.py check FOLDER    what `written.py FOLDER` wrote, loaded by the libraries

Needs sae-lens 6.54.12, eai-sparsify 1.3.3, dictionary-learning 0.1.0 (in an environment of their
own; Jackfield is not imported). The weights are random numbers that we drew. No test runs it.
"""

import json
import os
import sys
from pathlib import Path

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"

import dictionary_learning.dictionary as dl
import numpy as np
import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary
from sae_lens import saes
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.saes.matryoshka_batchtopk_sae import (
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.saes.sae import SAE, SAEMetadata
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder, SparseCoderConfig

ROWS, D, LATENTS, OUT, K = 16, 8, 20, 6, 3
HOOK, FROM, Z = "blocks.5.hook_resid_post", "blocks.5.hook_resid_mid", "blocks.5.attn.hook_z"
HEADS = 2


def randomise(module, seed=0):
    """Draws every weight, decoder rows of lengths from 0.5 to 2."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=draw))
            if name == "threshold":
                weight.abs_()
    return module


def unit_decoder(module):
    with torch.no_grad():
        module.decoder.weight /= module.decoder.weight.norm(dim=0)
    return module


def keep(folder, x, codes, rebuilt, lengths):
    found = {"x": x, "codes": codes, "rebuilt": rebuilt, "lengths": lengths}
    found = {name: each.detach().float().contiguous() for name, each in found.items()}
    save_file(found, folder / "expected.safetensors")


def rows():
    return 2 * torch.randn(ROWS, D, generator=torch.Generator().manual_seed(1))


# --------------------------------------------------------------------------------------- SAELens


def sae_lens_cases():
    plain = {"standard": ("StandardSAE", {}), "jumprelu": ("JumpReLUSAE", {})}
    plain |= {"gated": ("GatedSAE", {}), "topk": ("TopKSAE", {"k": K})}
    cases = {name: (kind, {}, extra) for name, (kind, extra) in plain.items()}
    raw = {"apply_b_dec_to_input": False}
    cases |= {f"{name}_raw_input": (kind, raw, extra) for name, (kind, extra) in plain.items()}
    cases["topk_rescaled"] = ("TopKSAE", {}, {"k": K, "rescale_acts_by_decoder_norm": True})
    heads = {"reshape_activations": "hook_z", "metadata": SAEMetadata(hook_name=Z)}
    cases["standard_hook_z"] = ("StandardSAE", heads, {})
    cases["standard_bfloat16"] = ("StandardSAE", {"dtype": "bfloat16"}, {})
    return cases


def sae_lens_one(folder, kind, options, extra):
    metadata = {"metadata": SAEMetadata(hook_name=HOOK, model_name="random")}
    options = metadata | options | extra
    config = getattr(saes, f"{kind}Config")(d_in=D, d_sae=LATENTS, **options)
    sae = getattr(saes, kind)(config)
    randomise(sae).save_model(folder)
    expect_sae(folder, rows())


def expect_sae(folder, x):
    sae = SAE.load_from_disk(folder)
    if sae.cfg.dtype == "bfloat16":  # its own weights, without the rounding of its products
        sae = sae.to(dtype=torch.float32)
    seen = x.unflatten(1, (HEADS, -1)) if sae.cfg.reshape_activations == "hook_z" else x
    codes, rebuilt = sae.encode(seen), sae(seen).flatten(1)
    lengths = sae.W_dec.norm(dim=1)
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        lengths = torch.ones_like(lengths)
    keep(folder, x, codes, rebuilt, lengths)


def sae_lens_trained(folder, kind, config, **extra):
    """What a training run saves for inference: BatchTopK and Matryoshka become jumprelu."""
    metadata = SAEMetadata(hook_name=HOOK, model_name="random")
    options = {"d_in": D, "d_sae": LATENTS, "k": float(K), "metadata": metadata, **extra}
    sae = randomise(kind(config(**options)))
    sae.topk_threshold.fill_(0.7)
    sae.save_inference_model(folder)
    expect_sae(folder, rows())


def sae_lens_transcoders():
    kinds = ["Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder"]
    for kind in kinds:
        folder = root / f"sae_lens-{kind.lower()}"
        metadata = SAEMetadata(hook_name=FROM, hook_name_out=HOOK)
        config = getattr(saes, f"{kind}Config")(
            d_in=D, d_sae=LATENTS, d_out=OUT, apply_b_dec_to_input=False, metadata=metadata
        )
        randomise(getattr(saes, kind)(config)).save_model(folder)
        expect_sae(folder, rows())


# -------------------------------------------------------------------------------------- sparsify


def sparsify_one(name, *, normal, **options):
    folder = root / name
    options = {"k": K, "num_latents": LATENTS} | options
    coder = SparseCoder(D, SparseCoderConfig(**options))
    randomise(coder)
    if normal:
        coder.set_decoder_norm_to_unit_norm()
    coder.save_to_disk(folder)
    expect_sparsify(folder, rows())


def expect_sparsify(folder, x):
    coder = SparseCoder.load_from_disk(folder)
    out = coder(x)
    codes = torch.zeros(len(x), coder.num_latents)
    codes = codes.scatter(1, out.latent_indices, out.latent_acts)
    keep(folder, x, codes, out.sae_out, coder.W_dec.norm(dim=1))


# --------------------------------------------------------------------------- dictionary_learning


def dictionary_learning_cases():
    yield "autoencoder", dl.AutoEncoder(D, LATENTS), {}
    yield "autoencodernew", dl.AutoEncoderNew(D, LATENTS), {}
    yield "gatedautoencoder", dl.GatedAutoEncoder(D, LATENTS), {}
    yield "jumpreluautoencoder", dl.JumpReluAutoEncoder(D, LATENTS), {}
    yield "autoencodertopk", AutoEncoderTopK(D, LATENTS, K), {"k": K}
    yield "batchtopksae", BatchTopKSAE(D, LATENTS, K), {"k": K}
    yield "batchtopksae_unset", BatchTopKSAE(D, LATENTS, K), {"k": K}
    groups = MatryoshkaBatchTopKSAE(D, LATENTS, K, [5, LATENTS - 5])
    yield "matryoshkabatchtopksae", groups, {"k": K}


def dictionary_learning_one(folder, module, extra):
    folder.mkdir(parents=True)
    randomise(module)
    if "Top" in type(module).__name__ and "unset" not in folder.name:
        module.threshold.fill_(0.7)
    if isinstance(module, AutoEncoderTopK):
        unit_decoder(module)
    torch.save(module.state_dict(), folder / "ae.pt")
    trainer = {"dict_class": type(module).__name__, "activation_dim": D, "dict_size": LATENTS}
    trainer |= {"layer": 5, "submodule_name": "resid_post_layer_5", "lm_name": "random", **extra}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {}}))
    expect_dictionary_learning(folder, rows())


def expect_dictionary_learning(folder, x):
    module = load_dictionary(str(folder), device="cpu")[0]
    weight = module.W_dec if hasattr(module, "W_dec") else module.decoder.weight.T
    keep(folder, x, module.encode(x), module(x), weight.norm(dim=1))


# ----------------------------------------------------------------------------------- Gemma Scope


def gemma_scope():
    inner = "layer_5/width_16k/average_l0_7"
    folder = root / "gemma-scope-2b-pt-res" / inner
    folder.mkdir(parents=True)
    sae = randomise(saes.JumpReLUSAE(saes.JumpReLUSAEConfig(d_in=D, d_sae=LATENTS)))
    arrays = {name: each.detach().numpy() for name, each in sae.named_parameters()}
    np.savez(folder / "params.npz", **arrays)
    loaders.hf_hub_download = lambda **_: str(folder / "params.npz")
    repo = "google/gemma-scope-2b-pt-res"
    cfg, state, _ = loaders.gemma_2_sae_huggingface_loader(repo, inner)
    config = saes.JumpReLUSAEConfig(
        d_in=D, d_sae=LATENTS, apply_b_dec_to_input=cfg["apply_b_dec_to_input"]
    )
    sae, x = saes.JumpReLUSAE(config), rows()
    sae.load_state_dict(state)
    keep(folder, x, sae.encode(x), sae(x), sae.W_dec.norm(dim=1))


def make():
    for name, (kind, options, extra) in sae_lens_cases().items():
        sae_lens_one(root / f"sae_lens-{name}", kind, options, extra)
    trained = saes.BatchTopKTrainingSAE, saes.BatchTopKTrainingSAEConfig
    sae_lens_trained(root / "sae_lens-batchtopk", *trained)
    nested = MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig
    widths = {"matryoshka_widths": [5, LATENTS]}
    sae_lens_trained(root / "sae_lens-matryoshka", *nested, **widths)
    sae_lens_transcoders()
    sparsify_one("sparsify/layers.5", normal=True)
    sparsify_one("sparsify/layers.6", normal=False, normalize_decoder=False)
    sparsify_one("sparsify/layers.7", normal=True, num_latents=0, expansion_factor=3)
    sparsify_one("sparsify/layers.5.mlp", normal=False, transcode=True)
    sparsify_one("sparsify/layers.6.mlp", normal=False, transcode=True, skip_connection=True)
    for name, module, extra in dictionary_learning_cases():
        dictionary_learning_one(root / f"dictionary_learning-{name}", module, extra)
    gemma_scope()


# ----------------------------------------------------------------------- what Jackfield has written


def check():
    """The largest differences between the library's outputs and Jackfield's, folder by folder."""
    expect = {"sae_weights.safetensors": expect_sae, "sae.safetensors": expect_sparsify}
    expect["ae.pt"] = expect_dictionary_learning
    for path in sorted(root.rglob("ours.safetensors")):
        folder, ours = path.parent, load_file(path)
        run = next(run for file, run in expect.items() if (folder / file).is_file())
        run(folder, ours["x"])
        theirs = load_file(folder / "expected.safetensors")
        codes = ours["codes"] * ours["lengths"] - theirs["codes"] * theirs["lengths"]
        codes = codes.abs().max()
        rebuilt = (ours["rebuilt"] - theirs["rebuilt"]).abs().max()
        fired = ours["codes"].gt(0).float().sum(1).mean()
        print(f"{folder.name:45} codes {codes:.1e}  x̂ {rebuilt:.1e}  L0 {fired:.1f}")
        assert max(codes, rebuilt) < 1e-5, folder


if __name__ == "__main__":
    root = Path(sys.argv[2])
    {"make": make, "check": check}[sys.argv[1]]()
