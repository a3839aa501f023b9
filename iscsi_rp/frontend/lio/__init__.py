"""The kernel's target (LIO) as front end: it is told what to serve, and hands the commands over (TCMU).

`ensure`, then `plan` and `apply`, all in a worker thread. rtslib is imported only when one of them is called.
"""

from iscsi_rp.frontend.lio.desired import Acl, Backstore, Desired, Loopback, Owned, Target, port_naa
from iscsi_rp.frontend.lio.errors import LioConflictError, LioError, LioMissingError, LioUnsupportedError
from iscsi_rp.frontend.lio.look import Login, disk_of, sessions_of
from iscsi_rp.frontend.lio.modules import ensure
from iscsi_rp.frontend.lio.plan import plan
from iscsi_rp.frontend.lio.steps import Kind, Step, apply

__all__ = [
    "Acl",
    "Backstore",
    "Desired",
    "Kind",
    "LioConflictError",
    "LioError",
    "LioMissingError",
    "LioUnsupportedError",
    "Login",
    "Loopback",
    "Owned",
    "Step",
    "Target",
    "apply",
    "disk_of",
    "ensure",
    "plan",
    "port_naa",
    "sessions_of",
]
