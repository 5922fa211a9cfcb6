"""Reasoning: fitted concepts with rules; reads texts, and steers by what follows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from jaxtyping import Float
from torch import Tensor

from jackfield.core.errors import ArtifactError, InputError, explain
from jackfield.core.fitted import Fitted
from jackfield.core.where import All, Coordinates
from jackfield.core.where import where as rule_of
from jackfield.edits import Edit
from jackfield.reports import Report, Table
from jackfield.steering.nested import packed, unpacked
from jackfield.steering.rules.program import program
from jackfield.steering.rules.reading import Reading, row_read
from jackfield.steering.rules.reason import Reason
from jackfield.steering.steering import Steering

if TYPE_CHECKING:
    from jackfield.model.model import Model


@dataclass(frozen=True, eq=False)
class Reasoning(Steering):
    """Concepts that are seen at one site, and rules over them.

    A raw unit of strength is the length of the activation. A KL is measured on `prompts`, of which
    only those in which something is derived move; give prompts of which that is true.

    Attributes:
        names: of the concepts.
        weights: [concept, width] on the activation, or on its codes.
        thresholds: [concept].
        directions: [concept, d] of length 1.
        accuracies: balanced, of seeing each concept on the texts it was fitted on.
        counts: texts with and without each.
        at: the site.
        sinks: positions that are not read.
        model: the name of the model.
        method: the settings of `ActivationReasoning`.
        coder: what makes codes, of the scorer "latents".
    """

    names: tuple[str, ...]
    weights: Float[Tensor, "concept width"]
    thresholds: Float[Tensor, " concept"]
    directions: Float[Tensor, "concept d"]
    accuracies: tuple[float, ...]
    counts: tuple[tuple[int, int], ...]
    at: str
    sinks: tuple[int, ...]
    model: str
    method: Mapping[str, Any]
    coder: Any = None

    def scaled(self, factor: float, where: Any = "~sinks") -> list[Edit]:
        """Steers each row by what follows from what it showed so far.

        Raises:
            InputError: no rule derives or denies a concept that has a direction.
        """
        rules = program(tuple(self.method["rules"]))
        heads = [head.name for rule in rules.rules for head in rule.heads]
        if not set(heads) & set(self.names):
            expected = "a rule whose head has texts or a direction, to steer by"
            got = f"heads {', '.join(dict.fromkeys(heads))}"
            label = f"{self.model}, ActivationReasoning"
            raise InputError(explain(where=label, expected=expected, got=got))
        acts = self.method["acts"]
        own, given = rule_of(tuple(acts) if isinstance(acts, list) else acts), rule_of(where)
        return [self._edit(float(factor), given if isinstance(own, All) else own & given)]

    def units(self) -> Mapping[str, float]:
        """One "norm" is the length of the activation, which is the raw unit."""
        return {"norm": 1.0}

    def read(self, model: "Model", texts: Any) -> Reading:
        """What each text shows, and what follows at its end.

        Args:
            model: the model that it was fitted on.
            texts: strings, a chat or chats, or token ids [text, position].
        """
        run = model.run(texts, sites=[self.at], logits=False)
        assert run.tokens is not None
        assert run.mask is not None
        assert run.positions is not None
        edit = self._edit(0.0, "all")
        at = Coordinates(run.positions, run.mask.sum(dim=-1), run.tokens, self.sinks)
        scores = edit.scores(run[self.at])
        closure = edit.closure(scores, at, {})
        rules, margins = program(edit.rules), edit.margins(scores, at).cpu()
        rows = []
        for index, real in enumerate(run.mask.cpu()):
            strings = tuple(model.token_strings(run.tokens[index].cpu()[real]))
            last = (index, int(real.nonzero().max()))
            rows.append(row_read(rules, closure, last, strings, self.names, margins[index][real]))
        return Reading(self.model, self.at, self.names, tuple(rules.names), tuple(rows))

    def with_rules(self, rules: Sequence[str]) -> Self:
        """The same concepts under other rules; those that they do not ask for are not read.

        Raises:
            InputError: a rule that does not parse, or rules that cannot be carried out together.
        """
        program(tuple(rules))
        return replace(self, method={**self.method, "rules": tuple(rules)})

    def report(self) -> Report:
        """The concepts, how well each is seen, and the rules."""
        rows: list[list[Any]] = [
            [name, *counts, float(tau), accuracy]
            for name, counts, tau, accuracy in zip(
                self.names, self.counts, self.thresholds, self.accuracies, strict=True
            )
        ]
        columns = ["concept", "texts with it", "without", "threshold", "balanced accuracy"]
        concepts = Table(columns, rows, formats=dict.fromkeys(columns[3:], ".3f"))
        rules = Table(["rule"], [[rule] for rule in self.method["rules"]])
        mean = sum(self.accuracies) / len(self.accuracies)
        summary = (
            f"{len(self.names)} concepts at {self.at} of {self.model}, seen with a balanced "
            f"accuracy of {mean:.2f} on average on the texts they were fitted on, and "
            f"{len(self.method['rules'])} rules."
        )
        return Report("Reasoning over activations", [concepts, rules], summary=summary)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
        """The config, the concepts, and the coder.

        Raises:
            ArtifactError: a coder that is no fitted object of Jackfield.
        """
        tensors = {name: getattr(self, name) for name in ("weights", "thresholds", "directions")}
        names = ("names", "accuracies", "counts", "at", "sinks", "model")
        extra = {name: getattr(self, name) for name in names}
        if self.coder is None:
            return dict(self.method), tensors, extra
        if not isinstance(self.coder, Fitted):
            expected, got = "a fitted object of Jackfield, to be saved", type(self.coder).__name__
            raise ArtifactError(explain(where="coder", expected=expected, got=got))
        own, rest = packed(self.coder, "coder")
        return dict(self.method), {**tensors, **own}, {**extra, "coder": rest}

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: Mapping[str, Tensor], extra: dict[str, Any]
    ) -> Self:
        """Rebuilds the concepts from `state`."""
        held = "coder" in extra
        coder = unpacked(tensors, extra["coder"], "coder", Fitted) if held else None
        return cls(
            names=tuple(extra["names"]),
            weights=tensors["weights"],
            thresholds=tensors["thresholds"],
            directions=tensors["directions"],
            accuracies=tuple(extra["accuracies"]),
            counts=tuple((each[0], each[1]) for each in extra["counts"]),
            at=extra["at"],
            sinks=tuple(extra["sinks"]),
            model=extra["model"],
            method=config,
            coder=coder,
        )

    def _edit(self, factor: float, where: Any) -> Reason:
        watch = self.method["watch"]
        return Reason(
            self.weights,
            self.thresholds,
            self.directions,
            self.names,
            tuple(self.method["rules"]),
            self.method["scope"],
            tuple(watch) if isinstance(watch, list) else watch,
            self.sinks,
            factor,
            self.coder,
            self.method["kept"],
            at=self.at,
            where=where,
        )
