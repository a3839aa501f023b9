"""Who uses what LIO shows, and which disk of this machine a loopback port has become. Blocks."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

from iscsi_rp.frontend.lio import configfs

_DEVICES: Final = Path("/sys/class/scsi_device")
_STATE: Final = re.compile(r"^Session State: TARG_SESS_(?:STATE_)?(\w+)", re.MULTILINE)
_ADDRESS: Final = re.compile(r"^\s+Address (\S+)", re.MULTILINE)


class Login(NamedTuple):
    """A session of an initiator with a target portal group of LIO."""

    initiator: str
    target: str
    portal_group: int
    address: str | None = None
    "Of the initiator. LIO tells neither this nor the state of one that has no ACL."
    state: str | None = None
    "As LIO has it: `LOGGED_IN`, `FAILED`."


def disk_of(naa: str) -> str | None:
    """The disk of a loopback port, `/dev/sdX`; None while there is none. Raises `LioError`."""
    group = configfs.TARGET / f"loopback/naa.{naa}/tpgt_1"
    if not group.is_dir():
        return None
    # HOST:CHANNEL:TARGET of the port; our LUN is 0.
    blocks = _DEVICES / f"{configfs.read(group / 'address')}:0/device/block"
    return next((f"/dev/{each.name}" for each in blocks.glob("*")), None)


def sessions_of(backstores: Collection[str]) -> list[Login]:
    """Those with iSCSI targets, anybody's, that see one of the backstores. Raises `LioError`."""
    found: list[Login] = []
    for target in configfs.folders(configfs.TARGET / "iscsi"):
        for group in configfs.folders(target):
            if group.name.startswith("tpgt_") and (luns := _luns(group, backstores)):
                found += _logged_in(group, luns)
    return found


def _luns(group: Path, backstores: Collection[str]) -> set[str]:
    """The LUNs of a portal group that lead to one of them."""
    luns = configfs.folders(group / "lun")
    leads = {lun: configfs.link(lun) for lun in luns}
    return {lun.name for lun, to in leads.items() if to is not None and to.name in backstores}


def _logged_in(group: Path, luns: set[str]) -> list[Login]:
    where = group.parent.name, int(group.name.removeprefix("tpgt_"))
    # Those without an ACL see all LUNs.
    unlisted = configfs.read(group / "dynamic_sessions").replace("\0", "\n").split()
    found = [Login(name, *where) for name in unlisted]
    for acl in configfs.folders(group / "acls"):
        info = configfs.read(acl / "info")
        if not info.startswith("InitiatorName: "):
            continue  # no session
        shown = (configfs.link(each) for each in configfs.folders(acl) if each.name.startswith("lun_"))
        if any(to is not None and to.name in luns for to in shown):
            told = [match and match[1] for match in (_ADDRESS.search(info), _STATE.search(info))]
            found.append(Login(acl.name, *where, *told))
    return found
