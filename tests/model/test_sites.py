"""The table of sites: names, patterns, axes, capabilities, and what a wrong name is told."""

import pytest
import torch
from torch import nn

import jackfield as jf
from jackfield.core.errors import SiteError
from jackfield.model.sites import ATTENTION_ROLES, AXES, ROLE_ORDER


def test_the_names_are_in_the_order_of_the_forward(tiny, tokens):
    names = [name for name in tiny.sites.names() if not name.startswith("cache.")]
    assert names[0] == "embed"
    assert names[-2:] == ["final_norm", "logits"]
    assert len(names) == 3 + 3 * 18
    fired = []
    from jackfield import edits as E

    def note(x, context):
        fired.append(context.site)
        return x

    writable = [name for name in names if tiny.sites[name].write]
    tiny.run(tokens, edits=[E.Function(note, at=writable)])
    held_late = [name for name in writable if not name.endswith("resid_mid")]
    assert [name for name in fired if not name.endswith("resid_mid")] == held_late
    assert sorted(fired) == sorted(writable)


def test_every_site_has_the_axes_that_its_values_have(tiny, tokens):
    sizes = {
        "batch": 2, "position": 7, "query": 7, "key": 7, "d_model": 32, "vocab": 101,
        "head": 4, "kv_head": 2, "d_head": 8, "d_mlp": 48,
    }  # fmt: skip
    run = tiny.run(tokens, sites=tiny.sites.names())
    for site in tiny.sites:
        shape = tuple(sizes[axis] for axis in site.axes)
        assert run[site.name].shape == shape, site.name


def test_roles_have_a_place_in_the_order_and_axes():
    assert set(ATTENTION_ROLES) <= set(ROLE_ORDER) <= set(AXES)


def test_capabilities_say_what_can_be_done(tiny):
    assert tiny.sites["layers.1.z"].capabilities == ("read", "write", "gradient", "exact")
    assert tiny.sites["layers.1.pattern"].capabilities[-1] == "rebuilt"
    assert "write" not in tiny.sites["cache.1.k"].capabilities
    assert "exact up to rounding" in tiny.sites["layers.1.resid_mid"].note


def test_a_site_knows_its_layer_and_role(tiny):
    site = tiny.sites["layers.2.mlp_out"]
    assert (site.layer, site.role) == (2, "mlp_out")
    assert tiny.sites["logits"].layer is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("layers.*.z", ["layers.0.z", "layers.1.z", "layers.2.z"]),
        ("layers.1:.z", ["layers.1.z", "layers.2.z"]),
        ("layers.:2.z[head=1]", ["layers.0.z[head=1]", "layers.1.z[head=1]"]),
        (["layers.1.z", "layers.*.z"], ["layers.1.z", "layers.0.z", "layers.2.z"]),
        ("model.layers.*.mlp:in", [f"model.layers.{i}.mlp:in" for i in range(3)]),
        ("model.layers.1.mlp", ["model.layers.1.mlp:out"]),
        ("blocks.0.attn.hook_z", ["layers.0.z"]),
        ("layers.0.resid_*", []),
        ("embed", ["embed"]),
    ],
    ids=str,
)
def test_what_a_pattern_stands_for(text, names, tiny):
    if names:
        assert tiny.sites.select(text) == names
    else:
        with pytest.raises(SiteError):
            tiny.sites.select(text)


def test_membership(tiny):
    for name in ("layers.*.z", "layers.1.z[head=3]", "model.layers.1:out", "hook_embed"):
        assert name in tiny.sites
    for name in ("layers.9.z", "layers.1.zz", "model.layers.9:out", "layers.1.z[unit", "z[foo=1]"):
        assert name not in tiny.sites


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layers.1.resid_pots", r"Did you mean layers\.1\.resid_post"),
        ("layers.3.z", r"a layer from 0 to 2, got layers\.3\.z"),
        ("layers.-1.z", "expected a site of this model"),
        ("layers.7:9.z", "expected a site of this model"),
        ("layers.1.router", r"a site that this model has \(embed, resid_pre"),
        ("model.layers.1.mpl:out", "expected a site of this model"),
        ("layers.1.resid_post[head=3]", r"an axis of it \(batch, position, d_model\), got head"),
        ("layers.1.z[foo=1]", "got foo"),
        ("layers.1.z[head=x]", r"a selection such as \[head=3\]"),
        ("", "expected a name such as"),
        (7, "expected a name such as"),
    ],
)
def test_a_wrong_name_is_told_what_is_right(text, message, tiny):
    with pytest.raises(SiteError, match=message):
        tiny.sites.select([text])


def test_one_site_is_asked_for_by_one_name(tiny):
    with pytest.raises(SiteError, match=r"one site, got layers\.\*\.z, which is 3"):
        tiny.sites["layers.*.z"]


@pytest.mark.parametrize("index", [4, -5])
def test_a_selection_outside_its_axis_is_refused_with_its_size(index, tiny, tokens):
    with pytest.raises(SiteError, match=rf"an index within head=4, got head={index}"):
        tiny.run(tokens, sites=[f"layers.1.z[head={index}]"])


def test_a_module_without_a_family_has_raw_paths_only():
    model = jf.wrap(nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    assert model.sites.names() == []
    assert model.sites.select("0:out") == ["0:out"]
    with pytest.raises(SiteError, match="Did you mean 0:out"):
        model.sites.select("0:put")
    with pytest.raises(SiteError, match=r"none is named.* Say a module path, such as 0:out"):
        model.sites.select("layers.0.resid_post")


def test_the_base_model_alone_has_the_same_sites_but_no_logits(tiny, tokens):
    base = jf.wrap(tiny.module.model, name="base")
    assert "logits" not in base.sites
    names = ["layers.1.z", "final_norm", "embed"]
    got, expected = base.run(tokens, sites=names), tiny.run(tokens, sites=names)
    assert all(torch.equal(got[name], expected[name]) for name in names)


def test_a_module_around_a_model_is_taken_for_what_it_is(tiny, tokens):
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.config = tiny.module, tiny.module.config

        def forward(self, input_ids):
            return self.inner(input_ids)

    model = jf.wrap(Around())
    names = ["inner.model.layers.1:out", "inner.model.layers.1.mlp:in"]
    run = model.run(tokens, sites=names)
    expected = tiny.run(tokens, sites=[name.removeprefix("inner.") for name in names])
    for name in names:
        assert torch.equal(run[name], expected[name.removeprefix("inner.")])


def test_the_table_reads_like_one(tiny):
    lines = repr(tiny.sites).splitlines()
    assert lines[0].endswith("named sites of tiny")
    assert any(
        line.split()[:3] == ["z", "×", "3"] and "[batch position head d_head]" in line
        for line in lines
    )
