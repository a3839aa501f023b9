"""The kernel target's commands as they come through shared memory (TCMU), without I/O."""

from iscsi_rp.tcmu.directions import SENDS_DATA
from iscsi_rp.tcmu.layout import LUN_RESET, Command, RingError, TaskManagement
from iscsi_rp.tcmu.ring import NoSuchCommandError, Ring

__all__ = [
    "LUN_RESET",
    "SENDS_DATA",
    "Command",
    "NoSuchCommandError",
    "Ring",
    "RingError",
    "TaskManagement",
]
