"""The doctor: proves that a model's sites are what their definitions say.

Lives here: `examine`, and a file for each group of checks. Each check compares what Jackfield reads
and writes with an independent computation, in the model's dtype and, to tell rounding from error,
in a float64 copy. May use: all of model. Look first: `reading.py`, then `writing.py`.
"""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from jackfield.model.doctor.calls import check_decoding, check_padding
from jackfield.model.doctor.diagnosis import Diagnosis, Row, absent, diagnosis
from jackfield.model.doctor.gradients import check_gradients
from jackfield.model.doctor.hooks import check_hooks
from jackfield.model.doctor.inside import check_inside
from jackfield.model.doctor.leaving import check_identities, check_leaving, check_parts
from jackfield.model.doctor.reading import check_equations
from jackfield.model.doctor.subject import Subject, admit, calm, restore, twin
from jackfield.model.doctor.writing import check_writes

if TYPE_CHECKING:
    from jackfield.model.model import Model

__all__ = ["CHECKS", "Diagnosis", "examine"]

Check = Callable[[Subject, Subject | None], Iterator[Row]]

CHECKS: tuple[Check, ...] = (
    check_identities,
    check_equations,
    check_writes,
    check_inside,
    check_hooks,
    check_padding,
    check_decoding,
    check_parts,
    check_gradients,
    check_leaving,
)


def examine(model: "Model", inputs: Any = None) -> Diagnosis:
    """Proves a model's sites, or says which are wrong.

    Looks closely at the first block, one in the middle and the last. The model is left as it was.

    Args:
        model: from `jf.load` or `jf.wrap`.
        inputs: what to run it on, if not made up: token ids [2, position], a tensor, a mapping.

    Raises:
        InputError: no inputs are given, and nothing tells what the module runs on.
    """
    began = time.perf_counter()
    modes = calm(model.module)
    try:
        with torch.no_grad():
            patient = admit(model, inputs)
            copy = twin(patient)
            rows = [absent("a copy in float64", copy)] if isinstance(copy, str) else []
            rows += [row for check in CHECKS for row in _rows(check, patient, copy)]
    finally:
        restore(modes)
    return diagnosis(model.name, rows, time.perf_counter() - began)


def _rows(check: Check, patient: Subject, copy: Subject | str) -> list[Row]:
    """A check's rows; one that cannot be made at all has failed."""
    rows: list[Row] = []
    try:
        rows.extend(check(patient, copy if isinstance(copy, Subject) else None))
    except Exception as error:  # whatever the patient raises, the other checks go on
        name = check.__name__.removeprefix("check_")
        rows.append(Row(name, "", "fail", remark=f"{type(error).__name__}: {error}"))
    return rows
