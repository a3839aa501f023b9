from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from iscsi_rp.control.appliance_models import BookmarkCreate, GroupCreate, ImageRequest, ImageSelector
from iscsi_rp.control.array_models import VolumeCreate


@pytest.mark.parametrize(
    ("model", "values", "reason"),
    [
        (VolumeCreate, {"name": "data"}, "needs a size"),
        (VolumeCreate, {"name": "Data", "size_bytes": 4096}, "name"),
        (VolumeCreate, {"name": "d" * 64, "size_bytes": 4096}, "name"),
        (VolumeCreate, {"name": "data\n", "size_bytes": 4096}, "name"),
        (VolumeCreate, {"name": "../data", "size_bytes": 4096}, "name"),
        (VolumeCreate, {"name": "data", "size_bytes": -512}, "size_bytes"),
        (VolumeCreate, {"name": "data", "size_bytes": 1000}, "multiple"),
        (VolumeCreate, {"name": "data", "size_bytes": 512, "sector": "4kn"}, "multiple"),
        (VolumeCreate, {"name": "data", "size_bytes": 4096, "sector": "1024"}, "sector"),
        (VolumeCreate, {"name": "data", "kind": "block", "size_bytes": 4096}, "needs the path"),
        (VolumeCreate, {"name": "data", "kind": "memory", "size_bytes": 4096, "path": "/x"}, "no path"),
        (VolumeCreate, {"name": "data", "kind": "memory"}, "needs a size"),
        (VolumeCreate, {"name": "data", "path": "here.img"}, "absolute"),
        (GroupCreate, {"name": "db", "volumes": []}, "volumes"),
        (GroupCreate, {"name": "db", "volumes": ["a", "a"]}, "only once"),
        (GroupCreate, {"name": "db", "volumes": ["a"], "copy_directory": "here"}, "absolute"),
        (BookmarkCreate, {"name": "before the storm"}, "name"),
        (BookmarkCreate, {"name": "before", "consistency": "wishful"}, "consistency"),
        (ImageSelector, {}, "exactly one"),
        (ImageSelector, {"latest": True, "bookmark": "x"}, "exactly one"),
        (ImageSelector, {"time_ns": 0, "position": 0}, "exactly one"),
        (ImageSelector, {"latest": False}, "exactly one"),
        (ImageRequest, {"latest": True, "time": 5}, "time"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    model: type[BaseModel], values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        model.model_validate(values)


@pytest.mark.parametrize(
    "values",
    [{"latest": True}, {"bookmark": "before"}, {"time_ns": 0}, {"position": 0}],
    ids=lambda v: next(iter(v)),
)
def test_each_way_to_choose_an_image(values: dict[str, Any]) -> None:
    assert ImageRequest.model_validate(values).writable is True
    assert ImageSelector.model_validate(values).model_dump(exclude_defaults=True) == values


def test_a_volume_over_what_is_there_needs_no_size() -> None:
    assert (
        VolumeCreate.model_validate({"name": "data", "kind": "block", "path": "/dev/sdb"}).size_bytes is None
    )
