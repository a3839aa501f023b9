"""The rules of persistent reservations, against random requests; and the form in which they are stored."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_rp.scsi.persistent import Action, Kind, Registrant, Registrations, Request
from iscsi_rp.scsi.persistent_format import RegistrationsFormatError, decode, encode
from iscsi_rp.scsi.sense import CheckCondition, ReservationConflict

WHO = [Registrant(f"iqn.2026-01.test:{name},i,0x000000000001", port) for name in "abc" for port in (1, 2)]
KEYS = st.integers(0, 3)

REQUESTS = st.builds(
    Request,
    action=st.sampled_from(Action),
    by=st.sampled_from(WHO),
    key=KEYS,
    service_key=KEYS,
    scope_type=st.sampled_from([*Kind, 0, 2]),
    aptpl=st.booleans(),
    also=st.lists(st.sampled_from(WHO), max_size=2).map(tuple),
    spec_i_pt=st.booleans(),
    move_to=st.sampled_from(WHO),
    unregister=st.booleans(),
)


class Model:
    """The rules once more, as a list of who holds what, without a thought for how it is kept."""

    def __init__(self) -> None:
        self.keys: dict[Registrant, int] = {}
        self.kind = 0
        self.holders: set[Registrant] = set()

    def unregister(self, who: Registrant) -> None:
        del self.keys[who]
        self.holders.discard(who)
        self.settle()

    def settle(self) -> None:
        """Of types 7 and 8 whoever is registered is a holder; without one there is no reservation."""
        if self.kind >= 7:
            self.holders = set(self.keys)
        if not self.holders:
            self.kind = 0

    def apply(self, request: Request) -> None:
        """As the request succeeded."""
        by, new = request.by, request.service_key
        if request.action in (Action.REGISTER, Action.REGISTER_AND_IGNORE_EXISTING_KEY):
            if new:
                self.keys |= dict.fromkeys((by, *request.also), new)
            elif by in self.keys:
                self.unregister(by)
        elif request.action == Action.RESERVE:
            self.kind, self.holders = request.scope_type, {by}
        elif request.action == Action.RELEASE:
            if by in self.holders:
                self.kind, self.holders = 0, set()
        elif request.action == Action.CLEAR:
            self.kind, self.keys, self.holders = 0, {}, set()
        elif request.action == Action.REGISTER_AND_MOVE:
            assert request.move_to is not None
            self.keys[request.move_to] = new
            self.holders = {request.move_to}
            if request.unregister:
                del self.keys[by]
        else:
            whole = self.kind >= 7 and not new
            takes_over = whole or (self.kind < 7 and any(self.keys[who] == new for who in self.holders))
            for who in [who for who, key in self.keys.items() if whole or key == new]:
                if not (takes_over and who == by):
                    self.unregister(who)
            if takes_over:
                self.kind, self.holders = request.scope_type, {by}
        self.settle()

    def may(self, who: Registrant) -> tuple[bool, bool]:
        """(read, write)"""
        if not self.kind or who in self.holders or (self.kind >= 5 and who in self.keys):
            return True, True
        return self.kind in (1, 5, 7), False


@given(st.lists(REQUESTS, max_size=40))
def test_random_requests_against_the_model(requests: list[Request]) -> None:
    state, model = Registrations(), Model()
    for request in requests:
        before = encode(state), state.generation
        try:
            change = state.apply(request)
        except (CheckCondition, ReservationConflict):
            assert (encode(state), state.generation) == before
            continue
        state = change.state
        model.apply(request)
        assert dict(state.keys) == model.keys
        assert (state.kind or 0) == model.kind
        assert {who for who in WHO if state.holds(who)} == model.holders
        for who in WHO:
            assert (state.allows(who, reading=True), state.allows(who, reading=False)) == model.may(who)
        assert request.by not in [who for who, _ in change.told]
        if state.aptpl:
            stored = decode(encode(state))
            assert (stored.keys, stored.kind, stored.holder) == (state.keys, state.kind, state.holder)


@given(st.binary(max_size=80))
def test_bytes_that_are_not_registrations(stored: bytes) -> None:
    with suppress(RegistrationsFormatError):
        decode(stored)


def test_each_cut_and_each_version_is_refused() -> None:
    whole = encode(Registrations({WHO[0]: 1, WHO[1]: 2}, Kind.WRITE_EXCLUSIVE, WHO[0], aptpl=True))
    for bad in [whole[:size] for size in range(1, len(whole))] + [
        whole + b"\0",
        whole[:5] + b"\2" + whole[6:],
    ]:
        with pytest.raises(RegistrationsFormatError):
            decode(bad)
