"""Who uses what LIO shows, and which disk of this machine a loopback port has become. Blocks."""

from pathlib import Path
from typing import Final

from iscsi_rp.frontend.lio import configfs

_DEVICES: Final = Path("/sys/class/scsi_device")


def disk_of(naa: str) -> str | None:
    """The disk of a loopback port, `/dev/sdX`; None while there is none. Raises `LioError`."""
    group = configfs.TARGET / f"loopback/naa.{naa}/tpgt_1"
    if not group.is_dir():
        return None
    # HOST:CHANNEL:TARGET of the port; our LUN is 0.
    blocks = _DEVICES / f"{configfs.read(group / 'address')}:0/device/block"
    return next((f"/dev/{each.name}" for each in blocks.glob("*")), None)


def initiators_of(backstore: str) -> set[str]:
    """Those that are logged in to an iSCSI target, anybody's, and see the backstore. Raises `LioError`."""
    found: set[str] = set()
    for target in configfs.folders(configfs.TARGET / "iscsi"):
        for group in configfs.folders(target):
            if group.name.startswith("tpgt_") and (luns := _luns(group, backstore)):
                found |= _logged_in(group, luns)
    return found


def _luns(group: Path, backstore: str) -> set[Path]:
    """The LUNs of a portal group that lead to it."""
    luns = configfs.folders(group / "lun")
    leads = {lun: configfs.link(lun) for lun in luns}
    return {lun for lun, to in leads.items() if to is not None and to.name == backstore}


def _logged_in(group: Path, luns: set[Path]) -> set[str]:
    # Those without an ACL see all LUNs.
    found = set(configfs.read(group / "dynamic_sessions").replace("\0", "\n").split())
    for acl in configfs.folders(group / "acls"):
        if not configfs.read(acl / "info").startswith("InitiatorName: "):
            continue  # no session
        shown = (configfs.link(each) for each in configfs.folders(acl) if each.name.startswith("lun_"))
        if any(lun in luns for lun in shown):
            found.add(acl.name)
    return found
