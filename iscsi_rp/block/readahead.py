"""What to read ahead of a sequential reader, in place of the kernel's readahead.

The kernel's own puts large folios into the page cache, and on a file system with buffer heads (ext4) a 4 KiB
write into a large folio walks the list of all its buffers: 12 µs and more, against 2 in a folio of its own.
A LUN is read once and written at random for ever after. So a store is opened with `POSIX_FADV_RANDOM`, which
turns the kernel's readahead off, and asks for what lies ahead with `POSIX_FADV_WILLNEED`, which fills the
cache with small folios.
"""

from dataclasses import dataclass
from typing import Final

STREAMS: Final = 8
"Sequential readers that are told apart; one more takes the place of the least recent."
FIRST_BYTES: Final = 256 << 10
MOST_BYTES: Final = 4 << 20


@dataclass(slots=True)
class _Stream:
    begin: int
    "Of its last read."
    ahead: int
    "Where what was read or asked for ends."
    window: int = FIRST_BYTES


class Readahead:
    """Told of each read that the page cache could not serve, in the order of their submission."""

    def __init__(self) -> None:
        self._streams: list[_Stream] = []

    def window(self, offset: int, length: int) -> tuple[int, int] | None:
        """(offset, length) in bytes to ask for, if this read goes on where another ended.

        It may reach beyond the end of the store. The window of a stream doubles each time.
        """
        end = offset + length
        for stream in self._streams:
            if stream.begin <= offset <= stream.ahead:
                break
        else:
            self._streams = [_Stream(offset, end), *self._streams[: STREAMS - 1]]
            return None
        self._streams.remove(stream)
        self._streams.insert(0, stream)
        stream.begin = offset
        if end <= stream.ahead - stream.window // 2:
            return None
        begin, stream.ahead = stream.ahead, end + stream.window
        stream.window = min(2 * stream.window, MOST_BYTES)
        return begin, stream.ahead - begin
