"""What an image has below its access log, read in chunks and kept for a while: an image never changes."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Final

CHUNK_BYTES: Final = 64 << 10
CHUNKS: Final = 256
"16 MiB for each device."


class ImageCache:
    """Used from any thread. Two that miss the same chunk at once both fetch it."""

    def __init__(self, reader: Callable[[int, int], bytes], size: int) -> None:
        """`reader(offset, length)` blocks; `size` is the volume's, in bytes."""
        self._reader, self._size = reader, size
        self._chunks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = Lock()

    def cached(self, offset: int, length: int) -> bytes | None:
        """The data, if it is here. Never blocks for long."""
        if length >= CHUNK_BYTES:
            return None
        first, last = offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES
        with self._lock:
            parts = [self._chunks.get(number) for number in range(first, last + 1)]
            if None in parts:
                return None
            for number in range(first, last + 1):
                self._chunks.move_to_end(number)
        start = offset - first * CHUNK_BYTES
        return b"".join(parts)[start : start + length]  # type: ignore[arg-type]

    def read(self, offset: int, length: int) -> bytes:
        """Short reads fetch whole chunks for those that follow; long ones need no read-ahead.

        Raises what the reader raises.
        """
        if length >= CHUNK_BYTES:
            return self._reader(offset, length)
        first, last = offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES
        start = offset - first * CHUNK_BYTES
        return b"".join([self._chunk(number) for number in range(first, last + 1)])[start : start + length]

    def _chunk(self, number: int) -> bytes:
        with self._lock:
            chunk = self._chunks.get(number)
        if chunk is None:
            start = number * CHUNK_BYTES
            chunk = self._reader(start, min(CHUNK_BYTES, self._size - start))
            with self._lock:
                self._chunks[number] = chunk
                if len(self._chunks) > CHUNKS:
                    self._chunks.popitem(last=False)
        return chunk
