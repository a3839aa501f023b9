"""A logical unit and hosts that send it commands one at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

from iscsi_rp.block import MemoryDevice
from iscsi_rp.device import BlockDevice
from iscsi_rp.errors import Error
from iscsi_rp.scsi import Identity, LogicalUnit, Nexus
from iscsi_rp.scsi.alua import PortGroups
from iscsi_rp.scsi.task import TargetPort

NAA = bytes.fromhex("6001405000000000000000000000001a")
BLOCK = 512
PORTS = {sp: TargetPort(f"iqn.2026-01.test:disk,t,0x{sp:04x}", sp, sp) for sp in (1, 2)}
READ = bytes((0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0))
WRITE = bytes((0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0))
TEST_UNIT_READY = bytes(6)
CONFLICT = 0x18


class Answer(NamedTuple):
    status: int
    data: bytes
    "Data-in, or sense data."

    @property
    def sense(self) -> tuple[int, int, int] | None:
        """(key, ASC, ASCQ) after CHECK CONDITION."""
        if self.status != 0x02:
            return None
        if self.data[0] == 0x72:
            return self.data[1], self.data[2], self.data[3]
        return self.data[2] & 0x0F, self.data[12], self.data[13]


class Vault:
    """Keeps registrations as a catalogue does, now or when it is let go."""

    def __init__(self) -> None:
        self.stored = b""
        self.error: Error | None = None
        self.held: list[Callable[[], None]] | None = None
        "A list: what was asked for waits in it."

    def save(self, stored: bytes, then: Callable[[Error | None], None]) -> None:
        def finish() -> None:
            if self.error is None:
                self.stored = stored
            then(self.error)

        if self.held is None:
            finish()
        else:
            self.held.append(finish)


def make_unit(device: BlockDevice | None = None, *, vault: Vault | None = None) -> LogicalUnit:
    """A unit of two storage processors, which belongs to the first."""
    groups = PortGroups({1: (1,), 2: (2,)})
    device = device or MemoryDevice(64 * BLOCK)
    if vault is None:
        return LogicalUnit(device, Identity(NAA, "t"), port_groups=groups)
    stored, save = vault.stored, vault.save
    return LogicalUnit(device, Identity(NAA, "t"), port_groups=groups, registrations=stored, save=save)


class Host:
    """An initiator port at one target port. It knows that the unit was powered on."""

    def __init__(
        self, unit: LogicalUnit, number: int = 1, *, sp: int = 1, fresh: bool = False, initiator: str = ""
    ) -> None:
        self.unit = unit
        initiator = initiator or f"iqn.2026-01.test:host{number}"
        self.nexus = Nexus(initiator, {0: unit}, 0x23D000000 + number, PORTS[sp])
        if not fresh:
            assert self.do(TEST_UNIT_READY).sense == (6, 0x29, 0)

    @property
    def port(self) -> str:
        return self.nexus.initiator_port

    def start(self, cdb: bytes, data: bytes | None = None) -> list[Answer]:
        """Where the answer will be."""
        answers: list[Answer] = []

        def done(completions: Any) -> None:
            answers.extend(Answer(status, bytes(payload)) for _, status, payload, _ in completions)

        self.unit.submit(self.nexus, [("tag", cdb.ljust(16, b"\0"), data)], done)
        return answers

    def do(self, cdb: bytes, data: bytes | None = None) -> Answer:
        (answer,) = self.start(cdb, data)
        return answer

    def good(self, cdb: bytes, data: bytes | None = None) -> bytes:
        """Data-in of a command that has to succeed."""
        answer = self.do(cdb, data)
        assert answer.status == 0, answer.sense
        return answer.data

    def attention(self) -> tuple[int, int] | None:
        """(ASC, ASCQ) of what waits to be told."""
        sense = self.do(TEST_UNIT_READY).sense
        return None if sense is None else sense[1:]
