"""SCSI as a disk speaks it: the logical unit and what it is made of. No I/O."""

from iscsi_rp.scsi.absent import serve_absent
from iscsi_rp.scsi.identity import Identity
from iscsi_rp.scsi.logical_unit import LogicalUnit
from iscsi_rp.scsi.task import Command, CommandsDone, Completion, Nexus

__all__ = ["Command", "CommandsDone", "Completion", "Identity", "LogicalUnit", "Nexus", "serve_absent"]
