"""The small durable state of a copy:

two slots, written in turn, each with its checksum (docs/journal-format.md).
"""

import struct
from typing import Final, NamedTuple

from crc32c import crc32c

from iscsi_rp.journal.errors import DamagedStateError, JournalFormatError
from iscsi_rp.journal.files import Directory, File

VERSION: Final = 1
FILE_NAME: Final = "state"
_MAGIC: Final = b"IRP-COPY"
_SLOT: Final = struct.Struct("<8sHxxxxxx16sQQQQ")
_CRC: Final = struct.Struct("<I")
_SLOT_STRIDE: Final = 4096
"A torn write spoils one slot only."


class State(NamedTuple):
    """Positions of the log."""

    distributed: int
    "The copy volumes have every record up to here."
    applying: int
    """They have no record after this one;

    equal to `distributed` unless a distribution is under way or was cut short.
    """
    first_offered: int
    "The oldest image that can be read."


class StateFile:
    """Where the state is kept."""

    def __init__(self, file: File, group: bytes, number: int) -> None:
        self._file = file
        self._group = group
        self._number = number
        "Of the slot written last; it grows, and the larger valid one counts."

    @classmethod
    def create(cls, directory: Directory, group: bytes, state: State) -> "StateFile":
        exists = FILE_NAME in directory.names()
        stored = cls(directory.open(FILE_NAME, create=not exists), group, 0)
        stored.store(state)
        directory.sync()
        return stored

    @classmethod
    def load(cls, directory: Directory, group: bytes) -> "tuple[StateFile, State] | None":
        """None where none was ever made durable. Raises `DamagedStateError`, `JournalFormatError`."""
        if FILE_NAME not in directory.names():
            return None
        file = directory.open(FILE_NAME)
        file.trust_disk()
        slots = [file.pread(_SLOT.size + _CRC.size, at) for at in (0, _SLOT_STRIDE)]
        valid = [found for slot in slots if (found := _unpack(slot, group)) is not None]
        if valid:
            number, state = max(valid)
            return cls(file, group, number), state
        if any(map(any, slots)):
            raise DamagedStateError("The durable state of the copy is damaged: the copy needs a full sweep.")
        return None

    def store(self, state: State) -> None:
        """Durable on return. Blocks."""
        number = self._number + 1
        slot = _SLOT.pack(_MAGIC, VERSION, self._group, number, *state)
        slot += _CRC.pack(crc32c(slot))
        self._file.pwritev([slot], number % 2 * _SLOT_STRIDE)
        self._file.sync()
        self._number = number


def _unpack(slot: bytes, group: bytes) -> tuple[int, State] | None:
    body, crc = slot[: _SLOT.size], slot[_SLOT.size :]
    if len(crc) < _CRC.size or crc != _CRC.pack(crc32c(body)):
        return None
    magic, version, found_group, number, *state = _SLOT.unpack(body)
    if magic != _MAGIC or version != VERSION or found_group != group:
        raise JournalFormatError(
            "The state of the copy is of another group or in another version of the format."
        )
    return number, State(*state)
