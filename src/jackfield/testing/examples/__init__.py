"""The examples of our own entries, one file a chapter, and what is known to fail."""

from jackfield.testing.example import Example
from jackfield.testing.examples import (
    circuits,
    decompositions,
    dictionaries,
    functions,
    judging,
    lenses,
    memory,
    sparsity,
    steering,
    steering_axes,
    steering_control,
    steering_features,
    steering_guards,
    steering_reft,
    steering_rules,
    steering_tasks,
    subspaces,
)

# (name of the record, name of the check): why. A check that passes after all is a failure too.
KNOWN_FAILURES: dict[tuple[str, str], str] = {
    ("transcoder", "gradient_flows_through_edits"): (
        "it replaces the output from the input alone, so nothing flows to the output it replaces"
    ),
    ("composition-scores", "study_refuses_empty_data"): (
        "it reads weights and runs nothing, so no texts are given that could be empty"
    ),
    ("head-circuits", "study_refuses_empty_data"): (
        "it reads weights and runs nothing, so no texts are given that could be empty"
    ),
    ("induction-lab", "study_refuses_empty_data"): (
        "it draws its own sequences, so no texts are given that could be empty"
    ),
    ("ontology-questions", "study_refuses_empty_data"): (
        "it writes its own questions, so no texts are given that could be empty"
    ),
    ("head-scores", "study_refuses_empty_data"): (
        "it makes its own random tokens, so no texts are given that could be empty"
    ),
    ("head-ablation", "study_refuses_empty_data"): (
        "it makes its own random tokens, so no texts are given that could be empty"
    ),
}

EXAMPLES: dict[str, Example] = {
    name: example
    for chapter in (
        dictionaries,
        judging,
        steering,
        steering_axes,
        steering_guards,
        steering_features,
        steering_control,
        steering_reft,
        steering_rules,
        steering_tasks,
        sparsity,
        lenses,
        circuits,
        functions,
        memory,
        subspaces,
        decompositions,
    )
    for name, example in chapter.EXAMPLES.items()
}
