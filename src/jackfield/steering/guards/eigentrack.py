"""EigenTrack: detects a kind of text by how the spectrum of its activations moves.

    window of n tokens → eigenvalues → descriptors → GRU → log odds after every token

Descriptors: the mean and leading eigenvalues, their gaps, the spectral entropy, the divergence from
Marchenko–Pastur, the share above the noise's edge (`spectrum.py`). What is trained is only the
small GRU (`detector.py`), on texts of two kinds: made up or true, foreign or familiar. A part of
the texts is kept back, and what is reported is how well those are told apart.

EigenTrack: Ettori et al. 2025, arXiv 2509.15735, of which we read the abstract and descriptions of
the method. Our readings and departures: the edge and the law's ratio come from permutation;
several sites are described side by side; units are standardised on the negative texts; every token
of a text has the text's label, and its last score stands for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jackfield.core.config import config, setting
from jackfield.core.errors import ConfigError, InputError, explain
from jackfield.core.study import Result, Study
from jackfield.reports import Lines, Report, Table
from jackfield.steering.guards.detector import Recurrent, SpectralDetector
from jackfield.steering.guards.rates import Auroc
from jackfield.steering.guards.reading import read_prompts
from jackfield.steering.guards.scorer import Places, rows_of
from jackfield.steering.guards.spectrum import names_of, noise_spectrum

if TYPE_CHECKING:
    from jackfield.model.model import Model

Text = tuple[Tensor, ...]  # one text's activations [token, d] at each site
_CALIBRATED = 64  # windows that are permuted


@config
class EigenTrack(Study):
    """Trains a spectral detector, and measures it on texts that it was not trained on.

    Attributes:
        window: tokens of a window; texts must be at least as long, sinks not counted.
        leading: eigenvalues told one by one.
        hidden: width of the GRU.
        steps: of Adam, each over all texts.
        rate: its learning rate.
        held_out: the share of texts kept back on each side.
        seed: of the split, the permutation and the network.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> found = EigenTrack(window=6, steps=30).run(
    ...     world.model, positive=world.tokens, negative=world.other, at="layers.1.resid_post"
    ... )
    >>> found.counts, found.detector.sites
    ((14, 14, 10, 10), ('layers.1.resid_post',))
    """

    window: int = setting(default=24, ge=4)
    leading: int = setting(default=3, ge=1)
    hidden: int = setting(default=16, ge=1)
    steps: int = setting(default=150, ge=1)
    rate: float = setting(default=0.01, gt=0)
    held_out: float = setting(default=0.4, gt=0, lt=1)
    seed: int = 0

    def run(
        self, model: "Model", *, positive: Any, negative: Any, at: str | Sequence[str]
    ) -> "EigenTracked":
        """Reads texts, and trains and measures on them.

        Args:
            model: the model to watch.
            positive: texts of the kind that is looked for; answers with their prompts, if those
                are to be watched.
            negative: other texts.
            at: sites [batch, position, d], or patterns of them.

        Raises:
            InputError: no texts, or texts shorter than a window.
            SiteError: a site of another shape.
        """
        sites = tuple(model.sites.select(at))
        plus, minus = (
            _read(model, texts, sites, f"{name} texts of EigenTrack")
            for name, texts in (("positive", positive), ("negative", negative))
        )
        return self.learn(plus, minus, sites, model.sinks)

    def learn(
        self,
        positive: Sequence[Text],
        negative: Sequence[Text],
        sites: tuple[str, ...],
        sinks: tuple[int, ...] = (),
    ) -> "EigenTracked":
        """The same from activations: of each text, [token, d] at each site, without its sinks.

        Raises:
            InputError: as `run`.
        """
        self._check(positive, negative)
        draw = torch.Generator().manual_seed(self.seed)
        (train_plus, test_plus), (train_minus, test_minus) = (
            _split(side, self.held_out, draw) for side in (positive, negative)
        )
        bare = self._untrained(train_minus, sites, sinks)
        trained = self._trained(bare, train_plus, train_minus)
        scores = [
            tuple(tuple(trained.scores(text).tolist()) for text in side)
            for side in (test_plus, test_minus)
        ]
        return EigenTracked(
            detector=trained,
            positive=scores[0],
            negative=scores[1],
            counts=(len(train_plus), len(train_minus), len(test_plus), len(test_minus)),
        )

    def __post_init__(self) -> None:
        if self.leading > self.window - 2:
            expected, got = f"leading <= window − 2 = {self.window - 2}", str(self.leading)
            raise ConfigError(explain(where="EigenTrack", expected=expected, got=got))

    def _check(self, positive: Sequence[Text], negative: Sequence[Text]) -> None:
        for name, side in (("positive", positive), ("negative", negative)):
            short = min((len(text[0]) for text in side), default=0)
            if len(side) < 2 or short < self.window:
                shortest = f"{len(side)} texts, the shortest of {short}"
                expected = f"two {name} texts or more, of {self.window} tokens or more"
                hint = "Sinks, such as the first token, are not counted."
                raise InputError(
                    explain(where="EigenTrack", expected=expected, got=shortest, hint=hint)
                )

    def _untrained(
        self, negative: Sequence[Text], sites: tuple[str, ...], sinks: tuple[int, ...]
    ) -> SpectralDetector:
        """All but the network: scales and noise from negative texts."""
        rows = [torch.cat([text[index] for text in negative]) for index in range(len(sites))]
        means = torch.stack([x.mean(dim=0) for x in rows])
        scales = torch.stack([x.std(dim=0).clamp(min=1e-6) for x in rows])
        picked = self._windows(negative)
        noise = tuple(
            noise_spectrum((torch.stack(x) - means[i]) / scales[i], self.seed)
            for i, x in enumerate(zip(*picked, strict=True))
        )
        features = len(sites) * len(names_of(self.leading))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            weights = Recurrent(features, self.hidden).state_dict()
        return SpectralDetector(
            sites, self.window, self.leading, noise, means, scales,
            torch.zeros(features), torch.ones(features), weights, sinks,
        )  # fmt: skip

    def _windows(self, texts: Sequence[Text]) -> list[Text]:
        """Some windows to permute, spread over the texts."""
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for index in range(_CALIBRATED):
            text = texts[index % len(texts)]
            last = len(text[0]) - self.window
            start = int(torch.randint(last + 1, (1,), generator=generator))
            found.append(tuple(x[start : start + self.window] for x in text))
        return found

    def _trained(
        self, bare: SpectralDetector, plus: Sequence[Text], minus: Sequence[Text]
    ) -> SpectralDetector:
        series = [bare.described(text) for text in (*plus, *minus)]
        every = torch.cat(series)
        centre, spread = every.mean(dim=0), every.std(dim=0).clamp(min=1e-6)
        x = _padded([(each - centre) / spread for each in series])
        real = _padded([torch.ones(len(each)) for each in series])
        labels = torch.cat([torch.ones(len(plus)), torch.zeros(len(minus))])[:, None]
        sides = torch.where(labels > 0, 0.5 / len(plus), 0.5 / len(minus))
        weights = real / real.sum(dim=1, keepdim=True) * sides  # texts and sides count alike
        network = bare.network().train()
        optimiser = torch.optim.Adam(network.parameters(), lr=self.rate)
        for _ in range(self.steps):
            odds = network(x)[0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                odds, labels.expand_as(odds), weight=weights, reduction="sum"
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        learnt = {name: value.detach().clone() for name, value in network.state_dict().items()}
        given = {**vars(bare), "centre": centre, "spread": spread, "weights": learnt}
        return SpectralDetector(**given)


@dataclass(frozen=True)
class EigenTracked(Result):
    """A detector, and what it makes of texts that it was not trained on.

    Attributes:
        detector: a scorer for a guard.
        positive, negative: of each text kept back, the log odds [window] from its first full
            window to its end.
        counts: texts trained on, positive and negative, and texts kept back.
    """

    detector: SpectralDetector
    positive: tuple[tuple[float, ...], ...]
    negative: tuple[tuple[float, ...], ...]
    counts: tuple[int, int, int, int]

    @property
    def auroc(self) -> Auroc:
        """How well the last scores tell the texts kept back apart."""
        plus, minus = (
            torch.tensor([each[-1] for each in side]) for side in (self.positive, self.negative)
        )
        return Auroc.of(plus, minus)

    def report(self) -> Report:
        """The mean score of both kinds as the text goes on, and the noise it was calibrated on."""
        longest = max(len(each) for each in (*self.positive, *self.negative))
        series = {
            "positive": _mean_by_place(self.positive, longest),
            "negative": _mean_by_place(self.negative, longest),
        }
        x = range(self.detector.size, self.detector.size + longest)
        lines = Lines(x, series, x_title="tokens read", y_title="log odds")
        rows = [
            [s, n.ratio, n.edge] for s, n in zip(self.detector.at, self.detector.noise, strict=True)
        ]
        columns = ["site", "γ of the noise", "edge / mean"]
        table = Table(columns, rows, formats=dict.fromkeys(columns[1:], ".3g"))
        trained, kept = sum(self.counts[:2]), self.counts[2:]
        summary = (
            f"AUROC {self.auroc} on {kept[0]} positive and {kept[1]} negative texts kept back, "
            f"trained on {trained}; windows of {self.detector.size} tokens."
        )
        return Report("EigenTrack", [lines, table], summary=summary)


def _padded(series: Sequence[Tensor]) -> Tensor:
    """One tensor, with zeros behind the shorter ones."""
    return torch.nn.utils.rnn.pad_sequence(list(series), batch_first=True)


def _read(model: "Model", texts: Any, sites: tuple[str, ...], where: str) -> list[Text]:
    found: list[Text] = []
    for read, mask in read_prompts(model, texts, sites, where):
        kept = Places(len(mask), model.sinks).kept(mask)
        held = [rows_of(read, site, kept, read[site].shape[-1]) for site in sites]
        found += [tuple(x[row, kept[row]] for x in held) for row in range(len(mask))]
    return found


def _split(
    side: Sequence[Text], share: float, draw: torch.Generator
) -> tuple[list[Text], list[Text]]:
    """A part to train on, and one kept back; each has at least one."""
    order = torch.randperm(len(side), generator=draw).tolist()
    back = min(max(1, round(share * len(side))), len(side) - 1)
    return [side[i] for i in order[back:]], [side[i] for i in order[:back]]


def _mean_by_place(series: Sequence[Sequence[float]], longest: int) -> list[float]:
    """The mean over the texts that are as long; NaN where none is."""
    columns = [[each[i] for each in series if i < len(each)] for i in range(longest)]
    return [sum(column) / len(column) if column else float("nan") for column in columns]
