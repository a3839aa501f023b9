"""Requests about initiators: what makes no sense is refused, and a secret is shown to nobody."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from iscsi_rp.control.access_models import (
    Authentication,
    ChapCredentials,
    InitiatorChange,
    InitiatorCreate,
)
from iscsi_rp.control.error_json import complaint

SECRET = "this is a secret"
CHAP = {"user": "host", "secret": SECRET}


@pytest.mark.parametrize(
    ("model", "values", "reason"),
    [
        (InitiatorCreate, {"name": "host"}, "not an iSCSI name"),
        (InitiatorCreate, {"name": f"iqn.2026-11.test:{'x' * 220}"}, "not an iSCSI name"),
        (InitiatorCreate, {"name": "iqn.2026-11.test:x", "luns": [{"volume": "a", "lun": 1 << 14}]}, "lun"),
        (InitiatorChange, {"luns": [{"volume": "a"}], "all_luns": True}, "either"),
        (ChapCredentials, {"user": "", "secret": SECRET}, "user"),
        (ChapCredentials, {"user": "a\0b", "secret": SECRET}, "user"),
        (ChapCredentials, {"user": "host", "secret": "12 bytes no"}, "12 to 255 bytes"),
        (ChapCredentials, {"user": "host", "secret": "é" * 128}, "12 to 255 bytes"),
        (Authentication, {"mutual": CHAP}, "own user and secret"),
        (Authentication, {"chap": CHAP, "mutual": {"user": "array", "secret": SECRET}}, "must differ"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_and_its_secret_not_told(
    model: type[BaseModel], values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason) as caught:
        model.model_validate(values)
    assert SECRET not in complaint(caught.value.errors())


def test_the_shortest_and_the_longest_secret_are_taken() -> None:
    for secret in ("é" * 6, "x" * 255):
        assert ChapCredentials.model_validate({"user": "host", "secret": secret})


def test_a_name_is_in_lower_case() -> None:
    assert InitiatorCreate(name="iqn.2026-11.TEST:HOST").name == "iqn.2026-11.test:host"


def test_a_secret_goes_to_the_daemon_and_nowhere_else() -> None:
    request = Authentication.model_validate({"chap": CHAP})
    assert SECRET not in f"{request!r} {request} {request.model_dump()}"
    assert Authentication.model_validate_json(request.model_dump_json()) == request
