"""CDBs and parameter lists, at two logical units that two initiators share.

Every command is answered exactly once, with a status and sense data that can be read; devices are asked only
for what they can do; afterwards both units still serve.
"""

from collections.abc import Sequence
from typing import Any, Final

from iscsi_rp.scsi import Completion, Identity, LogicalUnit, Nexus, serve_absent
from iscsi_rp.scsi.opcodes import TABLE
from iscsi_rp.scsi.sense import CHECK_CONDITION, GOOD, RESERVATION_CONFLICT, TASK_SET_FULL
from iscsi_rp.scsi.task import TargetPort
from tests.fuzz.source import Source
from tests.fuzz.strict_device import StrictDevice, require

SIZE_BYTES: Final = 64 << 10
_NAA: Final = "600140500000000000000000000000"
_COMMANDS: Final = 64
_ROUNDS: Final = 10_000
_STATUSES: Final = (GOOD, CHECK_CONDITION, RESERVATION_CONFLICT, TASK_SET_FULL, 0x08, 0x40)
_ROWS: Final = sorted(TABLE, key=lambda key: (key[0], key[1] or 0))
_TEST_UNIT_READY: Final = bytes(16)


class Bench:
    """The units, the nexuses, and what is not answered yet."""

    def __init__(self) -> None:
        self.devices = [StrictDevice(SIZE_BYTES) for _ in range(2)]
        self.units = {
            lun: LogicalUnit(device, Identity(bytes.fromhex(f"{_NAA}0{lun}"), f"fuzz-{lun}"))
            for lun, device in enumerate(self.devices)
        }
        ports = [TargetPort(f"iqn.2026-01.test:t,t,0x000{tag}", tag, tag) for tag in (1, 2)]
        self.nexuses = [
            Nexus(f"iqn.2026-01.test:{name}", self.units, isid, port)
            for isid, (name, port) in enumerate(zip("ab", ports, strict=True))
        ]
        self.waiting: dict[int, int] = {}
        "Tag -> opcode."
        self.statuses: dict[int, int] = {}

    def send(self, who: int, lun: int, commands: Sequence[tuple[bytes, bytes | None]]) -> list[int]:
        tags = []
        batch = []
        for cdb, data in commands:
            tags.append(len(self.waiting) + len(self.statuses))
            self.waiting[tags[-1]] = cdb[0]
            batch.append((tags[-1], cdb, data))
        unit, nexus = self.units.get(lun), self.nexuses[who]
        if unit is None:
            serve_absent(nexus, batch, self._ended)
        else:
            unit.submit(nexus, batch, self._ended)
        return tags

    def _ended(self, completions: Sequence[Completion]) -> None:
        for tag, status, payload, transfer in completions:
            require(tag in self.waiting, f"a command is answered twice: opcode {self.waiting.get(tag)}")
            del self.waiting[tag]
            require(status in _STATUSES, f"status {status:02x}h")
            require(transfer >= 0, "a negative transfer length")
            if status == CHECK_CONDITION:
                _check_sense(bytes(payload))
            self.statuses[tag] = status

    def settle(self) -> None:
        """Let devices answer until nothing is in flight."""
        for device in self.devices:
            device.holding = False
        for _ in range(_ROUNDS):
            if not sum(device.let_go() for device in self.devices):
                break
        require(not self.waiting, f"commands are never answered: opcodes {self.waiting}")

    def check_alive(self) -> None:
        """Each unit still answers who has no part in a reservation, sooner or later with other than
        an attention.
        """
        for who in range(len(self.nexuses)):
            for lun in self.units:
                for _ in range(32):
                    (tag,) = self.send(who, lun, [(_TEST_UNIT_READY, None)])
                    self.settle()
                    if self.statuses[tag] != CHECK_CONDITION:
                        break


def _check_sense(sense: bytes) -> None:
    require(8 <= len(sense) <= 252, f"{len(sense)} bytes of sense data")
    require(sense[0] & 0x7F in (0x70, 0x72), f"sense data of format {sense[0]:02x}h")
    require(sense[7] <= len(sense) - 8, "sense data shorter than it says")


def _cdb(source: Source, choice: int) -> bytes:
    """A CDB of the table with bytes changed, or any."""
    if choice & 0x80:
        return source.exactly(32 if choice & 0x40 else 16)
    code, action = _ROWS[choice % len(_ROWS)]
    cdb = bytearray(source.exactly(16))
    cdb[0] = code
    if action is not None:
        cdb[1] = (cdb[1] & 0xE0) | action
    return bytes(cdb)


def fuzz(data: bytes) -> None:
    source, bench = Source(data), Bench()
    for nexus in range(len(bench.nexuses)):
        for lun in bench.units:
            bench.send(nexus, lun, [(_TEST_UNIT_READY, None)])
    for _ in range(_COMMANDS):
        if not source.left:
            break
        what = source.number()
        who, lun = what & 1, what >> 1 & 1
        kind = what >> 2 & 7
        if kind == 0:
            bench.devices[lun].holding = not bench.devices[lun].holding
        elif kind == 1:
            for device in bench.devices:
                device.let_go()
        elif kind == 2:
            _event(bench, who, lun, what >> 5)
        else:
            batch: list[tuple[bytes, bytes | None]] = []
            for _ in range(1 + (what >> 5 if kind == 3 else 0)):
                cdb = _cdb(source, source.number())
                size = source.number()
                # Up to 4 KiB of data-out, of which the source gives at most 255 bytes.
                given = source.up_to(size) if size else None
                batch.append((cdb, given.ljust(size * 512 if kind == 4 else size, b"\0") if given else given))
            bench.send(who, lun if kind != 5 else 2, batch)
    bench.settle()
    bench.check_alive()


def _event(bench: Bench, who: int, lun: int, which: int) -> None:
    unit, nexus = bench.units[lun], bench.nexuses[who]
    events: tuple[tuple[Any, ...], ...] = (
        (unit.reset,),
        (unit.capacity_changed,),
        (unit.space_low,),
        (unit.luns_changed, nexus),
    )
    call, *arguments = events[which % len(events)]
    call(*arguments)
