from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from iscsi_rp.control.access_models import (
    AccessChange,
    AccessMode,
    Authentication,
    InitiatorChange,
    InitiatorCreate,
    Lun,
    ShownVolume,
)
from iscsi_rp.control.appliance_models import BookmarkCreate, GroupCreate, ImageRequest, ImageSelector
from iscsi_rp.control.array_api import ArrayService
from iscsi_rp.control.array_models import (
    Processor,
    RefusedLogins,
    Sector,
    SplitterMode,
    Volume,
    VolumeChange,
    VolumeCreate,
)
from iscsi_rp.control.client import ApplianceClient, ArrayClient
from iscsi_rp.control.config import Config
from iscsi_rp.control.error_json import error_body, error_of
from iscsi_rp.control.models import JobState
from iscsi_rp.errors import ConflictError, Error, NotFoundError, UnreachableError, UsageError
from tests.unit.control.services import END, HOST, MemoryAppliance, MemoryArray, time_of
from tests.unit.control.serving import memory_site, serving

NAME = "iqn.2026-11.test:one"
Site = tuple[Config, MemoryArray, MemoryAppliance]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with memory_site(tmp_path) as site:
        yield site


@pytest.fixture
def array(site: Site) -> Iterator[ArrayClient]:
    with ArrayClient(site[0].array_socket) as client:
        yield client


@pytest.fixture
def appliance(site: Site, array: ArrayClient) -> Iterator[ApplianceClient]:
    array.create_volume(VolumeCreate(name="data", size_bytes=1 << 30))
    with ApplianceClient(site[0].appliance_socket) as client:
        yield client


def test_volumes(array: ArrayClient, site: Site) -> None:
    made = array.create_volume(VolumeCreate(name="data", size_bytes=1 << 30, sector=Sector.N4K))
    assert made == Volume.model_validate(site[1].volumes["data"])
    assert array.list_volumes() == [made]
    assert array.volume("data") == made
    array.delete_volume("data", destroy=True)
    assert site[1].deleted == [("data", True, False)]
    assert array.list_volumes() == []


def test_status_and_sessions(array: ArrayClient, appliance: ApplianceClient) -> None:
    appliance.create_group(GroupCreate(name="db", volumes=["data"]))
    status = array.status()
    assert status.groups[0].mode is SplitterMode.SPLITTING
    assert status.sessions == array.list_sessions()
    assert [group.name for group in appliance.status().groups] == ["db"]


def test_groups(appliance: ApplianceClient, site: Site) -> None:
    made = appliance.create_group(GroupCreate(name="db", volumes=["data"], journal_bytes=1 << 30))
    assert appliance.list_groups() == [made]
    assert appliance.group("db") == made
    assert made.journal_bytes_capacity == 1 << 30
    left = appliance.delete_group("db")
    assert appliance.list_deleted_groups() == [left]
    assert appliance.delete_group("db", destroy=True) is None
    assert site[2].deleted == [("db", False), ("db", True)]


def test_bookmarks(appliance: ApplianceClient) -> None:
    appliance.create_group(GroupCreate(name="db", volumes=["data"]))
    made = appliance.create_bookmark("db", BookmarkCreate(name="before", consistency="application"))
    assert appliance.list_bookmarks("db") == [made]
    appliance.delete_bookmark("db", "before")
    assert appliance.list_bookmarks("db") == []


def test_images(appliance: ApplianceClient) -> None:
    appliance.create_group(GroupCreate(name="db", volumes=["data"]))
    images = appliance.list_images("db", since_ns=time_of(5), until_ns=time_of(9), limit=3)
    assert [image.position for image in images.images] == [9, 8, 7]
    assert appliance.image_access("db") is None
    access = appliance.enable_image("db", ImageRequest(time_ns=time_of(7), writable=True))
    assert (access.position, access.writable) == (7, True)
    assert appliance.image_access("db") == access
    assert appliance.undo_writes("db").log_bytes_used == 0
    appliance.disable_image("db")
    assert appliance.image_access("db") is None


