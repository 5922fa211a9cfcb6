"""Worlds to try things in: a tiny model with data for it, and rows whose answer is planted.

Everything here is random and seeded, needs no download, and is made in milliseconds.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jackfield.model.load import wrap
from jackfield.model.model import Model
from jackfield.streams import Stream
from jackfield.streams.views import Derived

VOCAB = 101  # tokens of a tiny model without a tokenizer


def tiny_llama(
    dtype: torch.dtype = torch.float32,
    *,
    layers: int = 3,
    d_model: int = 32,
    texts: Iterable[str] = (),
    seed: int = 0,
) -> Model:
    """A Llama with 4 heads on 2 KV heads, d_mlp 48, random weights large enough to matter.

    Args:
        dtype: of the weights.
        layers: how many blocks.
        d_model: width of the residual stream.
        texts: if given, the model has a tokenizer that knows their words (" word" is one token).
        seed: of the weights.

    >>> tiny_llama().run(torch.tensor([[1, 2, 3]])).logits.shape
    torch.Size([1, 3, 101])
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(texts) if texts else None
    config = LlamaConfig(
        vocab_size=VOCAB if tokenizer is None else len(tokenizer),
        hidden_size=d_model,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: nn.Module = LlamaForCausalLM(config)
    return wrap(module.to(dtype).eval(), tokenizer, name="tiny")


def tiny_tokenizer(texts: Iterable[str]) -> Any:
    """A transformers tokenizer with one token for each word of the texts, its space included."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(r" ?\w+| ?[^\w\s]"), behavior="isolated")
    pieces = [piece for text in texts for piece, _ in split.pre_tokenize_str(text)]
    words = ["<pad>", "<unk>", *dict.fromkeys(pieces)]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


@dataclass(frozen=True, eq=False)
class World:
    """A model and what there is to learn from.

    Attributes:
        model: a tiny model.
        tokens: [text, position] token ids.
        other: [text, position] other texts: the negative side, or the corrupted one.
        site: where to fit and to act.
        batch: rows in a batch of `stream`.
        strided: whether rows of `stream` lie non-contiguously in memory.
    """

    model: Model
    tokens: Int[Tensor, "text position"]
    other: Int[Tensor, "text position"]
    site: str = "layers.1.resid_post"
    batch: int = 64
    strided: bool = False

    def stream(self, *sites: str) -> Stream:
        """The activations of `tokens` at sites (`site` if none is named), [row, ...], in memory."""
        empty = not len(self.tokens)
        texts = torch.ones(1, 2, dtype=torch.int64) if empty else self.tokens
        run = self.model.run(texts, sites=list(sites or (self.site,)), logits=False)
        rows = {name: run[name].flatten(0, 1) for name in run.sites}
        if self.strided:
            rows = {name: spread(x) for name, x in rows.items()}
        stream = Stream.from_tensor(rows, batch=self.batch)
        if not empty:
            return stream
        return Derived(stream, lambda source, start: iter(()), note={"empty": True})

    def rebatched(self, batch: int) -> "World":
        """The same rows in other batches."""
        return replace(self, batch=batch)

    def spread(self) -> "World":
        """The same numbers, not contiguous in memory."""
        return replace(self, tokens=spread(self.tokens), other=spread(self.other), strided=True)

    def emptied(self) -> "World":
        """No texts, no rows."""
        return replace(self, tokens=self.tokens[:0], other=self.other[:0])

    def poisoned(self) -> "World":
        """A model with one NaN among the weights of its first block: what follows is NaN."""
        model = tiny_llama(self.model.dtype)
        with torch.no_grad():
            model.module.get_parameter("model.layers.0.mlp.down_proj.weight")[0, 0] = torch.nan
        return replace(self, model=model)


def tiny_world(dtype: torch.dtype = torch.float32, *, texts: int = 24, length: int = 12) -> World:
    """A tiny Llama with as many positive as negative texts; the sides have tokens of their own."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, VOCAB // 2, (texts, length), generator=draw)
    other = torch.randint(VOCAB // 2, VOCAB, (texts, length), generator=draw)
    return World(tiny_llama(dtype), tokens, other)


@dataclass(frozen=True, eq=False)
class PlantedDictionary:
    """Rows made of known directions.

    Attributes:
        x: [row, d] = codes @ directions + noise.
        codes: [row, latent] the true codes, never negative, `active` of them on a row.
        directions: [latent, d] of length 1.
    """

    x: Float[Tensor, "row d"]
    codes: Float[Tensor, "row latent"]
    directions: Float[Tensor, "latent d"]

    def recovered(self, found: Float[Tensor, "latent d"]) -> Float[Tensor, " latent"]:
        """For each planted direction the largest |cosine| with a found one; 1 is perfect."""
        unit = torch.nn.functional.normalize(found.to(self.directions), dim=-1)
        return (self.directions @ unit.T).abs().amax(dim=1)

    def control(self, seed: int = 0) -> Float[Tensor, "row d"]:
        """Rows with the same mean and covariance, and no directions in them."""
        draw = _draw(seed)
        centred = self.x - self.x.mean(dim=0)
        noise = torch.randn(len(self.x), len(self.x), generator=draw, dtype=self.x.dtype)
        return self.x.mean(dim=0) + noise @ centred / len(self.x) ** 0.5


def planted_dictionary(
    rows: int = 2048,
    d: int = 16,
    latents: int = 24,
    active: int = 2,
    noise: float = 0.0,
    seed: int = 0,
) -> PlantedDictionary:
    """Rows that are sums of a few of more directions than there are dimensions.

    Args:
        rows: how many.
        d: their width.
        latents: planted directions.
        active: of them on each row, with codes between 1 and 2.
        noise: standard deviation of what is added to each unit.
        seed: of all of it.

    >>> truth = planted_dictionary(rows=100)
    >>> torch.allclose(truth.x, truth.codes @ truth.directions)
    True
    """
    draw = _draw(seed)
    directions = torch.nn.functional.normalize(torch.randn(latents, d, generator=draw), dim=-1)
    chosen = torch.rand(rows, latents, generator=draw).topk(active, dim=-1).indices
    codes = torch.zeros(rows, latents).scatter_(
        1, chosen, 1 + torch.rand(rows, active, generator=draw)
    )
    x = codes @ directions + noise * torch.randn(rows, d, generator=draw)
    return PlantedDictionary(x, codes, directions)


def planted_direction(
    rows: int = 256, d: int = 16, strength: float = 2.0, seed: int = 0
) -> tuple[Float[Tensor, "row d"], Float[Tensor, "row d"], Float[Tensor, " d"]]:
    """Two sides of Gaussian rows, and the direction that they differ in.

    The means lie `strength` standard deviations apart along it; 0 is the negative control.

    >>> positive, negative, direction = planted_direction(strength=4.0)
    >>> found = positive.mean(dim=0) - negative.mean(dim=0)
    >>> bool(torch.cosine_similarity(found, direction, dim=0) > 0.95)
    True
    """
    draw = _draw(seed)
    direction = torch.nn.functional.normalize(torch.randn(d, generator=draw), dim=0)
    positive, negative = torch.randn(2, rows, d, generator=draw)
    return positive + strength / 2 * direction, negative - strength / 2 * direction, direction


def _draw(seed: int) -> torch.Generator:
    """A generator of our own: a method with the same seed must not begin at the planted answer."""
    return torch.Generator().manual_seed(seed + 7_654_321)


def spread(x: Tensor) -> Tensor:
    """The same numbers in another order in memory: not contiguous, and no flat view of them."""
    if x.dim() > 1:
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    return torch.stack([x, x], dim=-1)[..., 0]
