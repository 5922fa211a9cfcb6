"""Steered runs that begin in the middle, against runs from the beginning."""

import pytest
import torch

from jackfield.edits import Add, Function
from jackfield.steering.unsteered import Unsteered

V = torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def by_an_earlier_site(x, context):
    return x + context.read("layers.0.resid_post")


EDITS = {
    "none": [],
    "a stream": [Add(V, at="layers.1.resid_post", where="~sinks")],
    "a part": [Add(V, at="layers.1.mlp_out"), Add(V, at="layers.2.resid_post")],
    "the first block": [Add(V, at="layers.0.resid_pre")],
    "the embedding": [Add(V, at="embed"), Add(V, at="layers.2.resid_post")],
    "reads an earlier one": [
        Function(by_an_earlier_site, at="layers.2.resid_post", reads=("layers.0.resid_post",))
    ],
}


@pytest.mark.parametrize("name", EDITS)
def test_what_begins_in_the_middle_is_the_whole_run(tiny64, tokens, name):
    edits = EDITS[name]
    ((plain, steered),) = Unsteered(tiny64, tokens, edits).beside(edits)
    kept = [at for at in range(tokens.shape[1]) if at not in tiny64.sinks]
    for found, given in ((plain, []), (steered, edits)):
        expected = tiny64.run(tokens, edits=given).logits[:, kept].flatten(0, 1).float()
        torch.testing.assert_close(found, expected)


def test_blocks_before_the_edits_are_run_once(tiny64, tokens):
    counts = [0, 0, 0]

    def count(block):
        def called(*_):
            counts[block] += 1

        return called

    list(Unsteered(tiny64, tokens, EDITS["a part"]).beside([]))  # sinks are found once, and kept
    handles = [b.mlp.register_forward_hook(count(i)) for i, b in enumerate(tiny64.blocks)]
    unsteered = Unsteered(tiny64, tokens, EDITS["a part"])
    for _ in range(4):
        list(unsteered.beside(EDITS["a part"]))
    for handle in handles:
        handle.remove()
    assert counts == [1, 5, 5]
    with pytest.raises(ValueError, match=r"layers\.1"):  # it began too late for this
        list(unsteered.beside([Add(V, at="layers.0.mlp_out")]))