def test_recovery(appliance: ApplianceClient, site: Site) -> None:
    appliance.create_group(GroupCreate(name="db", volumes=["data"]))
    chosen = ImageSelector(position=END - 2)
    assert appliance.plan_recovery("db", chosen).later_writes == 2
    job = appliance.wait(appliance.recover_production("db", chosen), poll_s=0.01)
    assert job.state is JobState.DONE
    assert site[2].recovered == [chosen]
    site[2].recovery_fails = True
    with pytest.raises(Error, match="the array is gone"):
        appliance.wait(appliance.recover_production("db", chosen), poll_s=0.01)


def test_a_verification_is_followed_to_its_end(array: ArrayClient) -> None:
    states = [job.state for job in array.follow(array.verify("db"), poll_s=0.01)]
    assert states == [JobState.RUNNING, JobState.DONE]


def test_an_error_keeps_class_message_and_hint(array: ArrayClient) -> None:
    array.create_volume(VolumeCreate(name="data", size_bytes=4096))
    with pytest.raises(ConflictError, match="there is a volume 'data' already") as caught:
        array.create_volume(VolumeCreate(name="data", size_bytes=4096))
    assert caught.value.hint == "Choose another name."
    with pytest.raises(NotFoundError, match="'nothing'"):
        array.volume("nothing")


def test_a_volume_grows_and_changes_its_owner(array: ArrayClient) -> None:
    array.create_volume(VolumeCreate(name="data", size_bytes=4096))
    changed = array.change_volume("data", VolumeChange(size_bytes=8192, owner=Processor.B))
    assert (changed.size_bytes, changed.owner) == (8192, Processor.B)
    assert array.volume("data") == changed
    with pytest.raises(NotFoundError):
        array.change_volume("nothing", VolumeChange(owner=Processor.A))


def test_initiators(array: ArrayClient, site: Site) -> None:
    auth = Authentication.model_validate({"chap": {"user": "one", "secret": "a secret of one"}})
    luns = [ShownVolume(volume="data", lun=3)]
    made = array.add_initiator(InitiatorCreate(name=NAME, authentication=auth, luns=luns))
    assert (made.chap_user, made.masked, made.luns) == ("one", True, [Lun(lun=3, volume="data")])
    assert site[1].initiators.secrets[NAME] == auth
    assert array.initiator(NAME) == made
    assert [each.name for each in array.list_initiators()] == [HOST, NAME]
    changed = array.change_initiator(NAME, InitiatorChange(authentication=Authentication(), all_luns=True))
    assert (changed.chap_user, changed.masked) == (None, False)
    with pytest.raises(ConflictError):
        array.add_initiator(InitiatorCreate(name=NAME))
    array.remove_initiator(NAME)
    with pytest.raises(NotFoundError):
        array.initiator(NAME)


def test_access(array: ArrayClient) -> None:
    assert array.access().mode is AccessMode.OPEN
    assert array.change_access(AccessChange(mode=AccessMode.LISTED)).mode is AccessMode.LISTED
    auth = Authentication.model_validate({"chap": {"user": "one", "secret": "a secret of one"}})
    assert array.change_access(AccessChange(discovery=auth)).discovery_chap_user == "one"
    assert array.access().mode is AccessMode.LISTED


def test_sessions_end_and_tell_their_latency(array: ArrayClient) -> None:
    (latency,) = array.latencies().sessions
    assert (latency.session, latency.initiator, sum(latency.reads)) == (1, HOST, 100)
    array.disconnect(1)
    assert array.list_sessions() == []
    with pytest.raises(NotFoundError):
        array.disconnect(1)


class _DamagedError(ConflictError):
    def __init__(self, position: int) -> None:
        super().__init__(f"damaged at {position}", hint="Look away.")


def test_errors_with_other_arguments_cross_too() -> None:
    error = error_of(error_body(_DamagedError(17)))
    assert type(error) is _DamagedError
    assert (error.message, error.hint, str(error)) == ("damaged at 17", "Look away.", "damaged at 17")


def test_an_error_that_a_client_does_not_know_is_the_nearest_that_it_knows() -> None:
    body = error_body(_DamagedError(17))
    body.types[0] = "NewerError"
    assert type(error_of(body)) is ConflictError


