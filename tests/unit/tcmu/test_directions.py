"""Which way data goes is said by the opcode alone, so no command may be missing."""

from iscsi_rp.scsi.opcodes import TABLE
from iscsi_rp.tcmu import SENDS_DATA

RECEIVES = {
    *(0x00, 0x03, 0x12, 0x1A, 0x5A, 0x1B, 0x1E, 0x16, 0x17, 0x56, 0x57, 0x25, 0x37, 0xB7, 0x4D, 0x5E, 0x84),
    *(0x08, 0x28, 0xA8, 0x88, 0x34, 0x90, 0x35, 0x91, 0x9E, 0xA0, 0xA3),
}
"Or move nothing at all."


def test_every_command_has_a_direction() -> None:
    codes = {row.code for row in TABLE.values()}
    assert codes - SENDS_DATA == RECEIVES


def test_what_changes_blocks_sends_its_data() -> None:
    assert {row.code for row in TABLE.values() if row.changes_blocks} <= SENDS_DATA
