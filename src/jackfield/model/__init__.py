"""The instrument: load or wrap a model, read and write its sites, generate, swap, stream.

Lives here: the role table (`families.py`), sites, the plan of hooks, runs, generation, contexts.
May use: core, edits, streams. Look first: `run.py`, then `plan.py` for how hooks do it.
"""
