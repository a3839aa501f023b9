"""The files of the authority: what damage, a full disk, a kill and others at the same time leave."""

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from iscsi_rp.link.pki import (
    AUTHORITY,
    AUTHORITY_KEY,
    ISSUED,
    REVOKED,
    Authority,
    AuthorityExistsError,
    Identity,
    NoAuthorityError,
    Role,
)
from iscsi_rp.link.pki_files import DamagedFileError, PkiFileError
from tests.unit.link.interrupted_pki import ONE
from tests.unit.link.pki_rig import ARRAY, RPA, context, make_site


@pytest.fixture
def site(tmp_path: Path) -> Authority:
    return make_site(tmp_path / "pki")


_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def damages(good: bytes, foreign: bytes) -> Iterator[bytes]:
    yield b""
    yield good[: len(good) // 2]
    yield foreign
    yield b"\xff" * len(good)
    body = [at for at in range(good.index(b"\n"), good.rindex(b"\n-")) if good[at] in _BASE64]
    for at in body[: -len(body) // 16 : 11]:
        other = _BASE64[(_BASE64.index(good[at]) + 1) % len(_BASE64)]
        yield good[:at] + bytes([other]) + good[at + 1 :]


@pytest.mark.parametrize("name", [AUTHORITY, AUTHORITY_KEY, REVOKED, ISSUED])
def test_damage_is_named_and_left_as_it_is(site: Authority, name: str) -> None:
    site.revoke(RPA)
    other = Authority.create(site.folder.parent / "other", "site")
    other.issue(ARRAY)
    path, foreign = site.folder / name, other.folder / name
    if name == ISSUED:
        path, foreign = next(path.iterdir()), next(foreign.iterdir())
    good = path.read_bytes()
    listing = sorted(site.folder.rglob("*"))
    for bad in damages(good, foreign.read_bytes()):
        path.write_bytes(bad)
        for change in ("issue", "revoke"):
            with pytest.raises(DamagedFileError) as caught:
                getattr(Authority.open(site.folder), change)(ARRAY)
            assert str(path) in caught.value.message
        assert path.read_bytes() == bad
    path.write_bytes(good)
    assert sorted(site.folder.rglob("*")) == listing
    assert [each.identity for each in site.revoke(ARRAY)] == [ARRAY]
    assert sum(each.revoked_ns is not None for each in site.certificates()) == 2


def test_a_list_of_the_revoked_that_is_missing_is_not_made_anew(site: Authority) -> None:
    (site.folder / REVOKED).unlink()
    for change in (lambda: site.issue(ONE), lambda: site.revoke(ARRAY), site.certificates):
        with pytest.raises(PkiFileError, match=r"cannot read .*revoked\.crl: No such file"):
            change()
    assert not (site.folder / REVOKED).exists()


def test_a_key_with_a_password_is_refused(site: Authority) -> None:
    path = site.folder / AUTHORITY_KEY
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    password = serialization.BestAvailableEncryption(b"secret")
    encoding, shape = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(encoding, shape, password))
    with pytest.raises(DamagedFileError, match=r"authority\.key"):
        Authority.open(site.folder)


@contextlib.contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """Not as root, to whom every folder is writable; `folder` is one's own, and read-only."""
    user = os.geteuid()
    for path in (folder, *folder.rglob("*")):
        if user == 0:
            os.chown(path, 65534, 65534)
        if path.is_dir():
            path.chmod(0o500)
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
        (folder / ISSUED).chmod(0o700)


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        site = Authority.create(Path(root) / "pki", "site")
        site.issue(ARRAY)
        listing = sorted(site.folder.rglob("*"))
        with unprivileged(site.folder):
            for change in (lambda: site.issue(ONE), lambda: site.revoke(ARRAY)):
                with pytest.raises(PkiFileError, match=f"cannot write {site.folder}.*: Permission denied"):
                    change()
            with pytest.raises(PkiFileError, match=r"cannot make .*: Permission denied"):
                Authority.create(site.folder / "below", "site")
        assert sorted(site.folder.rglob("*")) == listing
        assert len(site.valid(ARRAY)) == 1


def test_a_full_disk_changes_nothing(site: Authority) -> None:
    """The limit lets the index's file through, and not the identity's, which is larger."""
    listing = sorted(site.folder.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (850, hard))
    try:
        with pytest.raises(PkiFileError, match=r"cannot write .*array-one\.pem: File too large"):
            site.issue(ONE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(site.folder.rglob("*")) == listing
    site.issue(ONE)


def test_files_have_the_modes_they_should(site: Authority) -> None:
    site.revoke(ARRAY)
    modes = {
        path.relative_to(site.folder).parts[0]: path.stat().st_mode & 0o777 for path in site.folder.iterdir()
    }
    assert modes == {
        AUTHORITY: 0o644,
        AUTHORITY_KEY: 0o600,
        REVOKED: 0o644,
        ISSUED: 0o700,
        ARRAY.file_name: 0o600,
        RPA.file_name: 0o600,
    }
    assert site.folder.stat().st_mode & 0o777 == 0o700


def test_revocations_at_once_are_all_kept(site: Authority) -> None:
    many = [Identity(Role.ARRAY, f"a{number}") for number in range(8)]
    for identity in many:
        site.issue(identity)
    together = Barrier(len(many))

    def revoke(identity: Identity) -> None:
        authority = Authority.open(site.folder)
        together.wait()
        authority.revoke(identity)

    with ThreadPoolExecutor(len(many)) as threads:
        list(threads.map(revoke, many))
    assert {each.identity for each in site.certificates() if each.revoked_ns} == set(many)


@pytest.mark.parametrize("action", ["create", "issue", "revoke"])
def test_what_is_killed_leaves_no_half_of_a_file(tmp_path: Path, action: str) -> None:
    before = tmp_path / "before"
    if action == "create":
        before.mkdir()
    else:
        site = Authority.create(before, "site")
        for identity in (ONE, ARRAY):
            site.issue(identity)
        site.revoke(ARRAY)
    command = [sys.executable, "-m", "tests.unit.link.interrupted_pki", str(tmp_path), action]
    assert subprocess.run(command, timeout=120).returncode == 0
    folders = sorted(tmp_path.glob("after-*"), key=lambda path: int(path.name.removeprefix("after-")))
    assert len(folders) > 5
    for folder in folders[:-1]:
        check_interrupted(folder, action)
    assert not list(folders[-1].rglob(".*"))


def check_interrupted(folder: Path, action: str) -> None:
    try:
        site = Authority.open(folder)
    except NoAuthorityError:
        assert action == "create"
        if not (folder / AUTHORITY_KEY).exists():
            Authority.create(folder, "site")
            return
        with pytest.raises(AuthorityExistsError) as caught:  # a person decides
            Authority.create(folder, "site")
        assert "that was interrupted" in str(caught.value.hint)
        return
    serials = {each.serial for each in site.certificates()}
    for path in folder.glob("*.pem"):
        context(folder, path, server=True)
        assert x509.load_pem_x509_certificate(path.read_bytes()).serial_number in serials
    lost = {str(each.identity) for each in site.certificates() if each.revoked_ns}
    assert lost in ([set()] if action == "create" else [{str(ARRAY)}, {str(ARRAY), str(ONE)}])
    site.issue(ONE, renew=True)
    site.revoke(ONE)
    site.issue(ONE)
    assert not list(folder.rglob(".*"))
