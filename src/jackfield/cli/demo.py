"""The demo: the main job end to end on a real language model, as a page to look at.

Each stage leaves its report in OUT/stages, so that a stopped demo goes on where it was: the store
and the autoencoder's checkpoint besides go on in the middle of their stage.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jackfield as jf
from jackfield.cli import show
from jackfield.core.artifacts import atomic_write
from jackfield.core.errors import ConfigError, explain
from jackfield.reports import GLOSSARY, Block, Histogram, Page, PageSection, Report, Table, Text

PROMPT = "When John and Mary went to the store, John gave a bottle of milk to"
CORRUPTED = "When John and Anna went to the store, John gave a bottle of milk to"
QUESTIONS = ("How was your day?", "What is the weather like in your town?")
STRENGTHS = (-2.0, -1.0, 1.0, 2.0)


@dataclass(frozen=True)
class Demo:
    """The whole job, in stages that are kept.

    Attributes:
        out: folder for all that it makes.
        source: the model.
        rows: activations to keep and to learn from.
        latents: features of the autoencoder.
    """

    out: Path
    source: str = "smollm2"
    rows: int = 80_000
    latents: int = 4096

    def run(self, *, fresh: bool = False) -> Path:
        """Runs the stages that are not done yet and writes the page."""
        if not 64 <= self.latents <= 4096:
            expected = "64 to 4096 latents"
            raise ConfigError(explain(where="demo", expected=expected, got=str(self.latents)))
        if fresh:
            shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            return self._run()
        except KeyboardInterrupt:
            show.line(f"Stopped. What is done is kept in {self.out}; the same command goes on.")
            raise

    def _run(self) -> Path:
        begun = time.monotonic()
        model = jf.load(self.source)
        show.line(f"{model}")
        site = f"layers.{model.n_layers // 2}.resid_post"
        sections = [
            self._stage("1 read", lambda: self._read(model, site)),
            self._stage("2 learn", lambda: self._learn(site)),
            self._stage("3 features", lambda: self._features(model, site)),
            self._stage("4 patching", lambda: self._patch(model)),
            self._stage("5 steering", lambda: self._steer(model)),
        ]
        page = Page(
            title="A look inside a language model",
            subtitle=_SUBTITLE,
            sections=[told(report) for told, report in zip(_TOLD, sections, strict=True)],
            facts=self._facts(model, site),
            glossary=GLOSSARY,
        )
        path = page.save(self.out / "report.html")
        show.line(f"Done in {time.monotonic() - begun:.0f} s. Look at {path.resolve()}")
        return path

    def _stage(self, name: str, make: Callable[[], Report]) -> Report:
        """The stage's report, from disk if it was made with the same settings."""
        path = self.out / "stages" / f"{name}.json"
        settings = {"source": self.source, "rows": self.rows, "latents": self.latents}
        if path.is_file():
            kept = json.loads(path.read_text())
            if kept["settings"] == settings:
                show.line(f"{name}: done before")
                return Report.from_json(kept["report"])
        show.line(name)
        report = make()
        path.parent.mkdir(exist_ok=True)
        kept = {"settings": settings, "report": report.to_json()}
        atomic_write(path, json.dumps(kept).encode())
        return report

    def _read(self, model: "jf.Model", site: str) -> Report:
        stream = model.stream(jf.corpus("docs"), [site], max_tokens=self.rows)
        folder = self.out / f"acts-{self.rows}"
        store = stream.write(folder, resume=folder.exists(), progress=True)
        sizes = [float(x) for batch in store.stream(site) for x in batch[site].float().norm(dim=-1)]
        typical = statistics.median(sizes)
        far = sum(size > 10 * typical for size in sizes)
        facts = {
            "activations kept": f"{store.rows:,} rows of {model.d_model} numbers",
            "from": "the docstrings of the Python packages installed here",
            "left out": f"the attention sink at position {', '.join(map(str, model.sinks))}",
            "length of a typical row": f"{typical:.0f}",
            "rows over ten times as long": f"{far}, further sinks, not learned from below",
        }
        table = Table(["what", "value"], list(facts.items()))
        usual = [size for size in sizes if size <= 3 * typical]
        picture = Histogram.of(usual, x_title="length of a row", caption="How long the rows are.")
        return Report("Read and keep", [table, picture])

    def _learn(self, site: str) -> Report:
        store = jf.Store(self.out / f"acts-{self.rows}")
        method = jf.dictionaries.TopK(latents=self.latents, k=32, rows=6 * self.rows)
        fitted = method.fit(store.stream(site), checkpoint=self.out / "checkpoint")
        fitted.save(self.out / "autoencoder")
        return fitted.report()

    def _features(self, model: "jf.Model", site: str) -> Report:
        store = jf.Store(self.out / f"acts-{self.rows}")
        dictionary = jf.dictionaries.Dictionary.load(self.out / "autoencoder")
        index = jf.dictionaries.index_features(
            dictionary, store.stream(site), model, texts=store.documents, progress=True
        )
        shown = [index.show(latent) for latent in index.interesting(6)]
        pages = self.out / "features"
        shutil.rmtree(pages, ignore_errors=True)
        index.pages(pages, progress=True)
        summary = f"All {self.latents:,} are in {pages.name}/index.html, with a field to search."
        return Report("Features", shown, summary=summary)

    def _patch(self, model: "jf.Model") -> Report:
        grid = jf.circuits.patch(
            model,
            clean=PROMPT,
            corrupted=CORRUPTED,
            metric=jf.circuits.LogitDifference(" Mary", " Anna"),
            sites="layers.*.resid_post",
            by="position",
        )
        return grid.report()

    def _steer(self, model: "jf.Model") -> Report:
        fitted = jf.steering.MeanDifference().fit(
            model,
            positive=jf.steering.JOYFUL,
            negative=jf.steering.SORROWFUL,
            at=f"layers.{int(0.6 * model.n_layers)}.resid_post",
        )
        fitted.save(self.out / "steering")
        chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
        return fitted.sweep(model, chats, strengths=STRENGTHS, max_new_tokens=40).report()

    def _facts(self, model: "jf.Model", site: str) -> dict[str, str]:
        size = sum(p.numel() for p in model.module.parameters()) / 1e6
        return {
            "model": f"{model.name}, {size:.0f} million parameters",
            "looked at": site,
            "activations": f"{self.rows:,}",
            "features": f"{self.latents:,}",
        }


