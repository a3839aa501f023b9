"""The JSON messages name what is wrong with them; lists of regions survive their encoding."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iscsi_rp.replication import frames as wire
from iscsi_rp.replication import messages
from iscsi_rp.replication.frames import RemoteProtocolError
from iscsi_rp.replication.messages import Announce, Hello, VolumeInfo, Welcome, parse, parse_regions
from iscsi_rp.replication.regions import KEY_SHIFT, runs_of

VOLUME = VolumeInfo(uuid="u", name="data", size=1 << 20, block_size=512)
HELLO = Hello(array_id="a", processor="a/sp-a", group="g", fresh=True, volumes=[VOLUME])
REGIONS = 1000


def changed(**fields: Any) -> bytes:
    return json.dumps({**json.loads(HELLO.encode()), **fields}).encode()


def test_a_message_comes_back() -> None:
    assert parse(Hello, HELLO.encode()) == HELLO
    welcome = Welcome(full_sweep=False, restoring=17)
    assert parse(Welcome, welcome.encode()) == welcome


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (changed(fresh="perhaps"), "Hello: fresh: "),
        (changed(colour="red"), "Hello: colour: "),
        (changed(volumes=[]), "Hello: volumes: "),
        (changed(volumes=[{**VOLUME.model_dump(), "size": 0}]), "Hello: volumes.0.size: "),
        (changed(processor="p" * 256), "Hello: processor: "),
        (b"{}", "Hello: array_id: "),
        (b"", "Hello: "),
        (b"\xff\xfe", "Hello: "),
        (b"[" * 10_000, "Hello: "),
    ],
)
def test_what_is_wrong_is_named(payload: bytes, named: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse(Hello, payload)
    assert caught.value.message.startswith(named)


def test_another_version_is_refused_naming_both() -> None:
    with pytest.raises(RemoteProtocolError, match=f"version 99 .* this side {wire.VERSION}"):
        parse(Hello, changed(version=99))


def test_too_many_volumes_are_refused() -> None:
    announce = Announce(array_id="a", name="a", volumes=[VOLUME] * messages.MAX_VOLUMES)
    assert parse(Announce, announce.encode()) == announce
    body = json.loads(announce.encode())
    body["volumes"].append(body["volumes"][0])
    with pytest.raises(RemoteProtocolError, match="Announce: volumes: "):
        parse(Announce, json.dumps(body).encode())


# -- lists of regions

keys = st.sets(st.tuples(st.integers(0, 3), st.integers(0, REGIONS - 1)), max_size=60)


def received(frames: list[bytes]) -> set[int]:
    found: list[int] = []
    for data in frames:
        ((kind, _, volume, _, _, _, payload, _),), used = wire.decode(data, len(data))
        assert (kind, used) == (wire.REGIONS, len(data))
        found += [key for each in parse_regions(volume, payload, REGIONS) for key in each]
    assert len(found) == len(set(found))
    return set(found)


@given(keys)
def test_regions_come_back_under_the_receivers_numbers(regions: set[tuple[int, int]]) -> None:
    places = {0: 3, 1: 2, 2: 1, 3: 0}
    frames = list(messages.region_frames(runs_of({v << KEY_SHIFT | region for v, region in regions}), places))
    assert received(frames) == {places[v] << KEY_SHIFT | region for v, region in regions}


def test_a_long_list_takes_several_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_RUNS_IN_FRAME", 4)
    sent = set(range(0, 20, 2))
    frames = list(messages.region_frames(runs_of(sent), {0: 0}))
    assert [len(data) - wire.HEADER_BYTES for data in frames] == [64, 64, 32]
    assert received(frames) == sent


@pytest.mark.parametrize(
    ("first", "count"), [(0, 0), (0, REGIONS + 1), (REGIONS, 1), (1, REGIONS), (2**64 - 1, 2), (0, 2**64 - 1)]
)
def test_regions_outside_of_the_volume_are_refused(first: int, count: int) -> None:
    payload = first.to_bytes(8, "little") + count.to_bytes(8, "little")
    with pytest.raises(RemoteProtocolError, match="outside"):
        list(parse_regions(0, payload, REGIONS))


def test_a_list_that_is_cut_off_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="multiple"):
        list(parse_regions(0, bytes(15), REGIONS))
