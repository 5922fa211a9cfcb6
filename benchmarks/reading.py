"""Reading: every resid_post of SmolLM2, one layer only, and the overhead a site."""

import torch
from torch import nn

import jackfield as jf
from benchmarks.timing import paired, table


def every_layer(rounds: int = 21) -> str:
    """Every resid_post of 4 × 128 tokens, beside the plain forward and the peers."""
    model = jf.load("smollm2")
    module = model.module
    ids = torch.randint(100, 40_000, (4, 128), generator=torch.Generator().manual_seed(0))
    call = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(128).expand(4, -1),
        "use_cache": False,
    }

    def plain() -> None:
        with torch.no_grad():
            module(**call)

    def plain_hooks() -> dict[int, torch.Tensor]:
        kept: dict[int, torch.Tensor] = {}
        handles = [
            layer.register_forward_hook(
                lambda _, __, output, index=index: kept.__setitem__(index, output)
            )
            for index, layer in enumerate(module.model.layers)
        ]
        try:
            plain()
        finally:
            for handle in handles:
                handle.remove()
        return kept

    def jackfield() -> object:
        return model.run(ids, sites=["layers.*.resid_post"])

    candidates = {"plain forward": plain, "plain hooks": plain_hooks, "jackfield": jackfield}
    candidates |= _nnsight(module, call)
    candidates |= _bridge(model, ids)
    return table(paired(candidates, rounds=rounds))


def one_layer(rounds: int = 15) -> str:
    """Only layer ℓ: the forward ends after it, so it costs about (ℓ + 1) / n of the body."""
    model = jf.load("smollm2")
    ids = torch.randint(100, 40_000, (4, 128), generator=torch.Generator().manual_seed(0))

    def until(layer: int) -> object:
        return lambda: model.run(ids, sites=[f"layers.{layer}.resid_post"], logits=False)

    last = model.n_layers - 1
    wanted = {
        f"layer {layer} ({(layer + 1) / (last + 1):.3f} of the blocks)": until(layer)
        for layer in (last, 19, 9, 2)
    }
    return table(paired(wanted, rounds=rounds))


def each_site(rounds: int = 51) -> str:
    """200 modules that do nothing: what reading one costs, copies not counted."""

    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    chain = nn.Sequential(*(Nothing() for _ in range(200)))
    model, x = jf.wrap(chain), torch.zeros(1)
    names = [f"{index}:out" for index in range(200)]

    def hooks() -> None:
        kept: dict[str, torch.Tensor] = {}
        handles = [
            part.register_forward_hook(
                lambda _, __, output, name=name: kept.__setitem__(name, output)
            )
            for name, part in chain.named_children()
        ]
        chain(x)
        for handle in handles:
            handle.remove()

    candidates = {
        "plain forward": lambda: chain(x),
        "plain hooks": hooks,
        "jackfield": lambda: model.run(x, sites=names),
    }
    timings = paired(candidates, rounds=rounds, inner=10)
    base = timings[0].median
    per_site = {t.name: (t.median - base) / 200 * 1e6 for t in timings[1:]}
    added = ", ".join(f"{name} {value:.2f} µs" for name, value in per_site.items())
    return table(timings, unit="µs", per=200) + f"\n\nAdded a site (median): {added}."


def _nnsight(module: nn.Module, call: dict[str, object]) -> dict[str, object]:
    import nnsight

    wrapped = nnsight.NNsight(module)

    def run() -> object:
        with torch.no_grad(), wrapped.trace(**call):
            # nnsight compiles this body by itself: no return in it
            kept = nnsight.save([layer.output for layer in wrapped.model.layers])
        return kept  # noqa: RET504

    return {"nnsight": run}


def _bridge(model: jf.Model, ids: torch.Tensor) -> dict[str, object]:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        hf_model=jf.load("smollm2").module,  # its own copy: the bridge changes what it wraps
        tokenizer=model.tokenizer,
    )
    wanted = {f"blocks.{layer}.hook_out" for layer in range(model.n_layers)}

    def run() -> object:
        with torch.no_grad():
            return bridge.run_with_cache(ids, names_filter=lambda name: name in wanted)

    return {"TransformerLens bridge": run}
