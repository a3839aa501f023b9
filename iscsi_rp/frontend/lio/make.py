"""Makes, changes and removes the objects of LIO: what the steps of a plan do.

Objects of targets are rtslib's, so that they are such as LIO's other tools can read. A backstore is made by
hand: rtslib enables it before it has its serial and its cache, remembers the numbers of backstores beyond the
changes that other processes make, and removes the LUNs of everybody that lead to one that it removes.
"""

import contextlib
import errno
import ipaddress
import itertools
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from iscsi_rp.frontend.lio import configfs, registrations
from iscsi_rp.frontend.lio.desired import SUBTYPE, Acl, Backstore, Portal, Target
from iscsi_rp.frontend.lio.errors import LioError, LioUnsupportedError
from iscsi_rp.frontend.lio.modules import rtslib

LONGEST_COMMAND_BYTES: Final = 8 << 20
"What the logical unit takes; the kernel's default is 128 blocks."
PARAMETERS: Final = {"InitialR2T": "No", "MaxRecvDataSegmentLength": "262144"}
"What initiators are offered, as the embedded target offers it: LIO's own defaults cost a round trip a write."
_ALIAS: Final = SUBTYPE
"Of every link that we make; the folder of a LUN has but one."


def backstore_attributes(backstore: Backstore) -> dict[str, str]:
    """What a backstore has to have in `attrib/`."""
    return {
        "emulate_write_cache": str(int(backstore.write_back)),
        # Persistent reservations are the kernel's: its commands do not say from which initiator they are.
        "emulate_pr": "1",
        # Else, once any process of this machine has switched replies on, whoever makes or resizes a
        # backstore waits for an answer that cannot be interrupted: in state D, for ever if none comes.
        "nl_reply_supported": "-1",
    }


# -- backstores


def create_backstore(backstore: Backstore, target: Target | None) -> None:
    """`target` is to show it: persistent reservations are told to LIO by its LUNs."""
    with _removing_if_failed(_new_hba()) as hba:
        folder = hba / backstore.name
        with configfs.refused("make", folder):
            folder.mkdir()
        for setting in (
            f"dev_config={SUBTYPE}/{backstore.name}",
            f"dev_size={backstore.size_bytes}",
            f"hw_block_size={backstore.block_size}",
            f"hw_max_sectors={LONGEST_COMMAND_BYTES // backstore.block_size}",
        ):
            configfs.write(folder / "control", setting)
        for name, value in backstore_attributes(backstore).items():
            configfs.write(folder / "attrib" / name, value)
        configfs.write(folder / "wwn/vpd_unit_serial", backstore.serial)
        if target is not None:
            state = backstore.registrations
            kept = registrations.read(backstore.serial, target.iqn) if state is None else state
            registrations.write(folder, backstore, target, kept)
        configfs.write(folder / "enable", "1")  # from here on the handler is told


def _new_hba() -> Path:
    """A number that no backstore of any kind has: rtslib takes numbers so, and finds ours by it."""
    taken = {each.name.rpartition("_")[2] for each in configfs.folders(configfs.CORE)}
    for number in itertools.count():
        if str(number) not in taken:
            hba = configfs.CORE / f"user_{number}"
            with configfs.refused("make", hba):
                try:
                    hba.mkdir()
                except FileExistsError:
                    continue  # another process was quicker
            return hba
    raise AssertionError  # numbers do not end


@contextlib.contextmanager
def _removing_if_failed(hba: Path) -> Iterator[Path]:
    try:
        yield hba
    except LioError:
        with contextlib.suppress(OSError):
            for folder in configfs.folders(hba):
                folder.rmdir()
            hba.rmdir()
        raise


def backstore_folder(place: str) -> Path:
    """`place` is `user_NUMBER/NAME`."""
    return configfs.CORE / place


