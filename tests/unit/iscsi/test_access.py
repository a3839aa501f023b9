"""What a node shows to whom: targets, portals, LUNs; and its sessions."""

import gc
from types import SimpleNamespace
from typing import Any, cast

import pytest

from iscsi_rp.errors import ConfigError
from iscsi_rp.iscsi import Access, InitiatorAccess, Node, Session
from iscsi_rp.iscsi import node as node_module
from tests.kit.planting import plant

from .host import DISCOVERY, NAMES, OPERATIONAL_TO_FULL, Host, a_node, unit
from .initiator import IQN, ISID, NAME

OTHER = "iqn.2026-01.test:other"


def masked(luns: dict[int, int] | None, *, listed_only: bool = False) -> Access:
    return Access(listed_only, {NAME: InitiatorAccess(luns=luns)})


def session(node: Node, *, initiator: str = NAME, isid: int = ISID, portal_group: int = 1) -> Session:
    """What a node looks at in a session."""
    target = node.target(IQN)
    seen = node.luns_of(target, initiator)
    names = {"initiator": initiator, "isid": isid, "portal_group": portal_group}
    made: Any = _Session(tsih=node.new_tsih(), target=target, seen=seen, **names)
    return cast(Session, made)


class _Session(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]


def test_an_initiator_sees_its_own_numbers_of_what_it_may_see() -> None:
    node = a_node(masked({0: 2, 5: 1, 6: 77}), luns=3)
    target = node.target(IQN)
    assert node.luns_of(target, NAME) == {0: target.luns[2], 5: target.luns[1]}
    assert node.luns_of(target, OTHER) == target.luns


def test_what_it_sees_stays_true_while_it_looks() -> None:
    node = a_node(luns=2)
    target = node.target(IQN)
    one, two = session(node), session(node, initiator=OTHER)
    node.open_session(one)
    node.open_session(two)
    seen, seen_by_other = node.luns_of(target, NAME), node.luns_of(target, OTHER)
    assert node.set_access(masked({3: 1})) == ([], [one])
    assert seen == {3: target.luns[1]}
    assert node.set_lun(IQN, 0, unit()) == [two]
    assert set(node.set_lun(IQN, 1, unit())) == {one, two}
    assert seen == {3: target.luns[1]}
    assert set(node.set_lun(IQN, 1, None)) == {one, two}
    assert (list(seen), list(seen_by_other)) == ([], [0])
    refused, changed = node.set_access(masked(None, listed_only=True))
    assert (refused, set(changed)) == ([two], {one, two})
    assert (list(seen), list(seen_by_other)) == ([0], [])
    with pytest.raises(ConfigError):
        node.set_lun(IQN, 1 << 14, unit())


def test_nobody_is_remembered_whose_session_is_over() -> None:
    node = a_node()
    kept = node.luns_of(node.target(IQN), NAME)
    assert node.luns_of(node.target(IQN), NAME) is kept
    del kept
    gc.collect()
    assert not node.target(IQN).views


def test_sessions_are_found_and_forgotten() -> None:
    node = a_node()
    first, elsewhere = session(node), session(node, portal_group=2)
    assert node.open_session(first) is None
    assert node.open_session(elsewhere) is None
    assert node.same_session(node.target(IQN), NAME, ISID, 1) is first
    again = session(node)
    assert node.open_session(again) is first
    node.close_session(first)
    node.close_session(first)
    assert node.same_session(node.target(IQN), NAME, ISID, 1) is again
    assert set(node.sessions()) == {elsewhere, again} == node.target(IQN).sessions
    node.close_session(again)
    node.close_session(elsewhere)
    assert list(node.sessions()) == []


def test_handles_are_not_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "_TSIHS", 5)
    node = a_node()
    for isid in range(1, 5):
        node.open_session(session(node, isid=isid))
    assert [node.new_tsih() for _ in range(3)] == [5, 5, 5]
    assert {each.tsih for each in node.sessions()} == {1, 2, 3, 4}


def test_a_session_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "SESSIONS", 2)
    node = a_node()
    for isid in (ISID, 5):
        node.open_session(session(node, isid=isid))
    assert Host(node, isid=6).say(NAMES, OPERATIONAL_TO_FULL).status == 0x0302
    assert Host(node, portal_group=2).say(NAMES, OPERATIONAL_TO_FULL).status == 0x0302
    assert Host(node).say(NAMES, OPERATIONAL_TO_FULL).status == 0  # It replaces one.
    assert Host(node, isid=6).say(DISCOVERY, OPERATIONAL_TO_FULL).status == 0x0302


def test_a_connection_for_a_session_that_exists_or_does_not() -> None:
    node = a_node()
    running = session(node)
    node.open_session(running)
    for tsih, isid, status in ((running.tsih, ISID, 0x0206), (running.tsih, 5, 0x020A), (99, ISID, 0x020A)):
        assert Host(node, isid=isid, tsih=tsih).say(NAMES, OPERATIONAL_TO_FULL).status == status


def test_portals_and_their_groups() -> None:
    node = a_node()
    node.portals += [("10.0.0.1:3260", 1), ("[fd00::1]:3260", 2), ("0.0.0.0:3270", 2), ("[::]:3280", 1)]
    assert node.addresses("10.0.0.1:3260", 1) == ["10.0.0.1:3260,1", "[fd00::1]:3260,2", "10.0.0.1:3270,2"]
    assert node.addresses("[fd00::9]:3280", 1) == [
        "[fd00::9]:3280,1",
        "10.0.0.1:3260,1",
        "[fd00::1]:3260,2",
    ]


def test_each_portal_group_is_a_port_of_the_target() -> None:
    node = a_node()
    host = Host(node, portal_group=2)
    assert host.say(NAMES, OPERATIONAL_TO_FULL).keys["TargetPortalGroupTag"] == "2"
    port = host.login.port
    assert port is node.target(IQN).port(2)
    assert port is not None
    assert (port.name, port.relative_id, port.group) == (f"{IQN},t,0x0002", 2, 2)


def test_who_may_not_log_in_discovers_nothing() -> None:
    node = a_node(masked(None, listed_only=True))
    assert node.targets_of(NAME) == [IQN]
    assert node.targets_of(OTHER) == []
    with plant(Node, "targets_of", "is None", "is Ellipsis"):
        assert node.targets_of(OTHER) == [IQN]
