"""Generating: steered beside unsteered, and beside transformers' own loop."""

import torch

import jackfield as jf
from benchmarks.timing import paired

NEW = 40


def steered(rounds: int = 15) -> str:
    """Tokens a second with an Add at one layer on every generated token."""
    model = jf.load("smollm2")
    prompt = "The history of the harbour begins with"
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    edit = jf.edits.Add(vector, at="layers.15.resid_post", where="generated", strength=0.1)
    given = model.tokenize(prompt)

    def transformers_own() -> None:
        model.module.generate(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            pad_token_id=model.tokenizer.pad_token_id,
        )

    candidates = {
        "unsteered": lambda: model.generate(prompt, max_new_tokens=NEW),
        "steered": lambda: model.generate(prompt, max_new_tokens=NEW, edits=[edit]),
        "transformers generate": transformers_own,
    }
    made = {name: _count(model, prompt, name, edit) for name in candidates}
    lines = ["| | tokens/s (median) | share of unsteered | 95 % |", "|---|---|---|---|"]
    for timing in paired(candidates, rounds=rounds):
        low, high = timing.interval
        scale = made[timing.name] / made["unsteered"]
        lines.append(
            f"| {timing.name} | {made[timing.name] / timing.median:.1f} "
            f"| {scale / timing.ratio:.3f} "
            f"| {scale / high:.3f}–{scale / low:.3f} |"
        )
    return "\n".join(lines)


def _count(model: jf.Model, prompt: str, name: str, edit: jf.edits.Edit) -> int:
    """Tokens that one call makes."""
    if name == "transformers generate":
        return NEW
    edits = [edit] if name == "steered" else []
    return int(model.generate(prompt, max_new_tokens=NEW, edits=edits).tokens.shape[1])
