"""The sites of one model: every name, where it is hooked, its axes, and what it can do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from jackfield.core.errors import EditError, SiteError, did_you_mean, explain
from jackfield.core.sites import Address, Selection, expand, layer_of, parse
from jackfield.model.equations import names_in
from jackfield.model.families import Family
from jackfield.model.views import Frame, View, first, select, view, with_first

Side = Literal["in", "out", "q", "k", "v", "scores", "pattern", "z", "cache"]

AXES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "embed",
            "resid_pre",
            "resid_mid",
            "resid_post",
            "attn_in",
            "mlp_in",
            "attn_out",
            "mlp_out",
        ),
        ("batch", "position", "d_model"),
    ),
    "final_norm": ("batch", "position", "d_model"),
    "logits": ("batch", "position", "vocab"),
    **dict.fromkeys(("q_proj", "q", "z"), ("batch", "position", "head", "d_head")),
    **dict.fromkeys(("k_proj", "v_proj", "k", "v"), ("batch", "position", "kv_head", "d_head")),
    **dict.fromkeys(("scores", "pattern"), ("batch", "head", "query", "key")),
    **dict.fromkeys(("mlp_pre", "mlp_post"), ("batch", "position", "d_mlp")),
    **dict.fromkeys(("cache.k", "cache.v"), ("batch", "position", "kv_head", "d_head")),
    "router": ("batch", "position", "expert"),
    "router_topk": ("batch", "position", "choice"),
}
ATTENTION_ROLES: tuple[Side, ...] = ("q", "k", "v", "scores", "pattern", "z")
# The order of the roles within a block's forward, used to list them and to place reads.
ROLE_ORDER = (
    "resid_pre attn_in q_proj k_proj v_proj q k v scores pattern z attn_out resid_mid "
    "mlp_in router router_topk mlp_pre mlp_post mlp_out resid_post"
).split()


@dataclass(frozen=True)
class Point:
    """A place where a value passes: a module's input or output, or a slot of its attention."""

    path: str
    side: Side


@dataclass(frozen=True)
class Site:
    """A named place of one model.

    Attributes:
        name: as the user wrote it, without pattern; `role` without its layer.
        point: where it is read; `write` where an edit acts (None: read only).
        view: how the raw value is seen as the site.
        axes: names of the axes, () where they are not known (raw module paths).
        via: the site through whose change a write is made, for writes that are exact only up
            to rounding.
        note: what a user should know before trusting it.
    """

    name: str
    role: str
    point: Point
    view: View
    axes: tuple[str, ...] = ()
    write: Point | None = None
    via: str | None = None
    note: str = ""

    @property
    def layer(self) -> int | None:
        """The block's index, None outside the blocks."""
        return layer_of(self.name)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Of "read", "write", "gradient", "exact" or "rebuilt"."""
        rebuilt = self.role in ("scores", "pattern")
        chosen = self.role == "router_topk"  # indices: nothing to differentiate
        can = ["read", *(["write"] if self.write else []), *([] if chosen else ["gradient"])]
        return (*can, "rebuilt" if rebuilt else "exact")

    def narrowed(self, selection: Selection) -> "Site":
        """The site with one index chosen on each named axis.

        Raises:
            SiteError: the site has no such axis.
        """
        if not selection:
            return self
        named = tuple((_axis(axis, self), index) for axis, index in selection)
        gone = {axis for axis, _ in named}
        return replace(
            self,
            name=str(Address(self.name, selection)),
            view=select(self.view, self.axes, named),
            axes=tuple(axis for axis in self.axes if axis not in gone),
        )

    def pick(self, x: Tensor, selection: Selection) -> Tensor:
        """The part of the site's value `x` that a selection names."""
        seen = replace(self, view=view("")).narrowed(selection).view
        return seen.get(x, Frame(None, None, None))


