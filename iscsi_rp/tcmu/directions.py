"""Which commands send data. A ring's entry has the buffer of a command, and not which way it goes: the kernel
knows that from the initiator, the handler from the opcode (SBC-4, SPC-4).
"""

from typing import Final

SENDS_DATA: Final = frozenset(
    (
        *(0x04, 0x48),  # FORMAT UNIT, SANITIZE: a parameter list, if any
        *(0x15, 0x55, 0x1D, 0x3B, 0x4C),  # MODE SELECT, SEND DIAGNOSTIC, WRITE BUFFER, LOG SELECT
        *(0x0A, 0x2A, 0xAA, 0x8A, 0x9C),  # WRITE, WRITE ATOMIC
        *(0x2E, 0xAE, 0x8E),  # WRITE AND VERIFY
        *(0x2F, 0xAF, 0x8F),  # VERIFY, where it compares
        *(0x41, 0x93, 0x42),  # WRITE SAME, UNMAP
        *(0x89, 0x8B),  # COMPARE AND WRITE, ORWRITE
        *(0x5F, 0x83, 0xA4),  # PERSISTENT RESERVE OUT, EXTENDED COPY, MAINTENANCE OUT
    )
)
"""Opcodes. What is not among them receives, or moves nothing: a command that is not known is refused, which
moves nothing either."""
