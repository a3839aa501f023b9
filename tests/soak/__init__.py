"""Many sessions, many connections, clients that never read: `python -m tests.soak`."""
