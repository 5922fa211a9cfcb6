"""Core: the words everything else is spoken in.

Lives here: errors, configs, site addresses, `where` (which tokens), records of the catalogue,
artifacts (save and load), progress, optional imports.
May use: nothing of ours. Look first: `sites.py` and `where.py`.
"""
