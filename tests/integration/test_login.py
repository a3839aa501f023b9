"""Real initiators log in: CHAP both ways, digests, masks. (libiscsi's tools: of CHAP they know MD5.)"""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import pytest

from iscsi_rp.block import MemoryDevice
from iscsi_rp.frontend import IscsiServer
from iscsi_rp.iscsi import Access, Chap, InitiatorAccess
from iscsi_rp.scsi import Identity, LogicalUnit

pytestmark = pytest.mark.skipif(shutil.which("iscsi-ls") is None, reason="libiscsi-bin is not installed")

IQN: Final = "iqn.2026-01.io.iscsi-rp:test"
HOST: Final = "iqn.2026-01.io.iscsi-rp:host"
SECRET, TARGET_SECRET = "a-secret-of-the-host", "a-secret-of-the-array"
CHAP: Final = Chap("host", SECRET.encode())
MUTUAL: Final = Chap("array", TARGET_SECRET.encode())
PROVEN: Final = f"host%{SECRET}@"

ONE_WAY: Final = Access(True, {HOST: InitiatorAccess(CHAP)})
BOTH_WAYS: Final = Access(True, {HOST: InitiatorAccess(CHAP, MUTUAL)})

Run: TypeAlias = Callable[..., Awaitable[tuple[int, str]]]


def proven_by(secret: str) -> dict[str, str]:
    """The environment in which libiscsi wants the target to prove itself."""
    return {"LIBISCSI_CHAP_TARGET_USERNAME": "array", "LIBISCSI_CHAP_TARGET_PASSWORD": secret}


def unit(lun: int) -> LogicalUnit:
    naa = bytes.fromhex("600140500000000000000000000000") + bytes([lun])
    return LogicalUnit(MemoryDevice(1 << 20), Identity(naa, f"test-{lun}", product=f"DISK-{lun}"))


def serve(access: Access, script: Callable[[IscsiServer, str, Run], Awaitable[None]]) -> None:
    """Run `script(server, HOST:PORT, run)` against a target with LUNs 0, 1 and 2."""

    async def run(*command: str, **environment: str) -> tuple[int, str]:
        pipe = asyncio.subprocess.PIPE
        names = {**os.environ, **environment}
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=names)
        async with asyncio.timeout(30):
            out, errors = await process.communicate()
        return process.returncode or 0, (out + errors).decode(errors="replace")

    async def main() -> None:
        server = IscsiServer()
        server.add_target(IQN, {lun: unit(lun) for lun in range(3)})
        server.set_access(access)
        try:
            _, port = await server.listen("127.0.0.1", 0)
            await script(server, f"127.0.0.1:{port}", run)
        finally:
            await server.close(1.0)

    asyncio.run(main())


def asked(access: Access, *urls: str, initiator: str = HOST, **environment: str) -> list[tuple[int, str]]:
    """What iscsi-inq says of each of `urls`, which have PORTAL for the portal."""
    answers: list[tuple[int, str]] = []

    async def script(_: IscsiServer, portal: str, run: Run) -> None:
        for url in urls:
            command = "iscsi-inq", "-i", initiator, url.replace("PORTAL", portal)
            answers.append(await run(*command, **environment))

    serve(access, script)
    return answers


def test_chap_lets_in_who_proves_the_secret() -> None:
    right, wrong, another, none = asked(
        ONE_WAY,
        f"iscsi://{PROVEN}PORTAL/{IQN}/0",
        f"iscsi://host%{SECRET}x@PORTAL/{IQN}/0",
        f"iscsi://guest%{SECRET}@PORTAL/{IQN}/0",
        f"iscsi://PORTAL/{IQN}/0",
    )
    assert right[0] == 0, right
    assert "DISK-0" in right[1]
    for refused in (wrong, another, none):
        assert refused[0] != 0
        assert "Authentication failure" in refused[1]


def test_the_target_proves_itself() -> None:
    """libiscsi checks it, and the secret that the initiator expects."""
    right, wrong = (
        asked(
            BOTH_WAYS,
            f"iscsi://{PROVEN}PORTAL/{IQN}/0",
            **proven_by(secret),
        )[0]
        for secret in (TARGET_SECRET, TARGET_SECRET + "x")
    )
    assert right[0] == 0, right
    assert "DISK-0" in right[1]
    assert wrong[0] != 0


def test_who_is_not_listed_is_told_so() -> None:
    (refused,) = asked(ONE_WAY, f"iscsi://{PROVEN}PORTAL/{IQN}/0", initiator="iqn.2026-01.test:stranger")
    assert refused[0] != 0
    assert "Authorization failure" in refused[1]


def test_a_header_digest_is_agreed_and_right() -> None:
    (answer,) = asked(ONE_WAY, f"iscsi://{PROVEN}PORTAL/{IQN}/0?header_digest=crc32c")
    assert answer[0] == 0, answer
    assert "DISK-0" in answer[1]


def test_an_initiator_sees_its_own_luns() -> None:
    mask = Access(initiators={HOST: InitiatorAccess(luns={0: 2, 7: 1})})
    first, second, unmapped = asked(mask, *(f"iscsi://PORTAL/{IQN}/{lun}" for lun in (0, 7, 1)))
    assert "DISK-2" in first[1]
    assert "DISK-1" in second[1]
    assert "DISK" not in unmapped[1]


def test_discovery_shows_every_portal_with_its_group() -> None:
    async def script(server: IscsiServer, portal: str, run: Run) -> None:
        _, port = await server.listen("0.0.0.0", 0, portal_group=2)
        code, listed = await run("iscsi-ls", "-i", HOST, f"iscsi://{portal}")
        assert code == 0, listed
        assert f"Portal:{portal},1" in listed
        assert f"Portal:127.0.0.1:{port},2" in listed
        code, listed = await run("iscsi-ls", "-i", "iqn.2026-01.test:stranger", f"iscsi://{portal}")
        assert IQN not in listed

    serve(Access(True, {HOST: InitiatorAccess()}), script)


def test_discovery_may_ask_for_a_proof() -> None:
    async def script(_: IscsiServer, portal: str, run: Run) -> None:
        for user, found in ((f"finder%{TARGET_SECRET}@", True), (PROVEN, False), ("", False)):
            listed = (await run("iscsi-ls", "-i", HOST, f"iscsi://{user}{portal}"))[1]
            assert (IQN in listed) == found, listed

    serve(Access(discovery=InitiatorAccess(Chap("finder", TARGET_SECRET.encode()))), script)


def test_discovery_without_a_user_takes_the_initiators_own() -> None:
    async def script(_: IscsiServer, portal: str, run: Run) -> None:
        for user, environment, found in (
            ("", {}, True),
            (PROVEN, {}, True),
            (f"host%{SECRET}x@", {}, False),
            (PROVEN, proven_by(TARGET_SECRET), True),
            (PROVEN, proven_by(TARGET_SECRET + "x"), False),
        ):
            listed = (await run("iscsi-ls", "-i", HOST, f"iscsi://{user}{portal}", **environment))[1]
            assert (IQN in listed) == found, (user, environment, listed)

    serve(BOTH_WAYS, script)
