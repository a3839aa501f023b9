"""A fuzzer's bytes, read as decisions. When they end, every further decision is 0."""


class Source:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        """An unsigned number of `size` bytes."""
        return int.from_bytes(self.exactly(size), "big")

    def exactly(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken.ljust(size, b"\0")

    def up_to(self, limit: int) -> bytes:
        """At most `limit` of what is left, without filling up."""
        taken = self._data[self._at : self._at + limit]
        self._at += limit
        return taken