class SiteTable:
    """The sites of a model, by name: `table["layers.3.z"]`, `table.select("layers.*.z")`."""

    def __init__(self, module: nn.Module, family: Family | None, owner: str) -> None:
        self._module, self._family, self._owner = module, family, owner
        self.base = _base(module, family) if family else ""
        self.refresh()

    def names(self) -> list[str]:
        """The named sites, in the order of the forward (raw module paths are not listed)."""
        return list(self._sites)

    def roles(self) -> dict[str, list[Site]]:
        """The named sites by role."""
        found: dict[str, list[Site]] = {}
        for site in self._sites.values():
            found.setdefault(site.role, []).append(site)
        return found

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites.values())

    def __len__(self) -> int:
        return len(self._sites)

    def __contains__(self, text: str) -> bool:
        try:
            return bool(self.select(text))
        except SiteError:
            return False

    def __getitem__(self, text: str) -> Site:
        """One site.

        Raises:
            SiteError: no such site, or the name is a pattern of several.
        """
        if text not in self._made:
            found = self.select(text)
            if len(found) != 1:
                got = f"{text}, which is {len(found)}"
                raise SiteError(explain(where=self._owner, expected="one site", got=got))
            self._made[text] = self._site(parse(found[0]))
        return self._made[text]

    def refresh(self) -> None:
        """Looks at the module anew, after parts of it were exchanged."""
        named = _named_sites(self._module, self._family, self.base)
        self._sites = {site.name: site for site in named}
        self._found: dict[str, list[str]] = {}
        self._made: dict[str, Site] = {}

    def select(self, patterns: str | Sequence[str]) -> list[str]:
        """The concrete names that one or several patterns stand for, without repeats.

        Raises:
            SiteError: a pattern matches nothing; says what is nearest.
        """
        listed = [patterns] if isinstance(patterns, str) else list(patterns)
        for text in listed:
            if text not in self._found:
                self._found[text] = self._expand(parse(text))
        return list(dict.fromkeys(name for text in listed for name in self._found[text]))

    def _expand(self, address: Address) -> list[str]:
        if address.is_raw:
            names = self._raw_names(address)
        else:
            names = expand(address, self._sites) or self._module_path(address)
        if not names:
            raise SiteError(self._missing(address))
        chosen = [str(Address(name, address.selection)) for name in names]
        for name in chosen:
            self._site(parse(name))
        return chosen

    def _raw_names(self, address: Address) -> list[str]:
        path, _, side = address.name.rpartition(":")
        if not address.is_pattern:
            return [address.name] if isinstance(_get(self._module, path), nn.Module) else []
        paths = [name for name, _ in self._module.named_modules() if name]
        return expand(address, [f"{each}:{side}" for each in paths])

    def _module_path(self, address: Address) -> list[str]:
        """A plain module path is an alias of its output."""
        paths = {name for name, _ in self._module.named_modules() if name}
        return [f"{address.name}:out"] if address.name in paths else []

    def _site(self, address: Address) -> Site:
        if not address.is_raw:
            return self._sites[address.name].narrowed(address.selection)
        path, _, side = address.name.rpartition(":")
        point = Point(path, "in" if side == "in" else "out")
        site = Site(address.name, address.name, point, view(""), (), point)
        return site.narrowed(address.selection)

    def _missing(self, address: Address) -> str:
        layers = sorted({site.layer for site in self._sites.values() if site.layer is not None})
        role = address.name.rpartition(".")[2]
        roles = self.roles()
        layer = layer_of(address.name)
        if layer is not None and layers and layer not in layers:
            expected = f"a layer from {layers[0]} to {layers[-1]}"
        elif role in AXES and role not in roles:
            expected = f"a site that this model has ({', '.join(roles) or 'none is named'})"
        else:
            expected = "a site of this model"
        choices = self.names() or [
            f"{name}:out" for name, _ in self._module.named_modules() if name
        ]
        everything = "List them with model.sites.names()."
        if not self.names() and choices:
            everything = f"Say a module path, such as {choices[0]}."
        hint = did_you_mean(address.name, choices) or everything
        return explain(where=self._owner, expected=expected, got=str(address), hint=hint)

    def __repr__(self) -> str:
        lines = [f"{len(self)} named sites of {self._owner}"]
        for role, sites in self.roles().items():
            axes = " ".join(sites[0].axes)
            span = f"× {len(sites)}" if sites[0].layer is not None else ""
            lines.append(f"  {role:<12} {span:<6} [{axes}]  {', '.join(sites[0].capabilities)}")
        return "\n".join(lines)


def _axis(axis: str, site: Site) -> str:
    """The axis called `axis`; "unit" is the last one and "position" the tokens, everywhere."""
    alias = {"unit": site.axes[-1:], "position": ("query",), "head": ("kv_head",)}
    for name in (axis, *alias.get(axis, ())):
        if name in site.axes:
            return name
    raise SiteError(
        explain(
            where=site.name,
            expected=f"an axis of it ({', '.join(site.axes) or 'none is known'})",
            got=axis,
        )
    )


def base_of(module: nn.Module, family: Family) -> str | None:
    """The prefix of the base model's path in `module`: "" where it is that, None if it has none."""
    own = getattr(module, "base_model_prefix", "")
    for prefix in (f"{own}.language_model.", f"{own}.", "language_model.", ""):
        if isinstance(_get(module, prefix + family.blocks), nn.ModuleList):
            return prefix.lstrip(".")
    return None


def _base(module: nn.Module, family: Family) -> str:
    base = base_of(module, family)
    if base is None:
        expected = f"a list of blocks at {family.blocks}"
        raise SiteError(explain(where=family.name, expected=expected, got="none"))
    return base