def test_what_makes_no_sense_is_named(site: Site) -> None:
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(site[0].array_socket)), base_url="http://x"
    ) as raw:
        for body, place in (
            ({"name": "Data", "size_bytes": 4096}, "name"),
            ({"name": "data", "size_bytes": 0}, "size_bytes"),
            ({"name": "data", "size_bytes": 4096, "colour": "red"}, "colour"),
            ({"name": "data", "size_bytes": 4097}, "multiple of the block size"),
        ):
            response = raw.post("/volumes", json=body)
            assert response.status_code == 422
            error = response.json()
            assert error["types"][0] == "UsageError"
            assert place in error["message"]
        assert raw.post("/volumes", content=b"{").status_code == 422
        assert raw.get("/no-such").json()["types"][0] == "NotFoundError"
        assert raw.put("/volumes").json()["types"][0] == "UsageError"


def test_a_name_cannot_reach_another_route(appliance: ApplianceClient) -> None:
    appliance.create_group(GroupCreate(name="db", volumes=["data"]))
    for name in ("db/image-access", "../status", ".", ""):
        with pytest.raises(UsageError, match="not a name"):
            appliance.group(name)
    for name in ("db?x=1", "a#b", "%2e%2e", "db "):
        with pytest.raises(NotFoundError, match="there is no group"):
            appliance.group(name)


def test_a_bug_is_an_error_without_a_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryArray):
        async def list_volumes(self) -> list[Volume]:
            raise ZeroDivisionError("secret")

    broken = Broken()
    with (
        serving(tmp_path, cast(ArrayService, broken), MemoryAppliance(broken)) as config,
        ArrayClient(config.array_socket) as client,
        pytest.raises(Error, match="internal error") as caught,
    ):
        client.list_volumes()
    assert "secret" not in caught.value.message
    assert "ZeroDivisionError: secret" in caplog.text


def test_a_daemon_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    with (
        ArrayClient(tmp_path / "api.sock") as client,
        pytest.raises(UnreachableError, match=r"api\.sock") as caught,
    ):
        client.status()
    assert caught.value.hint is not None
    assert "iscsi-rp up" in caught.value.hint


def test_an_answer_of_another_version_is_an_error(site: Site, array: ArrayClient) -> None:
    with ApplianceClient(site[0].array_socket) as mistaken, pytest.raises(Error, match="another version"):
        mistaken.status()


def test_a_limit_beyond_the_limit_is_refused(appliance: ApplianceClient) -> None:
    appliance.create_group(GroupCreate(name="db", volumes=["data"]))
    with pytest.raises(UsageError, match="limit"):
        appliance.list_images("db", limit=1_000_000)


def test_refused_logins_are_counted_by_reason(array: ArrayClient, site: Site) -> None:
    site[1].refused_logins = RefusedLogins(by_reason={"target not found": 2, "out of resources": 0})
    lines = array.metrics().splitlines()
    assert 'iscsi_rp_array_logins_refused_total{reason="target not found"} 2.0' in lines
    assert 'iscsi_rp_array_logins_refused_total{reason="out of resources"} 0.0' in lines


def test_metrics_are_prometheus_text(array: ArrayClient, appliance: ApplianceClient) -> None:
    appliance.create_group(GroupCreate(name="db", volumes=["data"]))
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for client in (array, appliance)
        for family in text_string_to_metric_families(client.metrics())
        for sample in family.samples
    }
    assert samples["iscsi_rp_volume_size_bytes", "data"] == 1 << 30
    assert samples["iscsi_rp_splitter_mode", "db", "SPLITTING"] == 1
    assert samples["iscsi_rp_splitter_mode", "db", "MARKING"] == 0
    assert samples["iscsi_rp_group_end", "db"] == END
    assert samples["iscsi_rp_group_lag_bytes", "db"] == 4096
    assert samples["iscsi_rp_array_alerts",] == 1
    assert samples["iscsi_rp_volume_command_seconds_bucket", "read", "0.000128", "data"] == 98
    assert samples["iscsi_rp_volume_command_seconds_bucket", "read", "+Inf", "data"] == 100
    assert samples["iscsi_rp_initiator_command_seconds_bucket", HOST, "read", "0.000256"] == 99
    assert samples["process_resident_memory_bytes",] > 0