def set_attributes(folder: Path, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        configfs.write(folder / "attrib" / name, value)


def set_serial(place: str, serial: str) -> None:
    configfs.write(backstore_folder(place) / "wwn/vpd_unit_serial", serial)


def remove_backstore(place: str) -> None:
    folder = backstore_folder(place)
    for each in (folder, folder.parent):
        with configfs.refused("remove", each):
            each.rmdir()


# -- the iSCSI target


def create_group(iqn: str, tag: int, attributes: Mapping[str, str]) -> None:
    """A portal group, and the target around it if there is none yet. It is not enabled."""
    with _rtslib(f"make portal group {tag} of", _target(iqn)) as lib:
        lib.TPG(lib.Target(lib.FabricModule("iscsi"), iqn), tag, "create")
    set_attributes(group_folder(iqn, tag), attributes)
    for name, value in PARAMETERS.items():
        configfs.write(group_folder(iqn, tag) / "param" / name, value)


def enable_group(iqn: str, tag: int) -> None:
    configfs.write(group_folder(iqn, tag) / "enable", "1")


def remove_group(iqn: str, tag: int) -> None:
    """Its sessions end first. ACLs go by hand, for rtslib looks for each of their LUNs in all of them."""
    configfs.write(group_folder(iqn, tag) / "enable", "0")
    for acl in configfs.folders(group_folder(iqn, tag) / "acls"):
        remove_acl(iqn, tag, acl.name)
    with _rtslib("remove", group_folder(iqn, tag)) as lib:
        _group(lib, iqn, tag).delete()


def remove_target(iqn: str, tags: Iterable[int]) -> None:
    for tag in tags:
        remove_group(iqn, tag)
    with _rtslib("remove", _target(iqn)) as lib:
        lib.Target(lib.FabricModule("iscsi"), iqn, "lookup").delete()


def create_portal(iqn: str, tag: int, portal: Portal) -> None:
    folder = group_folder(iqn, tag) / "np"
    try:
        with _rtslib(f"open portal {shown(portal)}", folder) as lib:
            lib.NetworkPortal(_group(lib, iqn, tag), _bracketed(portal[0]), portal[1], "create")
    except LioError as error:
        if error.errno == errno.EINVAL and (number := _why_not(portal)):  # the kernel says no more than that
            raise LioError.of(f"open portal {shown(portal)}", str(folder), number) from error
        raise


def remove_portal(iqn: str, tag: int, name: str) -> None:
    """`name` is that of its folder."""
    host, _, port = name.rpartition(":")
    with _rtslib(f"close portal {name}", group_folder(iqn, tag) / "np") as lib:
        lib.NetworkPortal(_group(lib, iqn, tag), host, int(port), "lookup").delete()


def create_lun(iqn: str, tag: int, lun: int, backstore: str) -> None:
    with _rtslib(f"make LUN {lun} in", group_folder(iqn, tag)) as lib:
        lib.LUN(_group(lib, iqn, tag), lun, _backstore(lib, backstore), _ALIAS)


def remove_lun(iqn: str, tag: int, lun: int) -> None:
    """What maps it is gone. By hand: rtslib looks for it in all ACLs."""
    _unlink(group_folder(iqn, tag) / f"lun/lun_{lun}")


# -- initiators


def create_acl(iqn: str, tag: int, acl: Acl) -> None:
    """Without LUNs. Raises `LioUnsupportedError` (see `authentication`)."""
    with _rtslib(f"list initiator {acl.initiator} in", group_folder(iqn, tag)) as lib:
        group = _group(lib, iqn, tag)
        # Of an initiator that was let in unlisted the kernel keeps a list of its own, with all LUNs,
        # and makes that the new one. Only when it is removed is it gone.
        lib.NodeACL(group, acl.initiator, "create").delete()
        made = lib.NodeACL(group, acl.initiator, "create")
    try:
        set_authentication(iqn, tag, acl)
    except LioError:
        with contextlib.suppress(OSError):
            made.delete()
        raise


def set_authentication(iqn: str, tag: int, acl: Acl) -> None:
    """The credentials come before what makes them count, so that nobody comes in without meanwhile."""
    folder = acl_folder(iqn, tag, acl.initiator)
    own = folder / "attrib/authentication"
    group = configfs.read(group_folder(iqn, tag) / "attrib/authentication")
    value = authentication(acl, group, supported=own.exists())
    for suffix, chap in (("", acl.chap), ("_mutual", acl.mutual)):
        configfs.write(folder / f"auth/userid{suffix}", "NULL" if chap is None else chap.user)
        configfs.write(folder / f"auth/password{suffix}", "NULL" if chap is None else chap.secret)
    if value is not None:
        configfs.write(own, value)


def authentication(acl: Acl, group: str, *, supported: bool) -> str | None:
    """What `attrib/authentication` of an ACL is to say; None: nothing, for this kernel has only the group's.

    Raises `LioUnsupportedError` where the group's is not what the initiator is to prove.
    """
    wanted = "0" if acl.chap is None else "1"
    if supported:
        return wanted
    if wanted != group:
        raise LioUnsupportedError(
            f"this kernel has authentication for all initiators or for none, not for {acl.initiator} alone",
            hint="Give every listed initiator CHAP and let no others in, or none; or use Linux 6.1.",
        )
    return None


def remove_acl(iqn: str, tag: int, initiator: str) -> None:
    """With its LUNs; the kernel ends its sessions."""
    folder = acl_folder(iqn, tag, initiator)
    for each in configfs.folders(folder):
        if each.name.startswith("lun_"):
            _unlink(each)
    with configfs.refused("remove", folder):
        folder.rmdir()


def map_luns(iqn: str, tag: int, initiator: str, luns: Mapping[int, int]) -> None:
    """By hand: rtslib walks all LUNs of the group for each one that it maps."""
    for lun, group_lun in luns.items():
        folder = acl_folder(iqn, tag, initiator) / f"lun_{lun}"
        with configfs.refused("make", folder):
            folder.mkdir()
            (folder / _ALIAS).symlink_to(group_folder(iqn, tag) / f"lun/lun_{group_lun}")


def unmap_luns(iqn: str, tag: int, initiator: str, luns: Iterable[int]) -> None:
    for lun in luns:
        _unlink(acl_folder(iqn, tag, initiator) / f"lun_{lun}")


def _unlink(lun: Path) -> None:
    with configfs.refused("remove", lun):
        for each in lun.iterdir():
            if each.is_symlink():
                each.unlink()
        lun.rmdir()


# -- disks of this machine


def create_loopback(naa: str, backstore: str) -> None:
    """The kernel asks the new disk what it is before this returns, so the handler has to serve by then."""
    with _rtslib("make", configfs.TARGET / f"loopback/naa.{naa}") as lib:
        group = lib.TPG(lib.Target(lib.FabricModule("loopback"), f"naa.{naa}"), 1)
        lib.LUN(group, 0, _backstore(lib, backstore), _ALIAS)


def remove_loopback(naa: str) -> None:
    with _rtslib("remove", configfs.TARGET / f"loopback/naa.{naa}") as lib:
        lib.Target(lib.FabricModule("loopback"), f"naa.{naa}", "lookup").delete()


# -- names and objects


def group_folder(iqn: str, tag: int) -> Path:
    return _target(iqn) / f"tpgt_{tag}"


def acl_folder(iqn: str, tag: int, initiator: str) -> Path:
    return group_folder(iqn, tag) / "acls" / initiator


def shown(portal: Portal) -> str:
    return f"{_bracketed(portal[0])}:{portal[1]}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _target(iqn: str) -> Path:
    return configfs.TARGET / "iscsi" / iqn


def _group(lib: Any, iqn: str, tag: int) -> Any:
    return lib.TPG(lib.Target(lib.FabricModule("iscsi"), iqn, "lookup"), tag, "lookup")


def _backstore(lib: Any, name: str) -> Any:
    """The number is given, for rtslib's own memory of it may be stale."""
    for hba in configfs.folders(configfs.CORE):
        if hba.name.startswith("user_") and (hba / name).is_dir():
            return lib.UserBackedStorageObject(name, index=hba.name.removeprefix("user_"))
    raise LioError.of("find backstore", str(configfs.CORE / "user_*" / name), errno.ENOENT)


@contextlib.contextmanager
def _rtslib(what: str, path: Path) -> Iterator[Any]:
    """The package; what it raises in the block becomes a `LioError`, with the number that the kernel gave."""
    lib = rtslib()
    try:
        yield lib
    except (lib.RTSLibError, OSError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        number = None if cause is None else cause.errno
        raise LioError.of(what, str(path), number, str(error)) from error


def _why_not(portal: Portal) -> int | None:
    """The error of listening at a portal, as it would be ours."""
    family = socket.AF_INET6 if ipaddress.ip_address(portal[0]).version == 6 else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(portal)
            probe.listen()
        except OSError as error:
            return error.errno
    return None
