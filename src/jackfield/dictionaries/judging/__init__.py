"""Judging a dictionary: is it faithful, the same again, of use for what is known, and reliable?

Each file is one measure: a `Study` whose fields determine the result, and a result that prints
itself in a sentence and has `report()`. Every measure comes with the control that it must beat.
Look first: `loss_recovered.py` (in the model), `labelled.py` (texts with classes, for the rest).
"""
