"""The kernel target's commands as they come through shared memory (TCMU), without I/O."""

from iscsi_rp.tcmu.layout import Command, RingError, TaskManagement
from iscsi_rp.tcmu.ring import NoSuchCommandError, Ring

__all__ = ["Command", "NoSuchCommandError", "Ring", "RingError", "TaskManagement"]
