"""Persistent reservations as bytes: parameter data of PERSISTENT RESERVE IN and OUT (SPC-4 6.15, 6.16),
TransportIDs (7.6.4), and the form in which they are stored.

Stored, all numbers big-endian::

    "ISPR", version 1 (u16), type (u8, 0: no reservation), reserved (u8), registrations (u32)
    of each: key (u64), relative target port (u16), holds (u8), length of the name (u8), name (UTF-8)

Nothing (0 bytes) is no registrations.
"""

import re
import struct
from collections.abc import Callable, Iterable
from typing import Final

from iscsi_rp.errors import Error
from iscsi_rp.scsi.cdb import uint
from iscsi_rp.scsi.persistent import Action, Kind, Registrant, Registrations, Request
from iscsi_rp.scsi.sense import PARAMETER_LIST_LENGTH_ERROR, CheckCondition, invalid_parameter
from iscsi_rp.scsi.task import Task

_MAGIC: Final = b"ISPR"
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">4sHBxI")
_ENTRY: Final = struct.Struct(">QHBB")

_LIST_BYTES: Final = 24
_FLAGS_AT: Final = 20
_SPEC_I_PT, _ALL_TG_PT, _APTPL = 0x08, 0x04, 0x01
_UNREG: Final = 0x02

_ISCSI: Final = 5
"Protocol identifier of a TransportID."
_NAME_BYTES: Final = 223
_NAMED_BYTES: Final = 0xFFFF
"The longest list with TransportIDs: a field pointer reaches no further, and one for each registration fits."
_PORT_NAME: Final = re.compile(r"[^\s,\x00-\x20\x7f]+,i,0x[0-9a-f]{12}")
_NAME: Final = re.compile(r"[^\s,\x00-\x20\x7f]+")


class RegistrationsFormatError(Error):
    """Stored persistent reservations are not readable."""


# PERSISTENT RESERVE IN


def read_keys(state: Registrations) -> bytes:
    keys = b"".join(key.to_bytes(8, "big") for key in state.keys.values())
    return _headed(state, keys)


def read_reservation(state: Registrations) -> bytes:
    if state.kind is None:
        return _headed(state, b"")
    key = 0 if state.holder is None else state.keys[state.holder]
    return _headed(state, key.to_bytes(8, "big") + bytes((0, 0, 0, 0, 0, state.kind, 0, 0)))


def read_full_status(state: Registrations) -> bytes:
    entries = []
    for who, key in state.keys.items():
        holds = state.holds(who)
        scope_type = state.kind if holds and state.kind is not None else 0
        transport = transport_id(who.initiator)
        head = key.to_bytes(8, "big") + bytes((0, 0, 0, 0, holds, scope_type, 0, 0, 0, 0))
        entries.append(head + struct.pack(">HI", who.port, len(transport)) + transport)
    return _headed(state, b"".join(entries))


def _headed(state: Registrations, body: bytes) -> bytes:
    return struct.pack(">II", state.generation, len(body)) + body


def report_capabilities(state: Registrations, *, durable: bool) -> bytes:
    """CRH, SIP_C, ATP_C and, where reservations can be stored, PTPL_C; all six types."""
    mask = sum(1 << kind for kind in Kind)
    # The mask's first byte holds types 0 to 7, the second one from 8 on.
    types = bytes((mask & 0xFF, mask >> 8))
    return bytes((0, 8, 0x1C | durable, 0x80 | state.aptpl)) + types + bytes(2)


