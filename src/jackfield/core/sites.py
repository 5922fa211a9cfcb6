"""Site addresses: how a place in a model is named, before any model is asked.

layers.5.resid_post            one site
layers.*.resid_post            every layer that has it;  layers.8:12.resid_post   layers 8 to 11
layers.5.z[head=3]             a selection on a named axis;  [head=3,position=0]  on two
features.17.conv.1:out         any module's output; ":in" its input
blocks.5.hook_resid_post       TransformerLens names are aliases
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from jackfield.core.errors import SiteError, explain

Selection = tuple[tuple[str, int], ...]

_SELECTION = re.compile(r"^(?P<name>[^\[\]]+)(?:\[(?P<selection>[^\[\]]+)\])?$")
_TRANSFORMERLENS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_rot_q": "q",
    "attn.hook_rot_k": "k",
    "attn.hook_q": "q_proj",
    "attn.hook_k": "k_proj",
    "attn.hook_v": "v",
    "attn.hook_z": "z",
    "attn.hook_attn_scores": "scores",
    "attn.hook_pattern": "pattern",
    "mlp.hook_pre": "mlp_pre",
    "mlp.hook_post": "mlp_post",
}


@dataclass(frozen=True)
class Address:
    """A parsed site name or pattern: the dotted name, and what is selected of it."""

    name: str
    selection: Selection = ()

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for several sites (`*` or a range)."""
        return any(part == "*" or _range(part) for part in _parts(self.name))

    @property
    def is_raw(self) -> bool:
        """Whether the name is a module path with `:in` or `:out`."""
        return self.name.endswith((":in", ":out"))

    def __str__(self) -> str:
        chosen = ",".join(f"{axis}={index}" for axis, index in self.selection)
        return f"{self.name}[{chosen}]" if chosen else self.name


def parse(text: str) -> Address:
    """Reads a site name or pattern.

    Raises:
        SiteError: the text is not of the form of an address.

    >>> parse("layers.5.z[head=3]")
    Address(name='layers.5.z', selection=(('head', 3),))
    >>> str(parse("blocks.5.attn.hook_z"))
    'layers.5.z'
    """
    found = _SELECTION.match(text) if isinstance(text, str) else None
    if not found:
        raise SiteError(
            explain(
                where="site",
                expected="a name such as layers.5.resid_post, layers.*.z[head=3] or a.module:out",
                got=repr(text),
            )
        )
    return Address(_from_transformerlens(found["name"]), _selection(found["selection"], text))


def expand(address: Address, names: Iterable[str]) -> list[str]:
    """The concrete `names` that a pattern stands for, in their order.

    >>> expand(parse("layers.1:3.z"), [f"layers.{i}.z" for i in range(5)])
    ['layers.1.z', 'layers.2.z']
    """
    wanted = _parts(address.name)
    return [name for name in names if _matches(wanted, _parts(name))]


def layer_of(name: str) -> int | None:
    """The block's index in a name, None for sites outside the blocks.

    >>> layer_of("layers.12.resid_post"), layer_of("logits")
    (12, None)
    """
    found = re.match(r"(?:.*\.)?(?:layers|cache)\.(\d+)\.", name)
    return int(found[1]) if found and not name.endswith((":in", ":out")) else None


def in_words(names: Collection[str]) -> str:
    """The name of one site, or how many they are.

    >>> in_words(["layers.3.mlp_out"]), in_words(["layers.3.mlp_out", "layers.4.mlp_out"])
    ('layers.3.mlp_out', '2 sites')
    """
    return next(iter(names)) if len(names) == 1 else f"{len(names)} sites"


def _parts(name: str) -> list[str]:
    path, colon, side = name.rpartition(":")
    raw = colon and side in ("in", "out")
    return [*path.split("."), side] if raw else name.split(".")


def _range(part: str) -> re.Match[str] | None:
    return re.fullmatch(r"(\d*):(\d*)", part)


def _matches(wanted: list[str], parts: list[str]) -> bool:
    return len(wanted) == len(parts) and all(map(_part_matches, wanted, parts))


def _part_matches(wanted: str, part: str) -> bool:
    if wanted == "*" or wanted == part:
        return True
    found = _range(wanted)
    if not found or not part.isdigit():
        return False
    start, stop = found.groups()
    return int(start or 0) <= int(part) < (int(stop) if stop else float("inf"))


def _selection(text: str | None, whole: str) -> Selection:
    if text is None:
        return ()
    pairs = [re.fullmatch(r"\s*(\w+)\s*=\s*(-?\d+)\s*", item) for item in text.split(",")]
    if not all(pairs):
        raise SiteError(
            explain(where=whole, expected="a selection such as [head=3]", got=f"[{text}]")
        )
    return tuple((found[1], int(found[2])) for found in pairs if found)


def _from_transformerlens(name: str) -> str:
    if name in ("hook_embed", "embed.hook_out"):
        return "embed"
    found = re.match(r"blocks\.([\d*:]+)\.(.+)$", name)
    if found and found[2] in _TRANSFORMERLENS:
        return f"layers.{found[1]}.{_TRANSFORMERLENS[found[2]]}"
    return name
