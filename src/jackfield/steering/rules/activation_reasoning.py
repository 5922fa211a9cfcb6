"""ActivationReasoning: concepts seen in activations, rules over them, steering by what follows.

    score_c(token) ≥ τ_c at a token, or in the mean            concept c is seen, and stays so
    rules: "bridge and sf -> golden_gate"                      forward chaining to a fixed point
    h + strength · ‖h‖ · s/‖s‖,  s = Σ of the directions of what was derived, − of what was denied

Helff, Härle et al. 2025, ActivationReasoning (arXiv 2510.18184), and its code. There concepts are
latents of a sparse autoencoder (`scorer="latents"`: the ten that differ most with weights that fall
as the logarithm, the two largest codes of a token count); here a direction or a probe will do.
Departures: thresholds are those at which a text's largest score, or its mean score, tells best
whether the text has the concept, where theirs are of labelled tokens; a token may show several
concepts; an unproven proposition is not taken for false unless a rule asks for `not`; rules that
cannot be carried out are refused; what is denied is steered away from; a strength of 1 is the
length of the activation, of which they take half.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from jackfield.core.config import config, setting, to_json
from jackfield.core.errors import InputError, did_you_mean, explain
from jackfield.core.fitted import Method
from jackfield.steering.contrast import Pooling, vector_site
from jackfield.steering.rules.concepts import Concept, Learner, Scorer
from jackfield.steering.rules.program import Program, program
from jackfield.steering.rules.reason import Coder, Scope
from jackfield.steering.rules.reasoning import Reasoning

if TYPE_CHECKING:
    from jackfield.model.model import Model


@config
class ActivationReasoning(Method):
    """Concepts, rules over them, and steering by what they derive.

    Attributes:
        rules: such as "a and not b -> c"; see `grammar.py`.
        scorer: what a concept's score is made of: the mean difference ("direction"), a logistic
            "probe", or "latents" of a coder.
        scope: "local" sees a concept at a single token, "global" in the mean of the tokens.
        tokens: what stands for a text while a score is found: the mean of its tokens ("all") or
            its "last" one.
        watch: which tokens are read, of those that are no sinks.
        acts: which tokens are steered, of those that `edits(where=…)` leaves.
        latents: of the scorer "latents", how many make a concept.
        kept: of these the largest codes of a token that count.

    >>> from jackfield.testing import tiny_world
    >>> world = tiny_world()
    >>> method = ActivationReasoning(rules=("low -> named", "high and not low -> other"))
    >>> texts = {"low": world.tokens, "high": world.other}
    >>> found = method.fit(world.model, concepts=texts, at=world.site)
    >>> found.read(world.model, world.tokens[:1]).holds("named")
    (True,)
    """

    rules: tuple[str, ...]
    scorer: Scorer = "direction"
    scope: Scope = "local"
    tokens: Pooling = "all"
    watch: str | int | tuple[int, ...] = "all"
    acts: str | int | tuple[int, ...] = "generated"
    latents: int = setting(default=10, ge=1)
    kept: int = setting(default=2, ge=1)

    def fit(
        self,
        model: "Model",
        *,
        concepts: Mapping[str, Any],
        at: str,
        negative: Any = None,
        directions: Mapping[str, Any] | None = None,
        coder: Coder | None = None,
        progress: bool = False,
    ) -> Reasoning:
        """Learns the concepts, and puts the rules in order.

        Args:
            model: the model to steer.
            concepts: texts that show each concept: strings, chats, or token ids [text, position].
                A text may stand with several; those of the others are without it.
            at: a site [batch, position, d] such as layers.15.resid_post.
            negative: texts that show none of them.
            directions: of some concepts, directions of the user's own: a `SteeringVector` fitted
                at that site, or [d].
            coder: what makes codes, such as a fitted dictionary, of the scorer "latents".
            progress: show a live line.

        Raises:
            InputError: rules that do not parse, contradict, or ask for what no concept shows; a
                concept without texts on either side, or whose sides do not differ.
            SiteError: a site of another shape.
        """
        where, given = f"{model.name}, ActivationReasoning", dict(directions or {})
        rules = program(self.rules)
        _check_names(where, rules, concepts, given)
        if (self.scorer == "latents") != (coder is not None) or (coder is not None and given):
            expected = "a coder with the scorer 'latents', and then no directions"
            got = f"scorer {self.scorer!r}, {'no' if coder is None else 'a'} coder"
            raise InputError(explain(where=where, expected=expected, got=got))
        site = vector_site(model, at)
        learner = Learner(
            model, site, self.scorer, self.scope, self.tokens, self.watch, coder, self.latents,
            self.kept,
        )  # fmt: skip
        found = learner.concepts(concepts, negative, given)
        return self._fitted(model, site, found, coder)

    def _fitted(
        self, model: "Model", site: str, found: dict[str, Concept], coder: Coder | None
    ) -> Reasoning:
        held = found.values()
        return Reasoning(
            names=tuple(found),
            weights=torch.stack([each.weight for each in held]),
            thresholds=torch.tensor([each.threshold for each in held]),
            directions=torch.stack([each.direction for each in held]),
            accuracies=tuple(each.accuracy for each in held),
            counts=tuple(each.counts for each in held),
            at=site,
            sinks=model.sinks,
            model=model.name,
            method=to_json(self),
            coder=coder,
        )


def _check_names(
    where: str, rules: Program, concepts: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """What a rule asks for must be derived or seen; what is seen must be asked for."""
    derived = {head.name for rule in rules.rules for head in rule.heads if head.holds}
    asked = dict.fromkeys(name for rule in rules.rules for name, _ in rule.body.names())
    for name in asked:
        if name not in derived and name not in concepts:
            hint = did_you_mean(name, [*concepts, *derived]) or "Give texts that show it."
            expected, got = "rules that ask for concepts or for what is derived", repr(name)
            raise InputError(explain(where=where, expected=expected, got=got, hint=hint))
    for name in (*concepts, *given):
        if name not in rules.names or name not in concepts:
            expected = f"concepts of the rules: {', '.join(rules.names)}"
            near = did_you_mean(name, rules.names)
            raise InputError(explain(where=where, expected=expected, got=repr(name), hint=near))