def transport_id(port_name: str) -> bytes:
    """The iSCSI TransportID of an initiator port, format 01b (SPC-4 7.6.4.6)."""
    name = port_name.encode() + b"\0"
    name = name.ljust(max(20, -(-len(name) // 4) * 4), b"\0")
    return bytes((0x40 | _ISCSI, 0)) + len(name).to_bytes(2, "big") + name


# PERSISTENT RESERVE OUT


def decode_request(
    task: Task, by: Registrant, ports: Iterable[int], known: Callable[[str], list[str]]
) -> Request:
    """The request of a PERSISTENT RESERVE OUT. `ports` are the relative identifiers of all target ports;
    `known` tells the initiator ports of an iSCSI name. Raises `CheckCondition`.
    """
    action = Action(task.cdb[1] & 0x1F)
    data = task.parameters(uint(task.cdb, 5, 4))
    if len(data) < _LIST_BYTES:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    request = Request(action, by, uint(data, 0, 8), uint(data, 8, 8), task.cdb[2])
    if action == Action.REGISTER_AND_MOVE:
        return _decode_move(request, data)
    flags = data[_FLAGS_AT]
    registering = action in (Action.REGISTER, Action.REGISTER_AND_IGNORE_EXISTING_KEY)
    spec_i_pt = bool(flags & _SPEC_I_PT)
    if spec_i_pt and action != Action.REGISTER:
        raise invalid_parameter(_FLAGS_AT)
    names = _transport_ids(data, known) if spec_i_pt else []
    if not spec_i_pt and len(data) != _LIST_BYTES:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    on = sorted({*ports, by.port}) if registering and flags & _ALL_TG_PT else [by.port]
    also = [Registrant(name, port) for name in (by.initiator, *names) for port in on]
    return request._replace(
        aptpl=registering and bool(flags & _APTPL),
        also=tuple(dict.fromkeys(who for who in also if who != by)),
        spec_i_pt=spec_i_pt,
    )


def _transport_ids(data: bytes, known: Callable[[str], list[str]]) -> list[str]:
    """Names of the initiator ports behind the fixed part."""
    if len(data) < _LIST_BYTES + 4:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    end = _LIST_BYTES + 4 + uint(data, _LIST_BYTES, 4)
    if end != len(data) or end > _NAMED_BYTES:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    names: list[str] = []
    at = _LIST_BYTES + 4
    while at < end:
        size = 4 + uint(data, at + 2, 2)
        if at + size > end:
            raise invalid_parameter(at)
        name = _decode_transport_id(data[at : at + size], at)
        ports = [name] if ",i,0x" in name else known(name)
        if not ports:
            raise invalid_parameter(at)  # a name alone stands for the ports of it that are logged in
        names += ports
        at += size
    return names


def _decode_transport_id(data: bytes, at: int) -> str:
    """An iSCSI name (format 00b), or one of an initiator port (01b)."""
    kind, text = data[0], data[4:].rstrip(b"\0")
    if kind not in (_ISCSI, 0x40 | _ISCSI) or len(data) < 24 or len(data) % 4 or data[-1]:
        raise invalid_parameter(at)
    name = text.decode(errors="replace").lower()
    if "\ufffd" in name or not (_PORT_NAME if kind & 0x40 else _NAME).fullmatch(name):
        raise invalid_parameter(at + 4)
    if len(name.partition(",")[0].encode()) > _NAME_BYTES:
        raise invalid_parameter(at + 4)
    return name


def _decode_move(request: Request, data: bytes) -> Request:
    """The parameter list of REGISTER AND MOVE (SPC-4 6.16.4)."""
    size = uint(data, 20, 4)
    if size < 24 or len(data) != _LIST_BYTES + size:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    name = _decode_transport_id(data[_LIST_BYTES:], _LIST_BYTES)
    if ",i,0x" not in name:
        raise invalid_parameter(_LIST_BYTES)  # it must be one port
    flags = data[17]
    return request._replace(
        move_to=Registrant(name, uint(data, 18, 2)),
        unregister=bool(flags & _UNREG),
        aptpl=bool(flags & _APTPL),
    )


# Stored


def encode(state: Registrations) -> bytes:
    """What is to survive a loss of power: nothing, if that was not asked for."""
    if not state.aptpl or not state.keys:
        return b""
    entries = []
    for who, key in state.keys.items():
        name = who.initiator.encode()
        entries.append(_ENTRY.pack(key, who.port, who == state.holder, len(name)) + name)
    return _HEAD.pack(_MAGIC, _VERSION, state.kind or 0, len(entries)) + b"".join(entries)


def decode(stored: bytes) -> Registrations:
    """Raises `RegistrationsFormatError`."""
    if not stored:
        return Registrations()
    try:
        magic, version, kind, count = _HEAD.unpack_from(stored)
        if magic != _MAGIC or version != _VERSION:
            raise RegistrationsFormatError(f"These are not persistent reservations of version {_VERSION}.")
        keys: dict[Registrant, int] = {}
        holder = None
        at = _HEAD.size
        for _ in range(count):
            key, port, holds, size = _ENTRY.unpack_from(stored, at)
            at += _ENTRY.size
            who = Registrant(stored[at : at + size].decode(), port)
            keys[who] = key
            holder = who if holds else holder
            at += size
        if at != len(stored) or len(keys) != count:
            raise RegistrationsFormatError
        state = Registrations(keys, Kind(kind) if kind else None, holder, aptpl=True)
    except (struct.error, ValueError) as error:
        raise RegistrationsFormatError from error
    if (state.kind in (None, 7, 8)) != (holder is None):
        raise RegistrationsFormatError
    return state
