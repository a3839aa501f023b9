"""The logical unit: SCSI commands in, block operations to its device, status out (SAM-5, SBC-4).

Commands come in batches. READ and WRITE of 10, 12 and 16 bytes that are in order become one batch for the
device, without an object for each; everything else, and whatever is odd about those, goes through the opcode
table. That way is for nexuses that are *open*: nothing that they must be told or may not do stands before
their reads and writes. The commands of any other nexus all go through the table, one by one.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from iscsi_rp.device import READ, WRITE, BlockDevice, Io, IoError, Result
from iscsi_rp.scsi.access import PortState
from iscsi_rp.scsi.alua import AccessState, PortGroups
from iscsi_rp.scsi.attentions import EXEMPT, Attentions
from iscsi_rp.scsi.cdb import FAST, FUA
from iscsi_rp.scsi.copy import Copies
from iscsi_rp.scsi.holds import Holds
from iscsi_rp.scsi.identity import Identity
from iscsi_rp.scsi.log import READ_ERRORS, WRITE_ERRORS, ErrorCounters
from iscsi_rp.scsi.medium import Medium, Note, Work
from iscsi_rp.scsi.mode import ModePages
from iscsi_rp.scsi.opcodes import WITH_SERVICE_ACTION, Opcode, find
from iscsi_rp.scsi.persistent import Registrant
from iscsi_rp.scsi.reservations import Reservations, Save, registrant
from iscsi_rp.scsi.sense import (
    ACCESS_STATE_CHANGED,
    BUS_DEVICE_RESET,
    CAPACITY_CHANGED,
    GOOD,
    INVALID_FIELD_IN_CDB,
    INVALID_OPCODE,
    REPORTED_LUNS_CHANGED,
    SOFT_THRESHOLD_REACHED,
    TARGET_PORT_STANDBY,
    TARGET_PORT_UNAVAILABLE,
    TASK_ABORTED,
    WRITE_PROTECTED,
    CheckCondition,
    ReservationConflict,
    Sense,
)
from iscsi_rp.scsi.steps import Later
from iscsi_rp.scsi.task import Command, CommandsDone, Completion, Nexus, Task, failure

TRANSFER_BYTES: Final = 8 << 20
"The most that one command moves: what an initiator can make a target hold for it."
_HELD_BYTES: Final = 2 * TRANSFER_BYTES
"Reads of one batch for the device: `done` can give their data away before the next ones take memory."
_OPTIMAL_BYTES: Final = 1 << 20
_WRITE_SAME_BLOCKS: Final = 0xFFFF
_UNMAP_BLOCKS: Final = 1 << 20
_UNMAP_DESCRIPTORS: Final = 256
_STORE_BLOCK: Final = 4096
"What file systems give back at least."
_COMPARE_BLOCKS: Final = 255
_ATOMIC_BLOCKS: Final = 1


class Limits(NamedTuple):
    """The block limits page, in logical blocks (SBC-4 6.6.4)."""

    transfer_blocks: int
    optimal_blocks: int
    write_same_blocks: int
    unmap_blocks: int
    unmap_descriptors: int
    unmap_granularity: int
    "Blocks: fewer are zeroed, but give no space back."
    compare_blocks: int
    "COMPARE AND WRITE."
    atomic_blocks: int
    "WRITE ATOMIC; alignment and granularity are one block."


class LogicalUnit:
    """One disk of one target, for any number of nexuses. (A second target would have ports with the same
    relative identifiers, and reservations know a nexus by that and its initiator port: `Registrant`.)
    """

    def __init__(
        self,
        device: BlockDevice,
        identity: Identity,
        *,
        physical_block_size: int = 4096,
        port_groups: PortGroups | None = None,
        registrations: bytes = b"",
        save: Save | None = None,
        unfinished: Work | None = None,
        note: Note | None = None,
        later: Later | None = None,
    ) -> None:
        """`physical_block_size` in bytes: with a device of 512-byte blocks 4096 makes a 512e disk and 512 a
        512n one. `port_groups`: None is one group. `registrations` is what `save` was last given; without
        `save` persistent reservations do not survive a loss of power. `unfinished` is what `note` was last
        given; without `note` a restart forgets that formatting or sanitizing was begun. Without `later` these
        fail when the device is busy. Raises `RegistrationsFormatError`.
        """
        block = device.block_size
        self.device, self.identity = device, identity
        self.holds = Holds(device)
        self.copies = Copies()
        self.medium = Medium(unfinished, note)
        self.later = later
        self.mode = ModePages()
        self.errors = ErrorCounters()
        self.size_blocks = device.size // block
        self.blocks_per_physical = max(1, physical_block_size // block)
        self.limits = Limits(
            TRANSFER_BYTES // block,
            _OPTIMAL_BYTES // block,
            _WRITE_SAME_BLOCKS,
            _UNMAP_BLOCKS,
            _UNMAP_DESCRIPTORS,
            max(self.blocks_per_physical, _STORE_BLOCK // block),
            _COMPARE_BLOCKS,
            _ATOMIC_BLOCKS,
        )
        self.attention: Callable[[Nexus, Sense], None] | None = None
        "Called when a unit attention condition is established for a nexus."
        self._attentions = Attentions()
        self._open: set[Nexus] = set()

        self.port_groups = port_groups or PortGroups()
        self.reservations = Reservations(self, registrations, save)
        self.abort_tasks: Callable[[Nexus, Callable[[], None]], None] | None = None
        """Ends the commands of a nexus, for PREEMPT AND ABORT, then calls back: given by the transport. Those
        of them that the unit has end by themselves; `then` follows the last one, and must follow even
        where there is none. None: nobody to ask, so nothing is waited for."""

    @property
    def write_protected(self) -> bool:
        return self.device.read_only or self.mode.software_write_protect

    # What happens to the unit.

    def nexus_lost(self, nexus: Nexus) -> None:
        """The session of `nexus` is over: what it had in flight ends by itself, nothing more is begun."""
        if self.reservations.reserved_by is nexus:
            self.reservations.drop()
        self.copies.forget(nexus)
        self.medium.let_go(nexus)
        self._attentions.lose(nexus)
        self._open.discard(nexus)

    def reset(self) -> None:
        """LOGICAL UNIT RESET: mode pages go back to their defaults, a SCSI-2 reservation ends, and every
        nexus is told, the one that asked included (SAM-5 6.3.3). (Aborting tasks is the transport's.)
        """
        self.copies.stop(None)
        self.mode.reset()
        self.reservations.drop()
        self.establish(BUS_DEVICE_RESET)

    def abort(self, nexus: Nexus, tag: Any) -> None:
        """A command is aborted: if it takes long it ends soon, or is answered while its work goes on."""
        self.copies.stop(nexus, tag)
        self.medium.let_go(nexus, tag)

    def capacity_changed(self) -> None:
        """The device has another size now."""
        self.size_blocks = self.device.size // self.device.block_size
        self.establish(CAPACITY_CHANGED)

    def luns_changed(self, nexus: Nexus) -> None:
        """`nexus` sees other LUNs than it did."""
        if nexus in self._attentions:
            self.establish_for(nexus, REPORTED_LUNS_CHANGED)

    def space_low(self) -> None:
        """The store's space fell below the soft threshold (SBC-4 4.7.3.8)."""
        self.establish(SOFT_THRESHOLD_REACHED)

    def set_owner(self, group: int) -> None:
        """The array gives the unit to a target port group. Raises `ValueError` for one that is not there."""
        if self.port_groups.set_owner(group):
            self.access_changed()

    def access_changed(self, *, by: Nexus | None = None) -> None:
        """Access states of target port groups changed, for all but the nexus that did it a surprise."""
        self.review_all()
        self.establish(ACCESS_STATE_CHANGED, but=by)

    def establish(self, sense: Sense, *, but: Nexus | None = None) -> None:
        """A unit attention condition for every nexus, or all but one."""
        for nexus in self._attentions:
            if nexus is not but:
                self.establish_for(nexus, sense)

    def establish_for(self, nexus: Nexus, sense: Sense) -> None:
        if self._attentions.establish(nexus, sense):
            self._review(nexus)
            if self.attention is not None:
                self.attention(nexus, sense)

    def _review(self, nexus: Nexus) -> None:
        """Decide anew whether `nexus` is open: to be called when anything changed that `submit` relies on."""
        if (
            not self._attentions.pending(nexus)
            and self.port_groups.state(nexus.port.group) <= AccessState.NON_OPTIMIZED
            and self.reservations.is_open(nexus)
            and self.medium.sense is None
        ):
            self._open.add(nexus)
        else:
            self._open.discard(nexus)

    def review_all(self) -> None:
        for nexus in self._attentions:
            self._review(nexus)

    def nexuses(self, who: Registrant) -> list[Nexus]:
        """The sessions of a registrant that have used the unit."""
        return [nexus for nexus in self._attentions if registrant(nexus) == who]

    def ports_of(self, initiator: str) -> list[str]:
        """SCSI names of the initiator ports with that iSCSI name that have used the unit."""
        known = (nexus.initiator_port.lower() for nexus in self._attentions)
        return sorted({port for port in known if port.partition(",")[0] == initiator})

    def take_attention(self, nexus: Nexus) -> Sense | None:
        """The unit attention condition that `nexus` is told now, if one waits."""
        sense = self._attentions.take(nexus)
        self._review(nexus)
        return sense

    def luns_reported(self, nexus: Nexus) -> None:
        """`nexus` has read the list of LUNs: it need not be told any more that it changed (SPC-4 6.33)."""
        if nexus in self._attentions:
            self._attentions.drop(nexus, REPORTED_LUNS_CHANGED)
            self._review(nexus)

    # Commands.

    def submit(self, nexus: Nexus, commands: Sequence[Command], done: CommandsDone) -> None:
        """Start `commands`; `done` gets every tag once, from inside `submit` or later, in any order."""
        if nexus not in self._open:
            return self._submit_one_by_one(nexus, commands, done)
        batch: list[Io] = []
        block, size = self.device.block_size, self.device.size
        protected = self.write_protected
        held = 0
        report = partial(self._report, done)
        rest = iter(commands)
        for command in rest:
            if held > _HELD_BYTES:
                self.holds.submit(batch, report)
                batch, held = [], 0
            tag, cdb, data = command
            fast = FAST.get(cdb[0])
            if fast is not None:
                unpack, op, odd = fast
                flags, lba, blocks = unpack(cdb)
                offset, length = lba * block, blocks * block
                if not flags & odd and 0 < length <= TRANSFER_BYTES and offset + length <= size:
                    if op == READ:
                        batch.append((READ, offset, length, None, False, (tag, length, True)))
                        held += length
                        continue
                    if data is not None and len(data) == length and not protected:
                        batch.append((WRITE, offset, length, data, flags & FUA != 0, (tag, length, False)))
                        continue
            if batch:
                # In the order of their arrival, so it sees what was written before it.
                self.holds.submit(batch, report)
                batch, held = [], 0
            self._serve(Task(self, nexus, command, done))
            if nexus not in self._open:
                break
        if batch:
            self.holds.submit(batch, report)
        if nexus not in self._open:
            self._submit_one_by_one(nexus, list(rest), done)
        return None

    def _submit_one_by_one(self, nexus: Nexus, commands: Sequence[Command], done: CommandsDone) -> None:
        """The commands of a nexus that is not open, until it is."""
        rest = iter(commands)
        for command in rest:
            if not self._attentions.meet(nexus):
                done([(command[0], TASK_ABORTED, b"", 0)])
                continue
            self._serve(Task(self, nexus, command, done))
            if nexus in self._open:
                self.submit(nexus, list(rest), done)

    def _serve(self, task: Task) -> None:
        try:
            if task.cdb[0] not in EXEMPT and (attention := self.take_attention(task.nexus)):
                raise CheckCondition(attention)
            row = find(task.cdb)
            if row is None:
                known = task.cdb[0] in WITH_SERVICE_ACTION
                raise CheckCondition(INVALID_FIELD_IN_CDB._replace(field=1) if known else INVALID_OPCODE)
            self.admit(task.nexus, row)
            row.serve(task)
        except (CheckCondition, ReservationConflict, IoError) as error:
            task.end(error)

    def admit(self, nexus: Nexus, row: Opcode) -> None:
        """Refuse a command that `nexus` may not have done now. Raises `CheckCondition`,
        `ReservationConflict`.
        """
        self.reservations.admit(nexus, row.under_reservation)
        state = self.port_groups.state(nexus.port.group)
        if state == AccessState.STANDBY and row.without_media == PortState.ACTIVE:
            raise CheckCondition(TARGET_PORT_STANDBY)
        if state == AccessState.UNAVAILABLE and row.without_media != PortState.ANY:
            raise CheckCondition(TARGET_PORT_UNAVAILABLE)
        self.medium.admit(row)
        if row.changes_blocks and self.write_protected:
            raise CheckCondition(WRITE_PROTECTED)

    def admit_as(self, nexus: Nexus, code: int) -> None:
        """As `admit`, for the part of another command that is like the command of an opcode."""
        row = find(bytes((code,)))
        assert row is not None
        self.admit(nexus, row)

    def _report(self, done: CommandsDone, results: Sequence[tuple[Any, Result]]) -> None:
        """The device's answers to the short way's operations, as completions."""
        completions: list[Completion] = []
        for (tag, length, reading), result in results:
            if result is None:
                completions.append((tag, GOOD, b"", length))
            elif isinstance(result, IoError):
                self.errors.count(result, READ_ERRORS if reading else WRITE_ERRORS)
                descriptor = self.mode.descriptor_sense
                completions.append((tag, *failure(result, reading=reading, descriptor=descriptor), 0))
            else:
                completions.append((tag, GOOD, result, length))
        done(completions)
