"""The kernel's side of a TCMU ring, as drivers/target/target_core_user.c has it: a small model."""

import struct
from typing import Final, NamedTuple

RING_AT: Final = 128
BLOCK_BYTES: Final = 64
STALE: Final = 0xEE
"What an earlier command left in the data area."


class Broken(Exception):
    """The kernel marks the device as broken."""


class Finished(NamedTuple):
    cmd_id: int
    unknown: bool
    status: int
    sense: bytes
    data: bytes


class Open(NamedTuple):
    blocks: list[int]
    data_in: int
    "Bytes that the initiator expects."


class Kernel:
    """Queues commands and cleans up what was answered. Memory is a bytearray, blocks are of 64 bytes."""

    def __init__(self, *, ring_bytes: int = 1024, blocks: int = 32, flags: int = 0xF) -> None:
        self.ring_bytes, self.data_at = ring_bytes, RING_AT + ring_bytes
        self.memory = bytearray(self.data_at + blocks * BLOCK_BYTES)
        self.memory[self.data_at :] = bytes((STALE,)) * (blocks * BLOCK_BYTES)
        struct.pack_into("=HHII", self.memory, 0, 2, flags, RING_AT, ring_bytes)
        self.free = set(range(blocks))
        self.open: dict[int, Open] = {}
        self.cleaned = 0

    @property
    def head(self) -> int:
        return int(struct.unpack_from("=I", self.memory, 12)[0])

    @property
    def tail(self) -> int:
        return int(struct.unpack_from("=I", self.memory, 64)[0])

    def queue(
        self,
        cdb: bytes,
        *,
        data_out: bytes = b"",
        data_in: int = 0,
        blocks: list[int] | None = None,
        op: int = 1,
    ) -> int | None:
        """The id of the command, or None where there is no room. `blocks` of the data area are used."""
        wanted = -(-max(len(data_out), data_in) // BLOCK_BYTES)
        chosen = (
            sorted(self.free)[:wanted] if blocks is None else [b for b in blocks if b in self.free][:wanted]
        )
        iovecs: list[list[int]] = []
        left = max(len(data_out), data_in)
        for block in chosen:
            base, size = self.data_at + block * BLOCK_BYTES, min(left, BLOCK_BYTES)
            left -= size
            if iovecs and sum(iovecs[-1]) == base:
                iovecs[-1][1] += size
            else:
                iovecs.append([base, size])
        base_bytes = max(112, 48 + 16 * len(iovecs))
        length = base_bytes + (len(cdb) + 7 & ~7)
        if len(chosen) < wanted or not self._room(length):
            return None
        self._pad(length)
        cmd_id = next(number for number in range(1 << 16) if number not in self.open)
        at = RING_AT + self.head
        self.memory[at : at + length] = bytes(length)
        cdb_at = at + base_bytes
        struct.pack_into("=IHBBIII4xQ", self.memory, at, length | op, cmd_id, 0, 0, len(iovecs), 0, 0, cdb_at)
        struct.pack_into(
            f"={2 * len(iovecs)}Q", self.memory, at + 48, *(n for iovec in iovecs for n in iovec)
        )
        self.memory[cdb_at : cdb_at + len(cdb)] = cdb
        for base, size in iovecs if data_out else ():
            self.memory[base : base + size] = data_out[:size]
            data_out = data_out[size:]
        self.free -= set(chosen)
        self.open[cmd_id] = Open(chosen, data_in)
        self._advance(length)
        return cmd_id

    def notify(self, function: int, ids: list[int]) -> bool:
        """A task management entry; False where there is no room."""
        length = 32 + (2 * len(ids) + 7 & ~7)
        if not self._room(length):
            return False
        self._pad(length)
        at = RING_AT + self.head
        self.memory[at : at + length] = bytes(length)
        struct.pack_into(
            f"=IHBBBxxxI16x{len(ids)}H", self.memory, at, length | 2, 0, 0, 0, function, len(ids), *ids
        )
        self._advance(length)
        return True

    def clean(self) -> list[Finished]:
        """What was answered since. Raises Broken."""
        finished = []
        while self.cleaned != self.tail:
            at = RING_AT + self.cleaned
            length_op, cmd_id, _, flags = struct.unpack_from("=IHBB", self.memory, at)
            if length_op & 7 not in (0, 2):
                if cmd_id not in self.open:
                    raise Broken(f"{cmd_id} not found")
                finished.append(self._finish(at, cmd_id, flags))
            self.cleaned = (self.cleaned + (length_op & ~7)) % self.ring_bytes
        return finished

    def reset(self, where: int | None = None) -> None:
        """Head and tail go to `where`, or tail to head."""
        for command in self.open.values():
            self.free |= set(command.blocks)
        self.open.clear()
        if where is not None:
            struct.pack_into("=I", self.memory, 12, where)
        struct.pack_into("=I", self.memory, 64, self.head)
        self.cleaned = self.head

    def allocated(self) -> set[int]:
        """Indices in memory of all blocks that open commands have."""
        starts = (self.data_at + b * BLOCK_BYTES for command in self.open.values() for b in command.blocks)
        return {at for start in starts for at in range(start, start + BLOCK_BYTES)}

    def _finish(self, at: int, cmd_id: int, flags: int) -> Finished:
        command = self.open.pop(cmd_id)
        status, read_len = struct.unpack_from("=B3xI", self.memory, at + 8)
        sense, data = b"", b""
        if flags & 1:
            status = 2
        elif status == 2:
            sense = bytes(self.memory[at + 16 : at + 112])
        else:
            for block in command.blocks if command.data_in else ():
                start = self.data_at + block * BLOCK_BYTES
                data += self.memory[start : start + BLOCK_BYTES]
            wanted = min(read_len, command.data_in) if flags & 2 and read_len else command.data_in
            data = data[:wanted]
        self.free |= set(command.blocks)
        return Finished(cmd_id, bool(flags & 1), status, sense, data)

    def _room(self, length: int) -> bool:
        to_end = self.ring_bytes - self.head
        needed = length if to_end >= length else length + to_end
        return self.ring_bytes - (self.head - self.cleaned) % self.ring_bytes - 1 >= needed

    def _pad(self, length: int) -> None:
        to_end = self.ring_bytes - self.head
        if to_end < length:
            struct.pack_into("=IHBB", self.memory, RING_AT + self.head, to_end, 0, 0, 0)
            self._advance(to_end)

    def _advance(self, length: int) -> None:
        struct.pack_into("=I", self.memory, 12, (self.head + length) % self.ring_bytes)
