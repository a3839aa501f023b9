"""Conformance: libiscsi's test suite against a real server process."""
