"""iscsi-rp's tree for targetcli: a client of the management API in the distribution's own Python.

Nothing but the standard library and configshell is imported, and nothing of `iscsi_rp`: that may live in a
virtual environment of another Python, or on a system of its own making.
"""
