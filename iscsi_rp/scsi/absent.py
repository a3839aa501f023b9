"""What answers for a LUN that does not exist."""

from collections.abc import Sequence

from iscsi_rp.scsi.inquiry import absent_inquiry
from iscsi_rp.scsi.primary import reported_luns
from iscsi_rp.scsi.sense import CHECK_CONDITION, GOOD, LOGICAL_UNIT_NOT_SUPPORTED, CheckCondition
from iscsi_rp.scsi.task import Command, CommandsDone, Completion, Nexus


def serve_absent(nexus: Nexus, commands: Sequence[Command], done: CommandsDone) -> None:
    """Answer for a LUN that does not exist (SPC-4 6.6.1, SAM-5 5.11)."""
    completions: list[Completion] = []
    for tag, buffer, _ in commands:
        cdb = bytes(buffer)
        status, data = GOOD, b""
        try:
            if cdb[0] == 0x12 and not cdb[1] & 0x01:
                data = absent_inquiry()[: int.from_bytes(cdb[3:5], "big")]
            elif cdb[0] == 0xA0:
                data = reported_luns(nexus, cdb)
            elif cdb[0] == 0x03:
                data = LOGICAL_UNIT_NOT_SUPPORTED.encode(descriptor=bool(cdb[1] & 0x01))[: cdb[4]]
            else:
                raise CheckCondition(LOGICAL_UNIT_NOT_SUPPORTED)
        except CheckCondition as error:
            status, data = CHECK_CONDITION, error.sense.encode()
        completions.append((tag, status, data, 0 if status else len(data)))
    done(completions)
