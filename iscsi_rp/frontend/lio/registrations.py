"""Persistent reservations that outlive a loss of power (APTPL), between us and LIO.

LIO keeps those of a backstore in the file `pr/aptpl_SERIAL` of its state folder. It writes the file anew when
they change, and never reads it: whoever makes the backstore tells it, before the backstore is exported. A
registration comes to life when its initiator has its ACL with that LUN, or where it has none when it logs in.

Of each registration (target_core_pr.c, target_core_configfs.c)::

    PR_REG_START: 0
    initiator_fabric=iSCSI, initiator_node=NAME, initiator_sid=ISID, sa_res_key=KEY, res_holder=0 or 1,
    res_type=TYPE and res_scope=0 of the holder only, res_all_tg_pt=0, mapped_lun=LUN of the initiator,
    target_fabric=iSCSI, target_node=IQN, tpgt=TAG, port_rtpi=PORT, target_lun=LUN of the target
    PR_REG_END: 0

with a new line in place of each comma; what is told to LIO has commas, and no first and last line. LIO writes
the type in two hexadecimal digits and reads it as a C number, so it does not take its own 08.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from iscsi_rp.frontend.lio import configfs
from iscsi_rp.frontend.lio.desired import Backstore, Target
from iscsi_rp.frontend.lio.errors import LioError
from iscsi_rp.scsi.persistent import Kind, Registrant, Registrations

_FABRIC: Final = "iSCSI"
_ISID: Final = ",i,0x"
_ALL_REGISTRANTS: Final = (Kind.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Kind.EXCLUSIVE_ACCESS_ALL_REGISTRANTS)
_ENTRY: Final = re.compile(r"PR_REG_START: \d+\n(.*?)PR_REG_END: \d+\n", re.DOTALL)
_NONE: Final = "No Registrations or Reservations"


def read(serial: str, iqn: str) -> Registrations:
    """What LIO has kept of the backstore with this serial: registrations at the target `iqn`, whatever others
    there were; none where it has kept none. Raises `LioError`: the file is not readable as such.
    """
    path = _file(serial)
    with configfs.refused("read", path):
        try:
            text = path.read_text()
        except FileNotFoundError:
            return Registrations()
    try:
        return _parsed(text, iqn)
    except (KeyError, ValueError) as error:
        raise LioError(
            f"{path} has no registrations that can be read: {error!r}",
            hint="Move the file away; hosts then have to register again.",
            path=str(path),
        ) from error


def write(folder: Path, backstore: Backstore, target: Target, state: Registrations) -> None:
    """Tell LIO, before the backstore in `folder` is exported, and keep it as LIO would. A port that is none
    of the target's, and a target that does not show the backstore, have no registrations. Raises `LioError`.
    """
    entries = _entries(backstore.name, target, state)
    path = _file(backstore.serial)
    with configfs.refused("write", path):
        if entries:
            path.with_suffix(".new").write_text("".join(map(_framed, range(len(entries)), entries)))
            path.with_suffix(".new").replace(path)
        else:
            path.unlink(missing_ok=True)
    for entry in entries:
        configfs.write(folder / "pr/res_aptpl_metadata", ",".join(entry))


def _file(serial: str) -> Path:
    return Path(configfs.read(configfs.TARGET / "dbroot"), "pr", f"aptpl_{serial}")


def _framed(number: int, entry: list[str]) -> str:
    lines = [f"PR_REG_START: {number}", *entry, f"PR_REG_END: {number}"]
    return "".join(f"{line}\n" for line in lines)


def _entries(name: str, target: Target, state: Registrations) -> list[list[str]]:
    lun = next((lun for lun, shown in target.luns.items() if shown == name), None)
    if lun is None or not state.aptpl:
        return []
    mapped = {acl.initiator: _lun_of(acl.luns, name, lun) for acl in target.acls}
    holder = state.holder
    if state.kind in _ALL_REGISTRANTS:
        holder = next(iter(state.keys), None)  # LIO has one in any case, and lets all others be as good
    entries = []
    for who, key in state.keys.items():
        node, _, isid = who.initiator.partition(_ISID)
        if who.port not in target.portals:
            continue
        holds = [f"res_type={state.kind:d}", "res_scope=0"] if who == holder and state.kind else []
        entries.append(
            [
                f"initiator_fabric={_FABRIC}",
                f"initiator_node={node}",
                f"initiator_sid={isid}",
                f"sa_res_key={key}",
                f"res_holder={int(bool(holds))}",
                *holds,
                "res_all_tg_pt=0",
                f"mapped_lun={mapped.get(node, lun)}",
                f"target_fabric={_FABRIC}",
                f"target_node={target.iqn}",
                f"tpgt={who.port}",
                f"port_rtpi={who.port}",
                f"target_lun={lun}",
            ]
        )
    return entries


def _lun_of(luns: Mapping[int, str], name: str, otherwise: int) -> int:
    return next((lun for lun, shown in luns.items() if shown == name), otherwise)


def _parsed(text: str, iqn: str) -> Registrations:
    """Raises KeyError, ValueError."""
    found = _ENTRY.findall(text)
    if not found and text.strip("\0\n ") not in ("", _NONE):
        raise ValueError(text[:40])
    keys: dict[Registrant, int] = {}
    kind = holder = None
    for lines in found:
        entry = dict(line.split("=", 1) for line in lines.splitlines())
        if entry["target_fabric"] != _FABRIC or entry["target_node"] != iqn:
            continue
        who = Registrant(f"{entry['initiator_node']}{_ISID}{entry['initiator_sid']}", int(entry["tpgt"]))
        keys[who] = int(entry["sa_res_key"])
        if entry["res_holder"] == "1":
            kind = Kind(int(entry["res_type"], 16))
            holder = None if kind in _ALL_REGISTRANTS else who
    return Registrations(keys, kind, holder, aptpl=bool(keys))
