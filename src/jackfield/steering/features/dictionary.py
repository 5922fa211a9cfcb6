"""What steering by features asks of a dictionary, and the codes of texts.

A dictionary writes activations as codes z [latent], of which few are not 0, and back by a
direction for each latent. Those of `jackfield.dictionaries` do all that is asked here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import InputError, explain
from jackfield.core.progress import Progress
from jackfield.edits import Edit
from jackfield.steering.contrast import Pooling
from jackfield.steering.unsteered import chosen_tokens

if TYPE_CHECKING:
    from jackfield.model.model import Model

_TEXTS = 16  # in one forward


class FeatureDictionary(Protocol):
    """A fitted dictionary; see `jackfield.dictionaries.Dictionary` for what each means."""

    @property
    def site(self) -> str:
        """Where it was fitted, and where it acts."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The sites that `encode` reads, side by side."""

    @property
    def directions(self) -> Float[Tensor, "latent d"]:
        """What one unit of each code adds."""

    def encode(self, x: Float[Tensor, "row d"]) -> Float[Tensor, "row latent"]:
        """The codes of rows."""

    def inside(self, x: Float[Tensor, "row d"]) -> Tensor:
        """[row] which rows are of the kind it was fitted on."""

    def splice(
        self,
        *,
        where: Any,
        error: bool,
        latents: Sequence[int] = ...,
        values: Sequence[float] = ...,
    ) -> Edit:
        """An edit that sets latents to values; with `error`, x + dec(z') − dec(z)."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """(config, tensors, extra), to be saved."""


@dataclass(frozen=True)
class Codes:
    """The codes of some texts, float64.

    Attributes:
        means: [text, latent] the mean code over a text's tokens.
        firing: [text, latent] the share of them on which the latent is not 0.
        tokens: how many tokens were read.
    """

    means: Float[Tensor, "text latent"]
    firing: Float[Tensor, "text latent"]
    tokens: int


@torch.no_grad()
def read_codes(
    model: "Model",
    dictionary: FeatureDictionary,
    texts: Any,
    *,
    tokens: Pooling = "all",
    where: Any = "~sinks",
    progress: bool = False,
) -> Codes:
    """Reads the codes of texts, one vector a text.

    Tokens that are not `inside` the dictionary, which it was not fitted on, count as silent.

    Args:
        model: the model that the dictionary is of.
        dictionary: encodes its sources.
        texts: strings, chats, or token ids [text, position].
        tokens: all of a text's, or its last one.
        where: which tokens may be read.
        progress: show a live line.

    Raises:
        InputError: no texts, a text without a token to read, codes that are not finite, or a
            dictionary of another width.
    """
    label = f"{model.name}, {dictionary.site}"
    texts = [texts] if isinstance(texts, str) else texts
    if not len(texts):
        raise InputError(explain(where=label, expected="at least one text", got="none"))
    means, firing, read = [], [], 0
    with Progress("encoding", total=len(texts), unit="texts", enabled=progress) as shown:
        for start in range(0, len(texts), _TEXTS):
            part = texts[start : start + _TEXTS]
            z, chosen = _encoded(model, dictionary, part, tokens, where)
            means.append(_averaged(z, chosen))
            firing.append(_averaged((z != 0).double(), chosen))
            read += int(chosen.sum())
            shown.update(len(part))
    found = Codes(torch.cat(means), torch.cat(firing), read)
    if not bool(torch.isfinite(found.means).all()):
        raise InputError(explain(where=label, expected="finite codes", got="NaN or Inf"))
    return found


def _encoded(
    model: "Model", dictionary: FeatureDictionary, texts: Any, tokens: Pooling, where: Any
) -> tuple[Float[Tensor, "row latent"], Tensor]:
    """The codes of the chosen tokens, row by row, and which they are, [text, position]."""
    sources = list(dictionary.sources)
    run = model.run(texts, sites=sources, logits=False)
    chosen = chosen_tokens(model, run, where)
    empty = (~chosen.any(dim=1)).nonzero().flatten()
    if len(empty):
        got = f"none in text {int(empty[0])} of a batch"
        hint = "Sink positions, such as the first token, are left out by default."
        label = f"{model.name}, {dictionary.site}"
        raise InputError(explain(where=label, expected="a token to read", got=got, hint=hint))
    if tokens == "last":
        chosen = chosen & (chosen.long().flip(1).cumsum(dim=1).flip(1) == 1)
    rows = torch.cat([run[source].flatten(2)[chosen] for source in sources], dim=1)
    z = dictionary.encode(rows) * dictionary.inside(rows)[:, None]
    return z.double().cpu(), chosen.cpu()


def _averaged(rows: Float[Tensor, "row latent"], chosen: Tensor) -> Float[Tensor, "text latent"]:
    """The mean of each text's rows."""
    total = torch.zeros(len(chosen), rows.shape[1], dtype=torch.float64)
    total.index_add_(0, chosen.nonzero()[:, 0], rows)
    return total / chosen.sum(dim=1, keepdim=True)
