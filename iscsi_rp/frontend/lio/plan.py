"""What is to be done so that LIO has what is desired: a comparison of two values, which changes nothing.

What is not desired any more goes first, from the outside in, then come backstores, then what shows them. In a
target that lives only what differs is touched.
"""

from collections.abc import Mapping
from typing import TypeAlias

from iscsi_rp.frontend.lio import make
from iscsi_rp.frontend.lio.actual import Actual, Export, UserBackstore, read
from iscsi_rp.frontend.lio.desired import SUBTYPE, Backstore, Desired, Loopback, Owned
from iscsi_rp.frontend.lio.errors import LioConflictError
from iscsi_rp.frontend.lio.steps import Step, Steps, change, create, remove
from iscsi_rp.frontend.lio.target_plan import Places, target_steps
from iscsi_rp.units import format_size

Kept: TypeAlias = Mapping[str, UserBackstore]
"Backstores of ours that are there and stay, by name."


def plan(desired: Desired, *, owned: Owned) -> Steps:
    """What is to be done, in this order; nothing where all is as desired. Reads all of LIO in configfs: not
    for the event loop's thread. Raises `LioError`; `LioConflictError` where somebody else's is in the way.
    """
    return difference(desired, read((owned | Owned.of(desired)).targets), owned)


def difference(desired: Desired, actual: Actual, owned: Owned) -> Steps:
    """As `plan`, from what was read."""
    known = owned | Owned.of(desired)
    ours = [each for each in actual.backstores if _is_ours(each, known)]
    kept = _kept(desired, ours)
    going = [each for each in ours if kept.get(each.name) is not each]
    _check_names(desired, actual, ours)
    _check_exports(going, actual, known)
    places = {name: each.folder for name, each in kept.items()}
    undone, done = _loopbacks(desired, actual, known, places, {each.folder for each in ours})
    less, more = _targets(desired, actual, known, places)
    removed = [remove(f"backstore {each.name}", make.remove_backstore, each.folder) for each in going]
    return [*undone, *less, *removed, *_backstores(desired, kept), *more, *done]


# -- backstores


def _is_ours(found: UserBackstore, known: Owned) -> bool:
    if found.serial:
        return found.config == f"{SUBTYPE}/{found.name}" and (found.name, found.serial) in known.backstores
    # Half made, when the maker died: the serial comes after the rest.
    half_made = found.config in ("", "NULL", f"{SUBTYPE}/{found.name}")
    return half_made and found.name in {name for name, _ in known.backstores}


def _kept(desired: Desired, ours: list[UserBackstore]) -> dict[str, UserBackstore]:
    kept: dict[str, UserBackstore] = {}
    wanted = {backstore.name: backstore for backstore in desired.backstores}
    for found in ours:
        backstore = wanted.get(found.name)
        if backstore is not None and found.name not in kept and _fits(found, backstore):
            kept[found.name] = found
    return kept


def _fits(found: UserBackstore, backstore: Backstore) -> bool:
    """Whatever else differs can be changed while it is used."""
    return (
        found.enabled
        and found.serial in ("", backstore.serial)
        and found.attributes["hw_block_size"] == str(backstore.block_size)
    )


def _backstores(desired: Desired, kept: Kept) -> Steps:
    steps: Steps = []
    for backstore in desired.backstores:
        found = kept.get(backstore.name)
        if found is None:
            size = format_size(backstore.size_bytes)
            text = f"backstore {backstore.name}, {size}"
            steps.append(create(text, make.create_backstore, backstore, desired.target))
        else:
            steps += _changes(backstore, found)
    return steps


def _changes(backstore: Backstore, found: UserBackstore) -> Steps:
    name, place = backstore.name, found.folder
    steps: Steps = []
    if not found.serial:
        steps.append(change(f"backstore {name}: its serial", make.set_serial, place, backstore.serial))
    # First of all how the kernel tells the handler of the others.
    wanted = make.backstore_attributes(backstore)
    for attribute in sorted(wanted, reverse=True):
        now, then = found.attributes.get(attribute, wanted[attribute]), wanted[attribute]
        if now != then:
            text = f"backstore {name}: {attribute} {now} -> {then}"
            steps.append(change(text, make.set_attributes, make.backstore_folder(place), {attribute: then}))
    if found.size_bytes != backstore.size_bytes:
        text = f"backstore {name}: {format_size(found.size_bytes)} -> {format_size(backstore.size_bytes)}"
        size = {"dev_size": str(backstore.size_bytes)}
        steps.append(change(text, make.set_attributes, make.backstore_folder(place), size))
    return steps


# -- what somebody else has


def _check_names(desired: Desired, actual: Actual, ours: list[UserBackstore]) -> None:
    wanted = {backstore.name for backstore in desired.backstores}
    for found in actual.backstores:
        if found.name in wanted and found not in ours:
            raise LioConflictError(
                f"LIO has a user backstore {found.name}, which is not ours: "
                f"its configuration is {found.config!r}, its serial {found.serial!r}",
                hint=f"Rename the volume, or `targetcli /backstores/user:{SUBTYPE} delete {found.name}`.",
            )


def _check_exports(going: list[UserBackstore], actual: Actual, known: Owned) -> None:
    places = {each.folder: each.name for each in going}
    for export, place in actual.exports.items():
        if place in places and not _is_our_export(export, known):
            raise LioConflictError(
                f"backstore {places[place]} cannot be removed: {export} shows it, and is not ours",
                hint=f"Remove that LUN first: `targetcli /{export.fabric}/{export.target}`.",
            )


def _is_our_export(export: Export, known: Owned) -> bool:
    if export.fabric == "loopback":
        return export.target.removeprefix("naa.") in known.loopbacks
    return export.fabric == "iscsi" and export.target in known.targets


# -- what shows them: what is to be removed, and what is to be made


def _targets(desired: Desired, actual: Actual, known: Owned, places: Places) -> tuple[Steps, Steps]:
    less: Steps = [
        remove(f"target {iqn}", make.remove_target, iqn, sorted(actual.targets[iqn]))
        for iqn in sorted(known.targets)
        if iqn in actual.targets and (desired.target is None or iqn != desired.target.iqn)
    ]
    if desired.target is None:
        return less, []
    fewer, more = target_steps(desired.target, actual.targets.get(desired.target.iqn, {}), places)
    return less + fewer, more


def _loopbacks(
    desired: Desired, actual: Actual, known: Owned, places: Places, ours: set[str]
) -> tuple[Steps, Steps]:
    less: Steps = []
    more: Steps = []
    wanted = {loopback.naa: loopback for loopback in desired.loopbacks}
    for naa in sorted(known.loopbacks & actual.loopbacks):
        shows = {
            export.lun: place
            for export, place in actual.exports.items()
            if export.fabric == "loopback" and export.target == f"naa.{naa}"
        }
        if naa in wanted and shows == {0: places.get(wanted[naa].backstore)}:
            del wanted[naa]
            continue
        if foreign := set(shows.values()) - ours:
            raise LioConflictError(
                f"loopback port naa.{naa} shows {', '.join(sorted(foreign))}, which is not ours",
                hint=f"Remove that LUN first: `targetcli /loopback/naa.{naa}`.",
            )
        less.append(remove(f"loopback port naa.{naa}", make.remove_loopback, naa))
    for loopback in wanted.values():
        more.append(_created(loopback))
    return less, more


def _created(loopback: Loopback) -> Step:
    text = f"loopback port naa.{loopback.naa}, a disk of {loopback.backstore}"
    return create(text, make.create_loopback, loopback.naa, loopback.backstore)
