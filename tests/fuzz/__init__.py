"""Hostile input, found by coverage: `python -m tests.fuzz`. What it found is kept in `corpus/`."""
