import pytest
from hypothesis import given
from hypothesis import strategies as st

from jackfield.core.errors import SiteError
from jackfield.core.sites import Address, expand, layer_of, parse

PART = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
LAYER = st.one_of(
    st.integers(0, 99).map(str),
    st.just("*"),
    st.tuples(st.integers(0, 50), st.integers(51, 99)).map(lambda ends: f"{ends[0]}:{ends[1]}"),
)
NAMED = st.builds(lambda layer, role: f"layers.{layer}.{role}", LAYER, PART)
RAW = st.builds(
    lambda parts, side: f"{'.'.join(parts)}:{side}",
    st.lists(PART, min_size=1, max_size=4),
    st.sampled_from(["in", "out"]),
)
SELECTION = st.lists(
    st.tuples(st.sampled_from(["head", "unit", "position"]), st.integers(-9, 99)), max_size=3
).map(tuple)


@given(name=NAMED | RAW, selection=SELECTION)
def test_parse_undoes_str(name, selection):
    address = Address(name, selection)
    assert parse(str(address)) == address


@given(name=NAMED | RAW)
def test_a_raw_name_is_told_from_a_named_one(name):
    assert parse(name).is_raw == name.endswith((":in", ":out"))


@pytest.mark.parametrize("text", ["", "a[", "a[head]", "a[head=x]", "[head=1]", "a[]", "a[1]", 3])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(SiteError, match="expected a"):
        parse(text)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("blocks.5.hook_resid_pre", "layers.5.resid_pre"),
        ("blocks.5.hook_resid_mid", "layers.5.resid_mid"),
        ("blocks.5.hook_resid_post", "layers.5.resid_post"),
        ("blocks.5.attn.hook_z", "layers.5.z"),
        ("blocks.5.attn.hook_rot_q", "layers.5.q"),
        ("blocks.5.attn.hook_q", "layers.5.q_proj"),
        ("blocks.*.attn.hook_pattern", "layers.*.pattern"),
        ("blocks.1:3.mlp.hook_post", "layers.1:3.mlp_post"),
        ("hook_embed", "embed"),
    ],
)
def test_transformerlens_names_are_aliases(alias, name):
    assert parse(alias).name == name


def test_an_alias_keeps_its_selection():
    assert str(parse("blocks.2.attn.hook_z[head=3]")) == "layers.2.z[head=3]"


def test_spaces_in_a_selection_do_not_matter():
    assert parse("layers.2.z[ head = 3, position=-1 ]") == parse("layers.2.z[head=3,position=-1]")


@given(start=st.none() | st.integers(0, 12), stop=st.none() | st.integers(0, 12))
def test_a_range_is_that_of_a_slice(start, stop):
    names = [f"layers.{layer}.z" for layer in range(10)]
    text = f"layers.{'' if start is None else start}:{'' if stop is None else stop}.z"
    assert expand(parse(text), names) == names[slice(start, stop)]


def test_a_star_stands_for_one_part_only():
    names = ["layers.0.z", "layers.0.q", "vision.layers.0.z", "layers.0.a.z", "logits"]
    assert expand(parse("layers.*.z"), names) == ["layers.0.z"]
    assert expand(parse("*.layers.*.z"), names) == ["vision.layers.0.z"]
    assert expand(parse("layers.0.*"), names) == ["layers.0.z", "layers.0.q"]


def test_a_raw_pattern_keeps_its_side():
    names = ["features.0.conv:in", "features.0.conv:out", "features.1.conv:out"]
    assert expand(parse("features.*.conv:out"), names) == names[1:]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("layers.12.resid_post", 12),
        ("layers.3.z[head=1]", 3),
        ("vision.layers.4.z", 4),
        ("cache.7.k", 7),
        ("logits", None),
        ("model.layers.5.mlp:out", None),
        ("layers.*.z", None),
    ],
)
def test_layer_of(name, layer):
    assert layer_of(name) == layer
