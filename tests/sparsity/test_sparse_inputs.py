import pytest
import torch

from jackfield.sparsity import WINA, SparseInputs
from jackfield.streams import Stream


@pytest.fixture
def stream(tiny, tokens):
    run = tiny.run(tokens, sites=list(WINA().sites))
    return Stream.from_tensor({site: run[site].flatten(0, 1) for site in run.sites})


def test_what_is_saved_is_counted_by_hand(tiny):
    fitted = WINA(sparsity=0.5, sites=("layers.0.mlp_post", "layers.2.attn_in")).fit(tiny)
    block = 32 * (32 + 16 + 16) + 32 * 32 + 3 * 32 * 48
    whole = 3 * block + 32 * 101
    assert fitted.saved == pytest.approx((24 * 32 + 16 * 64) / whole)


def test_a_saved_fit_edits_alike(tiny, tokens, stream, tmp_path):
    fitted = WINA(rule="threshold", sparsity=0.4).fit(tiny, stream)
    again = SparseInputs.load(fitted.save(tmp_path / "wina"))
    expected = tiny.run(tokens, edits=fitted.edits()).logits
    assert torch.equal(tiny.run(tokens, edits=again.edits()).logits, expected)
    assert again.report() == fitted.report()


def test_the_report_tells_sites_readers_and_errors(tiny, stream):
    fitted = WINA().fit(tiny, stream)
    rows = {row["site"]: row for row in fitted.report().table}
    assert rows["mlp_in"]["read by"] == "gate_proj, up_proj"
    assert rows["z"]["sites"] == 3
    assert sum(row["saved"] for row in rows.values()) == pytest.approx(fitted.saved)
    assert 0 < rows["mlp_post"]["error"] < 1
    assert WINA().fit(tiny).report().table[0]["error"] is None


def test_curves_need_as_many_layers_at_every_site(tiny, stream):
    some = ("layers.*.mlp_post", "layers.0.mlp_in")
    assert [block.kind for block in WINA().fit(tiny, stream).report().blocks] == ["table", "lines"]
    assert [block.kind for block in WINA(sites=some).fit(tiny, stream).report().blocks] == ["table"]