def _get(module: nn.Module, path: str) -> Any:
    found: Any = module
    for part in path.strip(".").split(".") if path else ():
        found = getattr(found, part, None)
    return found


def _named_sites(module: nn.Module, family: Family | None, base: str) -> list[Site]:
    if family is None:
        return []
    blocks = base + family.blocks
    count = len(_get(module, blocks))
    entry = Point(f"{blocks}.0", "in")
    sites = [Site("embed", "embed", entry, view(""), AXES["embed"], entry)]
    for layer in range(count):
        sites += _block_sites(module, family, f"{blocks}.{layer}", layer)
    if family.final_norm and _get(module, base + family.final_norm) is not None:
        norm = Point(base + family.final_norm, "out")
        sites.append(Site("final_norm", "final_norm", norm, view(""), AXES["final_norm"], norm))
    axes = _logits_axes(module, family)
    if axes:
        sites += _cache_sites(module, family, count)
        top = Point("", "out")
        sites.append(Site("logits", "logits", top, _logits_view(), axes, top))
    return sites


def _logits_axes(module: nn.Module, family: Family) -> tuple[str, ...]:
    """The axes of the logits; () for a model that lacks the family's head or returns another."""
    kind = type(module).__name__
    if family.logits is None or kind.endswith("ForPreTraining"):
        return ()
    paths = [path for path in names_in(family.logits)[1] if not path.endswith("?")]
    if any(_get(module, path) is None for path in paths):
        return ()
    return ("batch", "label") if kind.endswith("ForImageClassification") else AXES["logits"]


def _cache_sites(module: nn.Module, family: Family, count: int) -> list[Site]:
    """What the KV cache holds after the forward: keys and values before any edit of k and v."""
    if family.attention is None or not hasattr(module, "generate"):
        return []
    return [
        Site(
            f"cache.{layer}.{part}",
            f"cache.{part}",
            Point(f"{layer}.{part}", "cache"),
            view("heads_first"),
            AXES[f"cache.{part}"],
            note="all positions so far, as the cache holds them; edit k and v instead",
        )
        for layer in range(count)
        for part in ("k", "v")
    ]


def _logits_view() -> View:
    def get(raw: Any, _: Any) -> Tensor:
        found: Tensor = raw.logits if hasattr(raw, "logits") else first(raw)
        if not found.dim():
            got = "a loss before them; say return_dict=True"
            raise SiteError(explain(where="logits", expected="an output with logits", got=got))
        return found

    def put(raw: Any, new: Any, _: Any) -> Any:
        if not hasattr(raw, "logits"):
            return with_first(raw, new)
        if getattr(raw, "loss", None) is not None:
            raise EditError(
                explain(
                    where="logits",
                    expected="a call without labels: their loss was computed before the edit",
                    got="one with a loss",
                    hint="Compute the loss from the edited logits.",
                )
            )
        return type(raw)(**{**raw, "logits": new})

    return View(get, put)


def _block_sites(module: nn.Module, family: Family, block: str, layer: int) -> list[Site]:
    places = {"resid_pre": ":in", "resid_post": ":out", **family.places}
    sites = {role: _site(module, block, layer, role, place) for role, place in places.items()}
    if family.attention and _get(module, f"{block}.{family.attention}") is not None:
        path = f"{block}.{family.attention}"
        for role in ATTENTION_ROLES:
            point = Point(path, role)
            name = f"layers.{layer}.{role}"
            seen = view("heads_first" if role in ("q", "k", "v") else "")
            sites[role] = Site(
                name, role, point, seen, AXES[role], point, note=_NOTES.get(role, "")
            )
    return [sites[role] for role in ROLE_ORDER if sites.get(role) is not None]  # type: ignore[misc]


def _site(module: nn.Module, block: str, layer: int, role: str, place: str) -> Site | None:
    """The site at a place of the role table, None where this model lacks the module."""
    text, _, via = place.partition(" via ")
    spot, _, seen = text.partition(" ")
    path, _, side = spot.rpartition(":")
    full = f"{block}.{path}" if path else block
    if _get(module, full) is None:
        return None
    point = Point(full, "in" if side == "in" else "out")
    recipe = view(seen)
    name = f"layers.{layer}.{role}"
    writable = point if recipe.put else None
    note = f"written as a change of {via}: exact up to rounding" if via else ""
    return Site(name, role, point, recipe, AXES[role], writable, via or None, note)


_REBUILT = "rebuilt from q, k and the mask, checked against z; a write computes it explicitly"
_NOTES = {
    "scores": _REBUILT,
    "pattern": _REBUILT,
    "k": "edits act on all keys in the cache, at the keys' own positions",
    "v": "edits act on all values in the cache, at the keys' own positions",
}
