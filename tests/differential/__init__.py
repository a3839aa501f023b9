"""The same commands to Debian's tgt and to us: `python -m tests.differential`."""
