"""The doctor: proves that a model's sites are what their definitions say. See `examine`."""
import time
from typing import Any
from jackfield.model.doctor.diagnosis import Diagnosis, Row, diagnosis
from jackfield.model.doctor.reading import check_equations
from jackfield.model.doctor.subject import subject, twin, calm, restore
from jackfield.model.doctor.writing import check_writes
def examine(model: Any, inputs: Any = None) -> Diagnosis:
    t=time.time()
    p=subject(model, inputs)
    modes=calm(model.module)
    try:
        tw=twin(p)
        e=None if isinstance(tw,str) else tw
        rows=[]
        for c in (check_equations, check_writes):
            rows+=list(c(p,e))
    finally: restore(modes)
    return diagnosis(model.name, rows, time.time()-t)
