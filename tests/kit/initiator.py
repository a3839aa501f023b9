"""A real initiator with a queue: libiscsi (Debian's `libiscsi7`) through ctypes.

One `Initiator` is one iSCSI session with one target and serves all its LUNs. Reads and writes are submitted
at any depth; `poll` drives the connection and calls back. Automatic reconnecting is off: who tests a crash
wants to know which command got its status. Only functions of the library are used and the first field of
`struct scsi_task` (its status), so no other layout is assumed.
"""

import ctypes
import select
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

Done: TypeAlias = Callable[[bytes | None, int | None], None]
"Called with the data of a READ that succeeded (else None), and the SCSI status, or None when none ever came."

INITIATOR_NAME: Final = "iqn.2026-11.io.iscsi-rp:test-initiator"

_ATTENTIONS: Final = 3
"How many may be pending on a LUN."
GOOD: Final = 0
"SAM-5 5.3.1"
_LAST_STATUS: Final = 0xFF
"What libiscsi reports beyond it (cancelled, error, timeout) did not come from the target."
_SESSION_NORMAL: Final = 2
_DIGEST_NONE: Final = 0


class InitiatorError(Exception):
    """The target refused, failed or lost a command or the session; the message is libiscsi's."""


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Unmap(ctypes.Structure):
    _fields_ = (("lba", ctypes.c_uint64), ("blocks", ctypes.c_uint32))


class _Capacity(ctypes.Structure):
    _fields_ = (("last_lba", ctypes.c_uint64), ("block_size", ctypes.c_uint32))


_CALLBACK: Final = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