_SUBTITLE = (
    "A language model turns text into long lists of numbers, layer by layer, before it answers. "
    "These numbers are its **activations**. Here they are read, taken apart, traced and changed, "
    "on a model small enough for a laptop."
)


def _told(
    title: str, looking_at: str, how_to_read: str, code: str
) -> Callable[[Report], PageSection]:
    def make(report: Report) -> PageSection:
        blocks: Sequence[Block] = report.blocks
        summary: list[Any] = [Text(report.summary)] if report.summary else []
        return PageSection(title, looking_at, [*summary, *blocks], how_to_read, code)

    return make


_TOLD = (
    _told(
        "What was read",
        "The model read many short texts; after its middle layer a vector was kept for each token.",
        "Everything below is learned from these rows. The first position of a text is left out: "
        "models use it as a drain for attention, and its vector is a hundred times longer than the "
        "rest, so it would drown every average.",
        """\
import jackfield as jf

model = jf.load("smollm2")
stream = model.stream(jf.corpus("docs"), ["layers.15.resid_post"], max_tokens=80_000)
store = stream.write("acts")""",
    ),
    _told(
        "Taking them apart",
        "A sparse autoencoder learns to rebuild each vector from 32 out of thousands of features.",
        "**FVU** is what the rebuilding misses: 1 is no better than the average vector, 0 is "
        "perfect. A feature is dead when it has not fired for a long time.",
        """\
sae = jf.dictionaries.TopK(latents=4096, k=32).fit(store.stream("layers.15.resid_post"))
sae.report()""",
    ),
    _told(
        "What the features stand for",
        "Six features, chosen by a rule and not by hand: the texts on which each fires most, and "
        "texts on which it fires as it usually does.",
        "The stronger a token's colour, the more the feature fires there. A feature that stands "
        "for one thing does so in the usual texts too, not only in the strongest. The histogram "
        "shows how strongly it fires when it does. **Promoted** and **suppressed** tokens follow "
        "from its direction alone; the bars in percentage points are what silencing it does in "
        "these texts. The tables name the features, neurons and heads most like it. The title is "
        "made from its commonest words and, after →, what it promotes: what a feature means is "
        "for the reader to judge.",
        """\
index = jf.dictionaries.index_features(
    sae, store.stream("layers.15.resid_post"), model, texts=store.documents
)
index.show(index.interesting(1)[0])
index.pages("features")""",
    ),
    _told(
        "Where the name travels",
        "The model must end a sentence with the right name. One activation at a time is moved from "
        "a run on this sentence into a run in which Mary is called Anna.",
        "Each cell is one layer at one token. 0: moving it changes nothing. 1: it alone brings the "
        "right answer back, so the name was there. Follow the strong cells from the names, low in "
        "the model, to the last token, high in it.",
        """\
grid = jf.circuits.patch(
    model,
    clean="When John and Mary went to the store, John gave a bottle of milk to",
    corrupted="When John and Anna went to the store, John gave a bottle of milk to",
    metric=jf.circuits.LogitDifference(" Mary", " Anna"),
    sites="layers.*.resid_post",
    by="position",
)
grid.report()""",
    ),
    _told(
        "Changing what it says",
        "The direction from sorrowful to joyful sentences is added to activations as it writes.",
        "**KL** says how far the steered model's choices are from its own, per token: 0 is the "
        "same model, above 1 it says other things. A random direction of the same length is the "
        "control: steering is more than noise only where the two differ.",
        """\
joy = jf.steering.MeanDifference().fit(
    model,
    positive=jf.steering.JOYFUL,
    negative=jf.steering.SORROWFUL,
    at="layers.18.resid_post",
)
chat = [{"role": "user", "content": "How was your day?"}]
model.generate(chat, edits=joy.edits(strength=2.0), max_new_tokens=40)""",
    ),
)
