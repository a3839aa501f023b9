"""The nodes below `/recoverpoint`, a module a noun."""
