"""The part of a plan that is the iSCSI target: its portal groups with their portals, LUNs and initiators."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from iscsi_rp.frontend.lio import make
from iscsi_rp.frontend.lio.actual import NodeAcl, PortalGroup
from iscsi_rp.frontend.lio.desired import Acl, Portal, Target, canonical
from iscsi_rp.frontend.lio.steps import Step, Steps, change, create, remove
from iscsi_rp.iscsi.access import Chap

Places: TypeAlias = Mapping[str, str]
"Name of a backstore that is there and stays -> its folder below `core/`."

_NEW: Final = PortalGroup(enabled=False, attributes={}, portals={}, luns={}, acls={})
_NEW_ACL: Final = NodeAcl(luns={})


def group_attributes(target: Target) -> dict[str, str]:
    """What a portal group has to have in `attrib/`, in the order in which it is written."""
    if target.open:
        return {
            "authentication": "0",
            "demo_mode_write_protect": "0",
            "demo_mode_discovery": "1",
            "cache_dynamic_acls": "1",
            "generate_node_acls": "1",
        }
    return {
        # Each ACL has its own (`make.authentication`); this one counts where the kernel cannot do that.
        "authentication": str(int(any(acl.chap is not None for acl in target.acls))),
        "demo_mode_discovery": "0",
        "generate_node_acls": "0",
        "cache_dynamic_acls": "0",
    }


def target_steps(target: Target, actual: Mapping[int, PortalGroup], places: Places) -> tuple[Steps, Steps]:
    """What is to be removed, and what is to be made once backstores are as desired."""
    less: Steps = [
        remove(f"portal group {tag} of {target.iqn}", make.remove_group, target.iqn, tag)
        for tag in actual
        if tag not in target.portals
    ]
    more: Steps = []
    for tag, portals in sorted(target.portals.items()):
        found = actual.get(tag)
        if found is not None and _lets_in_too_many(found, target):
            text = f"portal group {tag} of {target.iqn}: it remembers whom it let in when it was open"
            less.append(remove(text, make.remove_group, target.iqn, tag))
            found = None
        if found is None:
            more.append(_created(target, tag))
        group = _Group(target, tag, portals, _NEW if found is None else found, places)
        less += group.less()
        more += group.more(new=found is None)
    # A portal may move from one group to another: all are closed before one is opened.
    return less, more


def _lets_in_too_many(found: PortalGroup, target: Target) -> bool:
    """The kernel keeps the ACLs that it made of its own, with all LUNs, for as long as the group lives, and
    lets those initiators in whatever the group says later.
    """
    return not target.open and found.attributes["generate_node_acls"] == "1"


def _created(target: Target, tag: int) -> Step:
    kind = "open to all" if target.open else "for listed initiators"
    text = f"portal group {tag} of {target.iqn}, {kind}"
    return create(text, make.create_group, target.iqn, tag, group_attributes(target))


@dataclass(frozen=True, slots=True)
class _Group:
    """A portal group, as it is to be and as it is."""

    target: Target
    tag: int
    portals: Sequence[Portal]
    found: PortalGroup
    places: Places

    @property
    def _where(self) -> str:
        return f"portal group {self.tag} of {self.target.iqn}"

    @property
    def _id(self) -> tuple[str, int]:
        return self.target.iqn, self.tag

    # -- what is to be removed

    def less(self) -> Steps:
        steps: Steps = []
        wanted = {acl.initiator: acl for acl in self.target.acls}
        for initiator, found in self.found.acls.items():
            if initiator not in wanted:
                steps.append(
                    remove(f"initiator {initiator} from {self._where}", make.remove_acl, *self._id, initiator)
                )
                continue
            stale = sorted(found.luns.keys() - self._mapped_rightly(wanted[initiator], found).keys())
            if stale:
                text = f"{_luns(stale)} of initiator {initiator} in {self._where}"
                steps.append(remove(text, make.unmap_luns, *self._id, initiator, stale))
        for lun in sorted(self.found.luns.keys() - self._shown_rightly().keys()):
            steps.append(remove(f"LUN {lun} of {self._where}", make.remove_lun, *self._id, lun))
        for portal in self.found.portals.keys() - self._wanted_portals():
            name = self.found.portals[portal]
            steps.append(remove(f"portal {name} of {self._where}", make.remove_portal, *self._id, name))
        return steps

    def _wanted_portals(self) -> set[Portal]:
        return {canonical(portal) for portal in self.portals}

    def _shown_rightly(self) -> dict[int, str]:
        return {
            lun: name
            for lun, name in self.target.luns.items()
            if name in self.places and self.found.luns.get(lun) == self.places[name]
        }

    def _mapped(self, acl: Acl) -> dict[int, int]:
        """LUN of the initiator -> LUN of the group, as it is to be."""
        numbers = {name: lun for lun, name in self.target.luns.items()}
        return {lun: numbers[name] for lun, name in acl.luns.items()}

    def _mapped_rightly(self, acl: Acl, found: NodeAcl) -> dict[int, int]:
        shown = self._shown_rightly()
        return {lun: to for lun, to in self._mapped(acl).items() if to in shown and found.luns.get(lun) == to}

    # -- what is to be made or changed

    def more(self, *, new: bool) -> Steps:
        steps: Steps = [] if new else self._attributes()
        shown = self._shown_rightly()
        for lun, name in sorted(self.target.luns.items()):
            if lun not in shown:
                text = f"LUN {lun} of {self._where}: {name}"
                steps.append(create(text, make.create_lun, *self._id, lun, name))
        for acl in self.target.acls:
            steps += self._acl(acl)
        for portal in sorted(self._wanted_portals() - self.found.portals.keys()):
            text = f"portal {make.shown(portal)} of {self._where}"
            steps.append(create(text, make.create_portal, *self._id, portal))
        if not self.found.enabled:
            # Last, so that nobody logs in before it is known who may.
            steps.append(change(f"{self._where}: enable", make.enable_group, *self._id))
        return steps

    def _attributes(self) -> Steps:
        now = self.found.attributes
        differing = {name: to for name, to in group_attributes(self.target).items() if now.get(name) != to}
        if not differing:
            return []
        shown = ", ".join(f"{name} {now.get(name)} -> {to}" for name, to in differing.items())
        folder = make.group_folder(*self._id)
        return [change(f"{self._where}: {shown}", make.set_attributes, folder, differing)]

    def _acl(self, acl: Acl) -> Steps:
        steps: Steps = []
        found = self.found.acls.get(acl.initiator)
        proof = {(False, False): "without CHAP", (True, False): "with CHAP"}.get(
            (acl.chap is not None, acl.mutual is not None), "with mutual CHAP"
        )
        what = f"initiator {acl.initiator} in {self._where}"
        if found is None:
            steps.append(create(f"{what}, {proof}", make.create_acl, *self._id, acl))
            found = _NEW_ACL
        elif not self._proves_rightly(acl, found):
            steps.append(change(f"{what}: {proof}", make.set_authentication, *self._id, acl))
        right = self._mapped_rightly(acl, found)
        missing = {lun: to for lun, to in sorted(self._mapped(acl).items()) if lun not in right}
        if missing:
            text = f"{_luns(missing)} of {what}"
            steps.append(create(text, make.map_luns, *self._id, acl.initiator, missing))
        return steps

    def _proves_rightly(self, acl: Acl, found: NodeAcl) -> bool:
        supported = found.authentication is not None
        group = group_attributes(self.target)["authentication"]
        return (
            found.authentication == make.authentication(acl, group, supported=supported)
            and found.chap == _credentials(acl.chap)
            and found.mutual == _credentials(acl.mutual)
        )


def _credentials(chap: Chap | None) -> tuple[str, str]:
    return ("", "") if chap is None else (chap.user, chap.secret.decode())


def _luns(numbers: Iterable[int]) -> str:
    return "LUN " + ", ".join(map(str, numbers))
