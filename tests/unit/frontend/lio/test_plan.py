"""What is to be done, from what is desired and what is there: two values."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from iscsi_rp.frontend.lio.actual import Actual, Export, NodeAcl, PortalGroup, UserBackstore
from iscsi_rp.frontend.lio.desired import Acl, Backstore, Desired, Loopback, Owned, Target
from iscsi_rp.frontend.lio.errors import LioConflictError, LioUnsupportedError
from iscsi_rp.frontend.lio.make import authentication
from iscsi_rp.frontend.lio.plan import difference
from iscsi_rp.frontend.lio.steps import Kind, Step, apply, change
from iscsi_rp.iscsi.access import Chap
from tests.unit.frontend.lio.served import actual_of

MIB: Final = 1 << 20
IQN: Final = "iqn.2026-11.io.iscsi-rp:array"
HOST: Final = "iqn.2026-11.io.iscsi-rp:host"
NAA: Final = "5001405aaaaaaaaa"
DATA: Final = Backstore("data", "11111111-1111-1111-1111-111111111111", 64 * MIB, 512)
LOGS: Final = Backstore("logs", "22222222-2222-2222-2222-222222222222", 32 * MIB, 4096, write_back=False)
SECRET: Final = Chap("user", b"a secret word")
OTHER: Final = Chap("array", b"another secret")
PORTALS: Final = {1: [("192.0.2.1", 3260)], 2: [("192.0.2.2", 3260), ("2001:db8::1", 3260)]}
OPEN: Final = Target(IQN, PORTALS, {0: "data", 1: "logs"}, open=True)
LISTED: Final = replace(OPEN, open=False, acls=[Acl(HOST, {0: "data", 7: "logs"}, SECRET, OTHER)])
ALL: Final = Desired([DATA, LOGS], LISTED, [Loopback(NAA, "data")])
GROUP_1: Final = f"portal group 1 of {IQN}"


def texts(desired: Desired, actual: Actual, owned: Owned | None = None) -> list[str]:
    return [step.text for step in difference(desired, actual, owned or Owned())]


def from_to(before: Desired, after: Desired) -> list[str]:
    return texts(after, actual_of(before), Owned.of(before))


def in_group_1(steps: list[str]) -> list[str]:
    """Without the other portal group, to which the same is done."""
    return [step for step in steps if f"portal group 2 of {IQN}" not in step]


def with_group(actual: Actual, changed: Callable[[PortalGroup], PortalGroup]) -> Actual:
    """Portal group 1 as an administrator left it."""
    groups = dict(actual.targets[IQN])
    groups[1] = changed(groups[1])
    return replace(actual, targets={IQN: groups})


def with_backstore(actual: Actual, **changes: Any) -> Actual:
    """The first backstore is other than it was made."""
    first, *others = actual.backstores
    return replace(actual, backstores=(replace(first, **changes), *others))


@pytest.mark.parametrize("desired", [Desired(), ALL, replace(ALL, target=OPEN), Desired([DATA])])
def test_nothing_is_to_be_done_where_all_is_as_desired(desired: Desired) -> None:
    assert texts(desired, actual_of(desired)) == []


def test_from_nothing() -> None:
    target = replace(LISTED, portals={1: PORTALS[1]})
    steps = difference(Desired([DATA], replace(target, luns={0: "data"}, acls=[])), Actual(), Owned())
    assert [step.text for step in steps] == [
        "create backstore data, 64 MiB",
        f"create {GROUP_1}, for listed initiators",
        f"create LUN 0 of {GROUP_1}: data",
        f"create portal 192.0.2.1:3260 of {GROUP_1}",
        f"change {GROUP_1}: enable",
    ]
    assert [step.kind for step in steps] == [Kind.CREATE] * 4 + [Kind.CHANGE]


def test_an_initiator_is_listed_before_anybody_can_log_in() -> None:
    steps = in_group_1(texts(ALL, Actual()))
    assert steps[-4:] == [
        f"create LUN 0, 7 of initiator {HOST} in {GROUP_1}",
        f"create portal 192.0.2.1:3260 of {GROUP_1}",
        f"change {GROUP_1}: enable",
        f"create loopback port naa.{NAA}, a disk of data",
    ]
    assert steps[-5] == f"create initiator {HOST} in {GROUP_1}, with mutual CHAP"


def test_all_that_was_made_is_removed_from_the_outside_in() -> None:
    assert from_to(ALL, Desired()) == [
        f"remove loopback port naa.{NAA}",
        f"remove target {IQN}",
        "remove backstore data",
        "remove backstore logs",
    ]


def test_what_was_not_made_by_us_stays() -> None:
    assert texts(Desired(), actual_of(ALL)) == []


@pytest.mark.parametrize(
    "changes", [{"config": "rpsplit/other"}, {"config": "qcow/data"}, {"serial": "3333"}]
)
def test_a_backstore_of_somebody_else_is_not_removed_and_is_in_the_way(changes: dict[str, str]) -> None:
    foreign = with_backstore(actual_of(Desired([DATA])), **changes)
    assert texts(Desired(), foreign, Owned.of(ALL)) == []
    with pytest.raises(LioConflictError, match="data") as caught:
        difference(Desired([DATA]), foreign, Owned.of(ALL))
    assert caught.value.hint


def test_a_lun_that_somebody_else_shows_keeps_its_backstore() -> None:
    actual = actual_of(ALL)
    foreign = Export("iscsi", "iqn.2026-11.org.example:other", 1, 4)
    exported = replace(actual, exports={**actual.exports, foreign: "user_1/logs"})
    assert texts(ALL, exported) == []
    without = replace(ALL, backstores=[DATA], target=replace(OPEN, luns={0: "data"}))
    with pytest.raises(LioConflictError, match=r"example:other, portal group 1, LUN 4"):
        difference(without, exported, Owned.of(ALL))


def test_a_loopback_port_that_shows_what_is_not_ours_stays() -> None:
    actual = actual_of(ALL)
    more = replace(actual, exports={**actual.exports, Export("loopback", f"naa.{NAA}", 1, 1): "fileio_0/x"})
    with pytest.raises(LioConflictError, match="fileio_0/x"):
        difference(Desired(), more, Owned.of(ALL))


def test_a_volume_grows_where_it_is() -> None:
    grown = replace(ALL, backstores=[replace(DATA, size_bytes=96 * MIB), LOGS])
    assert from_to(ALL, grown) == ["change backstore data: 64 MiB -> 96 MiB"]


def test_a_backstore_of_other_blocks_is_made_anew_and_nothing_else() -> None:
    steps = in_group_1(from_to(ALL, replace(ALL, backstores=[replace(DATA, block_size=4096), LOGS])))
    assert steps == [
        f"remove loopback port naa.{NAA}",
        f"remove LUN 0 of initiator {HOST} in {GROUP_1}",
        f"remove LUN 0 of {GROUP_1}",
        "remove backstore data",
        "create backstore data, 64 MiB",
        f"create LUN 0 of {GROUP_1}: data",
        f"create LUN 0 of initiator {HOST} in {GROUP_1}",
        f"create loopback port naa.{NAA}, a disk of data",
    ]


def test_a_volume_that_was_made_again_by_the_same_name_is_another() -> None:
    again = replace(DATA, serial="33333333-3333-3333-3333-333333333333")
    steps = from_to(Desired([DATA]), Desired([again]))
    assert steps == ["remove backstore data", "create backstore data, 64 MiB"]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"serial": ""}, ["change backstore data: its serial"]),
        ({"enabled": False, "serial": ""}, ["remove backstore data", "create backstore data, 64 MiB"]),
        (
            {"enabled": False, "serial": "", "config": "NULL", "attributes": {"hw_block_size": "512"}},
            ["remove backstore data", "create backstore data, 64 MiB"],
        ),
    ],
)
def test_what_was_half_made_is_completed(changes: dict[str, Any], steps: list[str]) -> None:
    desired = Desired([DATA])
    assert texts(desired, with_backstore(actual_of(desired), **changes)) == steps


def test_what_the_restore_service_left_out_is_set() -> None:
    restored = {
        "hw_block_size": "512",
        "emulate_write_cache": "0",
        "emulate_pr": "1",
        "nl_reply_supported": "0",
    }
    assert texts(Desired([DATA]), with_backstore(actual_of(Desired([DATA])), attributes=restored)) == [
        "change backstore data: nl_reply_supported 0 -> -1",
        "change backstore data: emulate_write_cache 0 -> 1",
    ]


def test_portals_of_a_storage_processor_change_alone() -> None:
    moved = replace(LISTED, portals={1: [("192.0.2.3", 3260)], 2: PORTALS[2]})
    assert from_to(ALL, replace(ALL, target=moved)) == [
        f"remove portal 192.0.2.1:3260 of {GROUP_1}",
        f"create portal 192.0.2.3:3260 of {GROUP_1}",
    ]


def test_a_portal_is_closed_before_the_other_processor_opens_it() -> None:
    moved = replace(LISTED, portals={1: [*PORTALS[1], ("2001:db8:0::1", 3260)], 2: PORTALS[2][:1]})
    assert from_to(ALL, replace(ALL, target=moved)) == [
        f"remove portal [2001:db8::1]:3260 of portal group 2 of {IQN}",
        f"create portal [2001:db8::1]:3260 of {GROUP_1}",
    ]


def test_an_address_may_be_spelled_in_many_ways() -> None:
    spelled = replace(LISTED, portals={1: PORTALS[1], 2: [PORTALS[2][0], ("2001:0DB8:0:0::1", 3260)]})
    assert from_to(ALL, replace(ALL, target=spelled)) == []


def test_a_lun_comes_and_goes_alone() -> None:
    fewer = replace(ALL, backstores=[DATA], target=replace(LISTED, luns={0: "data"}, acls=[]))
    more = replace(ALL, target=replace(LISTED, acls=[]))
    assert in_group_1(from_to(fewer, more)) == [
        "create backstore logs, 32 MiB",
        f"create LUN 1 of {GROUP_1}: logs",
    ]
    assert in_group_1(from_to(more, fewer)) == [f"remove LUN 1 of {GROUP_1}", "remove backstore logs"]


def test_a_lun_that_shows_another_volume_takes_those_that_map_it_along() -> None:
    swapped = replace(LISTED, luns={0: "logs", 1: "data"}, acls=[Acl(HOST, {0: "data"}, SECRET, OTHER)])
    assert in_group_1(from_to(ALL, replace(ALL, target=swapped))) == [
        f"remove LUN 0, 7 of initiator {HOST} in {GROUP_1}",
        f"remove LUN 0 of {GROUP_1}",
        f"remove LUN 1 of {GROUP_1}",
        f"create LUN 0 of {GROUP_1}: logs",
        f"create LUN 1 of {GROUP_1}: data",
        f"create LUN 0 of initiator {HOST} in {GROUP_1}",
    ]


def test_an_initiator_comes_and_goes_alone() -> None:
    guest = Acl(f"{HOST}2", {3: "logs"}, SECRET)
    more = replace(ALL, target=replace(LISTED, acls=[*LISTED.acls, guest]))
    assert in_group_1(from_to(ALL, more)) == [
        f"create initiator {HOST}2 in {GROUP_1}, with CHAP",
        f"create LUN 3 of initiator {HOST}2 in {GROUP_1}",
    ]
    assert in_group_1(from_to(more, ALL)) == [f"remove initiator {HOST}2 from {GROUP_1}"]


@pytest.mark.parametrize(
    ("chap", "mutual", "says"),
    [
        (Chap("user", b"a new secret word"), OTHER, "with mutual CHAP"),
        (Chap("other", b"a secret word"), OTHER, "with mutual CHAP"),
        (SECRET, Chap("array", b"yet another secret"), "with mutual CHAP"),
        (SECRET, None, "with CHAP"),
    ],
)
def test_credentials_change_alone_and_are_not_shown(chap: Chap, mutual: Chap | None, says: str) -> None:
    changed = replace(LISTED, acls=[replace(LISTED.acls[0], chap=chap, mutual=mutual)])
    steps = difference(replace(ALL, target=changed), actual_of(ALL), Owned())
    assert in_group_1([step.text for step in steps]) == [f"change initiator {HOST} in {GROUP_1}: {says}"]
    assert "secret" not in repr(steps)
    assert "secret" not in repr(actual_of(ALL))


def test_an_initiator_without_chap_beside_one_with() -> None:
    both = [*LISTED.acls, Acl(f"{HOST}2", {})]
    listed = replace(ALL, target=replace(LISTED, acls=both))
    assert from_to(listed, listed) == []
    weakened = with_group(
        actual_of(listed),
        lambda group: replace(
            group,
            acls={name: replace(found, authentication="0") for name, found in group.acls.items()},
        ),
    )
    assert texts(listed, weakened) == [f"change initiator {HOST} in {GROUP_1}: with mutual CHAP"]


def without_own(group: PortalGroup) -> PortalGroup:
    """On an older kernel."""
    acls: dict[str, NodeAcl] = {}
    for name, found in group.acls.items():
        acls[name] = replace(found, authentication=None)
    return replace(group, acls=acls)


def test_an_older_kernel_has_authentication_for_all_or_for_none() -> None:
    assert texts(ALL, with_group(actual_of(ALL), without_own)) == []
    mixed = replace(ALL, target=replace(LISTED, acls=[*LISTED.acls, Acl(f"{HOST}2", {})]))
    with pytest.raises(LioUnsupportedError, match=f"{HOST}2"):
        difference(mixed, with_group(actual_of(mixed), without_own), Owned())


@pytest.mark.parametrize(
    ("chap", "group", "supported", "value"),
    [
        (SECRET, "0", True, "1"),
        (SECRET, "1", True, "1"),
        (None, "1", True, "0"),
        (None, "0", True, "0"),
        (SECRET, "1", False, None),
        (None, "0", False, None),
    ],
)
def test_authentication_of_an_initiator(
    chap: Chap | None, group: str, supported: bool, value: str | None
) -> None:
    assert authentication(Acl(HOST, {}, chap), group, supported=supported) == value


@pytest.mark.parametrize(("chap", "group"), [(SECRET, "0"), (None, "1")])
def test_an_older_kernel_would_ask_for_another_proof(chap: Chap | None, group: str) -> None:
    with pytest.raises(LioUnsupportedError, match=HOST):
        authentication(Acl(HOST, {}, chap), group, supported=False)


def test_a_target_that_was_open_is_made_anew_when_it_is_closed() -> None:
    opened = replace(ALL, target=OPEN)
    steps = in_group_1(from_to(opened, ALL))
    assert steps[0] == f"remove {GROUP_1}: it remembers whom it let in when it was open"
    assert steps[-1] == f"change {GROUP_1}: enable"
    assert in_group_1(from_to(ALL, replace(ALL, target=replace(LISTED, open=True)))) == [
        f"change {GROUP_1}: authentication 1 -> 0, demo_mode_write_protect 1 -> 0,"
        " demo_mode_discovery 0 -> 1, cache_dynamic_acls 0 -> 1, generate_node_acls 0 -> 1"
    ]


def test_what_an_administrator_changed_in_our_target_is_put_right() -> None:
    def meddled(group: PortalGroup) -> PortalGroup:
        acls = {**group.acls, "iqn.1993-08.org.debian:01:x": NodeAcl(luns={0: 0})}
        return replace(group, luns={**group.luns, 9: "iblock_0/disk"}, acls=acls, enabled=False)

    assert texts(ALL, with_group(actual_of(ALL), meddled)) == [
        f"remove initiator iqn.1993-08.org.debian:01:x from {GROUP_1}",
        f"remove LUN 9 of {GROUP_1}",
        f"change {GROUP_1}: enable",
    ]


def test_a_storage_processor_that_is_gone_takes_its_portal_group_along() -> None:
    alone = replace(ALL, target=replace(LISTED, portals={1: PORTALS[1]}))
    assert from_to(ALL, alone) == [f"remove portal group 2 of {IQN}"]


def test_a_loopback_disk_of_another_volume() -> None:
    assert from_to(ALL, replace(ALL, loopbacks=[Loopback(NAA, "logs")])) == [
        f"remove loopback port naa.{NAA}",
        f"create loopback port naa.{NAA}, a disk of logs",
    ]


def test_of_two_of_one_name_one_is_kept() -> None:
    desired = Desired([DATA])
    actual = actual_of(desired)
    twin: UserBackstore = replace(actual.backstores[0], folder="user_9/data")
    steps = difference(desired, replace(actual, backstores=(*actual.backstores, twin)), Owned())
    assert [step.text for step in steps] == ["remove backstore data"]
    assert "user_9/data" in repr(steps[0]._do)


def test_steps_are_done_in_order_after_they_were_said() -> None:
    log: list[str] = []
    steps: list[Step] = [change("one", log.append, "did one"), change("two", log.append, "did two")]
    apply(steps, lambda step: log.append(step.text))
    assert log == ["change one", "did one", "change two", "did two"]
