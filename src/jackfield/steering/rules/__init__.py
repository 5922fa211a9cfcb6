"""Rules over activations: concepts are seen, rules derive others, and what follows steers.

Lives here: the grammar of rules and their forward chaining, concepts and their thresholds, the edit
that reasons in each row of a batch, and questions about a made-up ontology.
May use: core, edits, model, reports, and the files of steering. Look first:
`activation_reasoning.py`, then `program.py`.
"""

from jackfield.steering.rules.activation_reasoning import ActivationReasoning
from jackfield.steering.rules.grammar import Rule, parse
from jackfield.steering.rules.ontology import OntologyAnswers, OntologyQuestions
from jackfield.steering.rules.program import Closure, Program, program
from jackfield.steering.rules.reading import Reading
from jackfield.steering.rules.reason import Coder, Reason
from jackfield.steering.rules.reasoning import Reasoning

__all__ = [
    "ActivationReasoning",
    "Closure",
    "Coder",
    "OntologyAnswers",
    "OntologyQuestions",
    "Program",
    "Reading",
    "Reason",
    "Reasoning",
    "Rule",
    "parse",
    "program",
]
