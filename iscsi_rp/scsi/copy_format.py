"""EXTENDED COPY's parameter list, and what RECEIVE COPY RESULTS and the VPD page answer (SPC-4 6.4, 6.5,
6.18 to 6.20, 7.8.17): the forms with a list identifier of one byte, LID1.
"""

import struct
from typing import Final, NamedTuple

from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.sense import (
    PARAMETER_LIST_LENGTH_ERROR,
    CheckCondition,
    Sense,
    invalid_parameter,
)

TARGETS: Final = 8
SEGMENTS: Final = 64
SEGMENT_BYTES: Final = 64 << 20
"The most that one segment copies."
COPIES: Final = 8
"At once, for one logical unit; one more is answered with TASK SET FULL."

_HEADER: Final = 16
_TARGET: Final = 32
_SEGMENT: Final = 28
_LIST_BYTES: Final = TARGETS * _TARGET + SEGMENTS * _SEGMENT
_IDENTIFICATION: Final = 0xE4
_BLOCK_TO_BLOCK: Final = 0x02

TOO_MANY_TARGETS: Final = Sense(0x5, 0x26, 0x06)
UNSUPPORTED_TARGET: Final = Sense(0x5, 0x26, 0x07)
TOO_MANY_SEGMENTS: Final = Sense(0x5, 0x26, 0x08)
UNSUPPORTED_SEGMENT: Final = Sense(0x5, 0x26, 0x09)

EXTENDED_COPY, RECEIVE_COPY_RESULTS = 0x83, 0x84
COPY_STATUS, OPERATING_PARAMETERS, FAILED_SEGMENT_DETAILS = 0x00, 0x03, 0x04


class Target(NamedTuple):
    """A CSCD descriptor: identification descriptor (SPC-4 6.4.5.2). LU ID TYPE and NUL, which were something
    in SPC-3, are ignored.
    """

    device_type: int
    designation: bytes
    "Code set, association and type, length, designator: as in VPD page 83."
    block_size: int


class Segment(NamedTuple):
    """Block device to block device (SPC-4 6.4.6.3)."""

    source: int
    "Index of a target."
    destination: int
    in_destination_blocks: bool
    "DC: `blocks` counts blocks of the destination, not of the source."
    blocks: int
    source_lba: int
    destination_lba: int


class CopyList(NamedTuple):
    """The parameter list of an EXTENDED COPY."""

    identifier: int | None
    "None: it has none."
    held: bool
    "What became of it can be asked for afterwards."
    targets: tuple[Target, ...]
    segments: tuple[Segment, ...]


def decode(data: bytes) -> CopyList:
    """Raises `CheckCondition`."""
    if len(data) < _HEADER:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    usage = data[1] >> 3 & 0x03
    targets, segments, inline = uint(data, 2, 2), uint(data, 8, 4), uint(data, 12, 4)
    if usage == 1 or (usage == 3 and data[0]):
        raise invalid_parameter(1 if usage == 1 else 0)
    if inline or targets + segments > _LIST_BYTES or len(data) < _HEADER + targets + segments:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    middle = _HEADER + targets
    return CopyList(
        None if usage == 3 else data[0],
        usage == 0,
        _targets(data[_HEADER:middle]),
        _segments(data[middle : middle + segments]),
    )


def _targets(data: bytes) -> tuple[Target, ...]:
    parts = [data[at : at + _TARGET] for at in range(0, len(data), _TARGET)]
    if len(parts) > TARGETS:
        raise CheckCondition(TOO_MANY_TARGETS)
    found = []
    for at, part in zip(range(_HEADER, 1 << 16, _TARGET), parts, strict=False):
        if part[0] != _IDENTIFICATION:
            raise CheckCondition(UNSUPPORTED_TARGET)
        if len(part) < _TARGET:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        if part[7] > 20:
            raise invalid_parameter(at + 7)
        designation = part[4:6] + part[7 : 8 + part[7]]
        found.append(Target(part[1] & 0x1F, designation, uint(part, 29, 3)))
    return tuple(found)


def _segments(data: bytes) -> tuple[Segment, ...]:
    parts = [data[at : at + _SEGMENT] for at in range(0, len(data), _SEGMENT)]
    if len(parts) > SEGMENTS:
        raise CheckCondition(TOO_MANY_SEGMENTS)
    found = []
    for part in parts:
        if part[0] != _BLOCK_TO_BLOCK:
            raise CheckCondition(UNSUPPORTED_SEGMENT)
        if len(part) < _SEGMENT or uint(part, 2, 2) != _SEGMENT - 4:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        source, destination, _, blocks, source_lba, destination_lba = struct.unpack_from(">HHHHQQ", part, 4)
        in_destination = bool(part[1] & 0x02)
        found.append(Segment(source, destination, in_destination, blocks, source_lba, destination_lba))
    return tuple(found)


def copy_status(status: int, segments: int, moved_bytes: int) -> bytes:
    """COPY STATUS (LID1): 0 in progress, 1 without errors, 2 with errors; what was moved in units of KiB."""
    return struct.pack(">IBHBI", 8, status, segments, 1, min(moved_bytes >> 10, 0xFFFF_FFFF))


def failed_segment_details(status: int, sense: bytes) -> bytes:
    """FAILED SEGMENT DETAILS (LID1) (SPC-4 6.20)."""
    body = bytes(52) + struct.pack(">BxH", status, len(sense)) + sense
    return len(body).to_bytes(4, "big") + body


def operating_parameters() -> bytes:
    """OPERATING PARAMETERS (LID1) (SPC-4 6.19.4)."""
    descriptors = bytes((_BLOCK_TO_BLOCK, _IDENTIFICATION))
    supports_no_identifier = 1
    body = struct.pack(
        ">B3xHHIIIII2xHBBBB3xB",
        supports_no_identifier,
        TARGETS,
        SEGMENTS,
        _LIST_BYTES,
        SEGMENT_BYTES,
        0,  # inline data
        0,  # held data
        0,  # stream devices
        COPIES,
        COPIES,
        0,  # granularities, as powers of two: of segments, inline and held data
        0,
        0,
        len(descriptors),
    )
    return (len(body) + len(descriptors)).to_bytes(4, "big") + body + descriptors


def third_party_copy_page() -> bytes:
    """The body of VPD page 8F (SPC-4 7.8.17)."""
    results = bytes((COPY_STATUS, OPERATING_PARAMETERS, FAILED_SEGMENT_DETAILS))
    commands = bytes((EXTENDED_COPY, 1, 0x00, RECEIVE_COPY_RESULTS, len(results))) + results
    descriptors = bytes((_BLOCK_TO_BLOCK, _IDENTIFICATION))
    return b"".join(
        (
            _descriptor(0x0001, bytes((len(commands),)) + commands),
            _descriptor(0x0004, struct.pack(">4xHHII12x", TARGETS, SEGMENTS, _LIST_BYTES, 0)),
            _descriptor(0x0008, bytes((len(descriptors),)) + descriptors),
            _descriptor(0x000C, bytes(2)),  # no targets but those that a list describes
            _descriptor(0x8001, struct.pack(">III20x", COPIES, COPIES, SEGMENT_BYTES)),
        )
    )


def _descriptor(kind: int, body: bytes) -> bytes:
    padded = body + bytes(-len(body) % 4)
    return struct.pack(">HH", kind, len(padded)) + padded