_INT, _U32, _U64, _PTR, _STR = (
    ctypes.c_int,
    ctypes.c_uint32,
    ctypes.c_uint64,
    ctypes.c_void_p,
    ctypes.c_char_p,
)
# bytes, block size, protect, dpo, fua, fua_nv, group, callback and its argument (libiscsi's iscsi.h)
_TRANSFER: Final = (_U32, _INT, _INT, _INT, _INT, _INT, _INT, _CALLBACK, _PTR)
_PROTOTYPES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "iscsi_create_context": (_PTR, (_STR,)),
    "iscsi_destroy_context": (_INT, (_PTR,)),
    "iscsi_set_targetname": (_INT, (_PTR, _STR)),
    "iscsi_set_session_type": (_INT, (_PTR, _INT)),
    "iscsi_set_header_digest": (_INT, (_PTR, _INT)),
    "iscsi_set_noautoreconnect": (None, (_PTR, _INT)),
    "iscsi_set_timeout": (_INT, (_PTR, _INT)),
    "iscsi_full_connect_sync": (_INT, (_PTR, _STR, _INT)),
    "iscsi_testunitready_sync": (_PTR, (_PTR, _INT)),
    "iscsi_logout_sync": (_INT, (_PTR,)),
    "iscsi_get_error": (_STR, (_PTR,)),
    "iscsi_get_fd": (_INT, (_PTR,)),
    "iscsi_which_events": (_INT, (_PTR,)),
    "iscsi_service": (_INT, (_PTR, _INT)),
    "iscsi_write16_task": (_PTR, (_PTR, _INT, _U64, _PTR, *_TRANSFER)),
    "iscsi_read16_iov_task": (_PTR, (_PTR, _INT, _U64, *_TRANSFER, ctypes.POINTER(_Iovec), _INT)),
    "iscsi_synchronizecache16_task": (_PTR, (_PTR, _INT, _U64, _U32, _INT, _INT, _CALLBACK, _PTR)),
    "iscsi_unmap_task": (_PTR, (_PTR, _INT, _INT, _INT, ctypes.POINTER(_Unmap), _INT, _CALLBACK, _PTR)),
    "iscsi_readcapacity16_sync": (_PTR, (_PTR, _INT)),
    "scsi_datain_unmarshall": (_PTR, (_PTR,)),
    "scsi_free_scsi_task": (None, (_PTR,)),
}


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libiscsi.so.7")
    except OSError as error:
        raise InitiatorError("libiscsi.so.7 is missing (Debian: apt install libiscsi7)") from error
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Initiator:
    """A session with `iqn` at `portal` ("host:port"). Raises `InitiatorError` when the login fails."""

    def __init__(
        self,
        portal: str,
        iqn: str,
        *,
        luns: Sequence[int] = (0,),
        name: str = INITIATOR_NAME,
        timeout_s: int = 20,
    ) -> None:
        """`luns` are asked for readiness, so no unit attention is left; `timeout_s` is for one command."""
        self._lib = _load()
        self._context: int | None = self._lib.iscsi_create_context(name.encode())
        self._tasks: dict[int, tuple[Done, Any, Any]] = {}
        self._next = 1
        self._callback = _CALLBACK(self._on_status)
        self._timeout_s = timeout_s
        self._poll = select.poll()
        lib, context = self._lib, self._context
        lib.iscsi_set_noautoreconnect(context, 1)
        lib.iscsi_set_session_type(context, _SESSION_NORMAL)
        lib.iscsi_set_header_digest(context, _DIGEST_NONE)
        lib.iscsi_set_targetname(context, iqn.encode())
        lib.iscsi_set_timeout(context, timeout_s)
        if lib.iscsi_full_connect_sync(context, portal.encode(), luns[0]) != 0:
            raise self._lost()
        for lun in luns:
            self._clear_attention(lun)

    def __enter__(self) -> "Initiator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def in_flight(self) -> int:
        """Commands without a status."""
        return len(self._tasks)

    def capacity(self, lun: int) -> tuple[int, int]:
        """(bytes of the LUN, bytes of a block) by READ CAPACITY(16)."""
        task = self._lib.iscsi_readcapacity16_sync(self._context, lun)
        if not task:
            raise self._error()
        try:
            found = self._lib.scsi_datain_unmarshall(task)
            if _status(task) != GOOD or not found:
                raise self._error()
            capacity = _Capacity.from_address(found)
            return (capacity.last_lba + 1) * capacity.block_size, capacity.block_size
        finally:
            self._lib.scsi_free_scsi_task(task)

    def submit_write(self, lun: int, offset: int, data: bytes, done: Done, *, fua: bool = False) -> None:
        """Queue a WRITE(16) of `data` at byte `offset`; both multiples of 512."""
        tag = self._remember(done, data, None)
        address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p)
        rest = (len(data), 512, 0, 0, int(fua), 0, 0, self._callback, tag)
        self._queued(tag, self._lib.iscsi_write16_task(self._context, lun, offset // 512, address, *rest))

    def submit_read(self, lun: int, offset: int, length: int, done: Done) -> None:
        """Queue a READ(16) of `length` bytes at byte `offset`; both multiples of 512."""
        buffer = ctypes.create_string_buffer(length)
        iov = _Iovec(ctypes.cast(buffer, ctypes.c_void_p), length)
        tag = self._remember(done, iov, buffer)
        rest = (length, 512, 0, 0, 0, 0, 0, self._callback, tag, ctypes.byref(iov), 1)
        self._queued(tag, self._lib.iscsi_read16_iov_task(self._context, lun, offset // 512, *rest))

    def poll(self, timeout_s: float = 1.0) -> None:
        """Wait for the connection, move it, call back. Raises `InitiatorError` when the session is lost."""
        lib, context = self._lib, self._context
        descriptor = lib.iscsi_get_fd(context) if context else -1
        if descriptor < 0:
            raise self._lost()
        self._poll.register(descriptor, lib.iscsi_which_events(context))
        ready = self._poll.poll(timeout_s * 1000)
        self._poll.unregister(descriptor)
        events = ready[0][1] if ready else 0
        if lib.iscsi_service(context, events) < 0 or events & (select.POLLHUP | select.POLLERR):
            raise self._lost()

    def drain(self, below: int = 1) -> None:
        """Poll until fewer than `below` commands are without a status."""
        while len(self._tasks) >= below:
            self.poll()

    def read(self, lun: int, offset: int, length: int) -> bytes:
        return self._wait(lambda done: self.submit_read(lun, offset, length, done)) or b""

    def write(self, lun: int, offset: int, data: bytes, *, fua: bool = False) -> None:
        self._wait(lambda done: self.submit_write(lun, offset, data, done, fua=fua))

    def flush(self, lun: int) -> None:
        """SYNCHRONIZE CACHE(16) of the whole LUN."""

        def submit(done: Done) -> None:
            tag = self._remember(done, None, None)
            rest = (0, 0, 0, 0, self._callback, tag)
            self._queued(tag, self._lib.iscsi_synchronizecache16_task(self._context, lun, *rest))

        self._wait(submit)

    def unmap(self, lun: int, offset: int, length: int) -> None:
        def submit(done: Done) -> None:
            extent = _Unmap(offset // 512, length // 512)
            tag = self._remember(done, extent, None)
            rest = (0, 0, ctypes.byref(extent), 1, self._callback, tag)
            self._queued(tag, self._lib.iscsi_unmap_task(self._context, lun, *rest))

        self._wait(submit)

    def close(self) -> None:
        """End the session. Commands without a status are called back as failed; idempotent."""
        if self._context is None:
            return
        if not self._tasks and self._lib.iscsi_get_fd(self._context) >= 0:
            self._lib.iscsi_logout_sync(self._context)
        self._drop()

    def _clear_attention(self, lun: int) -> None:
        for _ in range(_ATTENTIONS):
            task = self._lib.iscsi_testunitready_sync(self._context, lun)
            good = bool(task) and _status(task) == GOOD
            if task:
                self._lib.scsi_free_scsi_task(task)
            if good:
                return
        raise self._lost()

    def _wait(self, submit: Callable[[Done], None]) -> bytes | None:
        outcome: list[tuple[bytes | None, int | None]] = []
        submit(lambda data, status: outcome.append((data, status)))
        deadline_s = time.monotonic() + self._timeout_s
        while not outcome:
            if time.monotonic() > deadline_s:
                raise self._lost("no status in time")
            self.poll()
        data, status = outcome[0]
        if status != GOOD:
            raise self._error()
        return data

    def _remember(self, done: Done, payload: Any, buffer: Any) -> int:
        tag, self._next = self._next, self._next + 1
        self._tasks[tag] = (done, payload, buffer)  # keeps what libiscsi points at alive
        return tag

    def _queued(self, tag: int, task: int | None) -> None:
        if not task:
            del self._tasks[tag]
            raise self._error()

    def _on_status(self, _context: int, status: int, task: int | None, tag: int) -> None:
        entry = self._tasks.pop(tag, None)
        if task:
            self._lib.scsi_free_scsi_task(task)
        if entry is not None:
            done, _, buffer = entry
            data = buffer.raw if buffer is not None and status == GOOD else None
            done(data, status if status <= _LAST_STATUS else None)

    def _error(self, why: str | None = None) -> InitiatorError:
        text = self._lib.iscsi_get_error(self._context) if self._context else b"the session is closed"
        return InitiatorError(why or text.decode(errors="replace").strip() or "the session is lost")

    def _lost(self, why: str | None = None) -> InitiatorError:
        error = self._error(why)
        self._drop()
        return error

    def _drop(self) -> None:
        context, self._context = self._context, None
        if context:
            self._lib.iscsi_destroy_context(context)  # calls back what is in flight as cancelled
        for done, _, _ in self._tasks.values():
            done(None, None)
        self._tasks.clear()


def _status(task: int) -> int:
    return ctypes.c_int.from_address(task).value
