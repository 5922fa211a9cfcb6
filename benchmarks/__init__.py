"""Speed and memory, side by side with the real peers, paired in one process run.

`make bench` runs everything and writes RESULTS.md. Nothing here is asserted in a test.
"""
