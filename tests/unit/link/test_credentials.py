"""What of the files of a site's authority a daemon uses, and what it says of those that it does not."""

import contextlib
import os
import pty
import select
import signal
import ssl
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from iscsi_rp.clock import utc_ns
from iscsi_rp.errors import ConfigError
from iscsi_rp.link.credentials import Credentials
from iscsi_rp.link.pki import AUTHORITY, REVOKED, Authority
from tests.unit.link.test_tls import APPLIANCE, ARRAY, DAY_NS, authority


@pytest.fixture
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority(tmp_path_factory.mktemp("foreign"))


def test_files_that_do_not_do_are_named(tmp_path: Path) -> None:
    folder = authority(tmp_path)
    own = folder / ARRAY.file_name

    def fails(match: str) -> None:
        for server in (False, True):
            with pytest.raises(ConfigError, match=match):
                Credentials(folder, ARRAY).context(server=server)

    good = own.read_bytes()
    own.chmod(0o640)
    fails("private key that others may read")
    own.chmod(0o600)
    own.write_bytes((folder / APPLIANCE.file_name).read_bytes())
    fails(f"{ARRAY.file_name} is of appliance rpa-1, not of array array-1")
    own.write_bytes(good[: len(good) // 2])
    fails(f"cannot use .*{ARRAY.file_name}")
    own.write_bytes(good)
    for name in (ARRAY.file_name, AUTHORITY, REVOKED):
        away = (folder / name).rename(folder / "away")
        fails(f"{name} is missing")
        (folder / name).write_bytes(b"nothing that one could use")
        (folder / name).chmod(0o600)
        fails(f"cannot use .*{name}")
        away.rename(folder / name)
    assert Credentials(folder, ARRAY).context(server=True).verify_mode == ssl.CERT_REQUIRED


def test_files_that_do_not_belong_together_are_named(tmp_path: Path, foreign: Path) -> None:
    """Above all: who can write the list of the revoked cannot have another authority believed by it."""
    folder = authority(tmp_path)
    other = {name: (foreign / name).read_bytes() for name in (AUTHORITY, REVOKED, ARRAY.file_name)}
    ours = {name: (folder / name).read_bytes() for name in other}
    pair = ours[ARRAY.file_name].index(b"-----BEGIN CERTIFICATE")

    def fails(name: str, content: bytes, match: str) -> None:
        (folder / name).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{name}.* {match}"):
            Credentials(folder, ARRAY).context(server=True)
        (folder / name).write_bytes(ours[name])

    nothing_else = "does not hold one"
    fails(REVOKED, other[AUTHORITY] + other[REVOKED] + ours[REVOKED], nothing_else)
    fails(REVOKED, ours[REVOKED] + other[REVOKED], nothing_else)
    fails(REVOKED, ours[AUTHORITY], nothing_else)
    fails(AUTHORITY, ours[AUTHORITY] + other[AUTHORITY], nothing_else)
    fails(REVOKED, other[REVOKED], "is not signed by")
    fails(ARRAY.file_name, other[ARRAY.file_name], "is not signed by")
    fails(ARRAY.file_name, other[ARRAY.file_name][:pair] + ours[ARRAY.file_name][pair:], "")
    assert Credentials(folder, ARRAY).context(server=True)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    own = authority(tmp_path) / ARRAY.file_name
    text = own.read_bytes()
    key = serialization.load_pem_private_key(text, None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    own.write_bytes(locked + text[text.index(b"-----BEGIN CERTIFICATE") :])
    code = (
        "from pathlib import Path; from iscsi_rp.link.credentials import *\n"
        "from iscsi_rp.link.pki import *\n"
        f"try: Credentials(Path({str(tmp_path)!r}), Identity(Role.ARRAY, 'array-1')).context(server=True)\n"
        "except ConfigError as error: print(error.message)"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    said = b""
    with contextlib.suppress(OSError):  # EIO is the end of it
        while select.select([terminal], [], [], 20)[0] and b"pass phrase" not in said:
            said += os.read(terminal, 1000)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert said.startswith(b"cannot use")


def test_a_certificate_that_ends_soon_is_told(tmp_path: Path) -> None:
    made = Authority.create(tmp_path, "site")
    made.issue(ARRAY, 31)
    assert Credentials(tmp_path, ARRAY).expiry is None
    made.issue(ARRAY, 29, renew=True)
    assert "of array array-1 expires in" in str(Credentials(tmp_path, ARRAY).expiry)
    made.issue(ARRAY, 29, renew=True, now_ns=utc_ns() - 40 * DAY_NS)
    assert "has expired" in str(Credentials(tmp_path, ARRAY).expiry)
