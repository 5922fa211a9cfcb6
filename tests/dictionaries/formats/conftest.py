"""`libraries.py` runs by hand, where the real libraries are installed."""

collect_ignore = ["libraries.py"]
