"""Names: for which site a foreign dictionary is, and what a site of ours is called elsewhere.

    blocks.5.hook_resid_post       TransformerLens: by the table of aliases in `core/sites.py`
    layers.5, gpt_neox.layers.5    the module of a whole block (sparsify): layers.5.resid_post
    resid_post_layer_5             dictionary_learning's demo
    layers.5.mlp_out               ours, in files that we wrote

A hook within a block that is not in the table (`ln2.hook_normalized`, `layers.5.mlp` by module)
lies at another place in one family of models than in the next, so it is not guessed: give `site`.
"""

import re
from pathlib import Path

from jackfield.core.errors import ArtifactError, InputError, explain
from jackfield.core.sites import parse

Site = str | tuple[str, str]
OWN = "jackfield_site"  # where files that we write keep (read, rebuilt)

_BLOCK = re.compile(r"(?:.*\.)?(?:layers|h)\.(\d+)")
_DEMO = re.compile(r"resid_post_layer_(\d+)")
_HOOKS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


def site_of(name: object) -> str | None:
    """The site that a foreign name stands for; None if that is not certain.

    >>> site_of("blocks.5.hook_resid_post"), site_of("gpt_neox.layers.5"), site_of("layers.5.mlp")
    ('layers.5.resid_post', 'layers.5.resid_post', None)
    """
    if not isinstance(name, str) or not name:
        return None
    block = _BLOCK.fullmatch(name) or _DEMO.fullmatch(name)
    if block:
        return f"layers.{block[1]}.resid_post"
    ours = parse(name).name if re.fullmatch(r"[\w.]+", name) else name
    known = ours == "embed" or (ours != name and ours.startswith("layers."))
    return ours if known else None


def hook_of(site: str) -> str | None:
    """TransformerLens' name of a site, None if it has none.

    >>> hook_of("layers.5.resid_post"), hook_of("layers.5.z"), hook_of("layers.5.mlp_in")
    ('blocks.5.hook_resid_post', 'blocks.5.attn.hook_z', None)
    """
    found = re.fullmatch(r"layers\.(\d+)\.(\w+)", site)
    if not found:
        return None
    hooks = ["attn.hook_z", *(f"hook_{role}" for role in _HOOKS)]
    names = [f"blocks.{found[1]}.{hook}" for hook in hooks]
    return next((name for name in names if parse(name).name == site), None)


def sites(
    site: Site | None, names: tuple[object, object], own: object, *, transcoder: bool, where: Path
) -> tuple[str, str]:
    """The sites that are read and rebuilt: what is given, else what the file says.

    Args:
        site: what the user gave.
        names: the file's names of the two, None where it has none.
        own: what stands in the file under `OWN`.
        transcoder: whether the two differ.
        where: the file, for the error.

    Raises:
        InputError: one site for a transcoder, or two for an autoencoder.
        ArtifactError: nothing is given, and the file's names are not sites for certain.
    """
    if site is not None:
        return _given(site, transcoder=transcoder, where=where)
    if _is_pair(own):
        return str(own[0]), str(own[1])  # type: ignore[index]
    found = [site_of(name) for name in names]
    if found[0] is None or found[1] is None:
        wanted = "('layers.5.mlp_in', 'layers.5.mlp_out')" if transcoder else "'layers.5.mlp_out'"
        expected, got = "the name of a site that is known", " and ".join(map(repr, {*names}))
        hint = f"Say for which site it is: site={wanted}."
        raise ArtifactError(explain(where=str(where), expected=expected, got=got, hint=hint))
    return found[0], found[1]


def _is_pair(own: object) -> bool:
    return isinstance(own, list) and len(own) == 2 and all(isinstance(each, str) for each in own)


def _given(site: Site, *, transcoder: bool, where: Path) -> tuple[str, str]:
    pair = (site, site) if isinstance(site, str) else tuple(site)
    if len(pair) != 2 or (pair[0] != pair[1]) != transcoder:
        one, two = "one site, it is an autoencoder", "(site read, site rebuilt), it is a transcoder"
        expected = two if transcoder else one
        raise InputError(explain(where=str(where), expected=expected, got=repr(site)))
    return str(parse(pair[0])), str(parse(pair[1]))
