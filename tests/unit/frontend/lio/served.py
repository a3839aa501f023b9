"""What LIO looks like when all is as desired."""

from collections.abc import Mapping

from iscsi_rp.frontend.lio.actual import Actual, Export, NodeAcl, PortalGroup, UserBackstore
from iscsi_rp.frontend.lio.desired import Acl, Backstore, Desired, Portal, Target
from iscsi_rp.iscsi.access import Chap


def actual_of(desired: Desired) -> Actual:
    places = {each.name: f"user_{number}/{each.name}" for number, each in enumerate(desired.backstores)}
    exports: dict[Export, str] = {}
    targets: dict[str, Mapping[int, PortalGroup]] = {}
    if desired.target is not None:
        target = desired.target
        targets[target.iqn] = {tag: _group(target, tag, places) for tag in target.portals}
        for tag in target.portals:
            for lun, name in target.luns.items():
                exports[Export("iscsi", target.iqn, tag, lun)] = places[name]
    for loopback in desired.loopbacks:
        exports[Export("loopback", f"naa.{loopback.naa}", 1, 0)] = places[loopback.backstore]
    return Actual(
        backstores=tuple(_backstore(each, places[each.name]) for each in desired.backstores),
        exports=exports,
        targets=targets,
        loopbacks=frozenset(loopback.naa for loopback in desired.loopbacks),
    )


def _backstore(backstore: Backstore, place: str) -> UserBackstore:
    return UserBackstore(
        name=backstore.name,
        folder=place,
        config=f"rpsplit/{backstore.name}",
        serial=backstore.serial,
        size_bytes=backstore.size_bytes,
        enabled=True,
        attributes={
            "hw_block_size": str(backstore.block_size),
            "emulate_write_cache": "1" if backstore.write_back else "0",
            "emulate_pr": "1",
            "nl_reply_supported": "-1",
            "cmd_time_out": "30",
        },
    )


def _group(target: Target, tag: int, places: Mapping[str, str]) -> PortalGroup:
    chap = any(acl.chap for acl in target.acls)
    return PortalGroup(
        enabled=True,
        attributes={
            "authentication": "1" if chap and not target.open else "0",
            "generate_node_acls": "1" if target.open else "0",
            "cache_dynamic_acls": "1" if target.open else "0",
            "demo_mode_discovery": "1" if target.open else "0",
            "demo_mode_write_protect": "0" if target.open else "1",
            "login_timeout": "15",
        },
        portals={portal: _name(portal) for portal in target.portals[tag]},
        luns={lun: places[name] for lun, name in target.luns.items()},
        acls={acl.initiator: _acl(acl, target) for acl in target.acls},
    )


def _name(portal: Portal) -> str:
    host, port = portal
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _acl(acl: Acl, target: Target) -> NodeAcl:
    numbers = {name: lun for lun, name in target.luns.items()}
    return NodeAcl(
        luns={lun: numbers[name] for lun, name in acl.luns.items()},
        chap=_credentials(acl.chap),
        mutual=_credentials(acl.mutual),
        authentication="1" if acl.chap else "0",
    )


def _credentials(chap: Chap | None) -> tuple[str, str]:
    return (chap.user, chap.secret.decode()) if chap else ("", "")
