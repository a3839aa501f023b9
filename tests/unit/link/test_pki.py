"""The authority's folder: who gets through a TLS handshake by it, and what damage and interruption leave."""

import contextlib
import os
import resource
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import TypeAdapter, ValidationError

from iscsi_rp.clock import utc_ns
from iscsi_rp.control.models import Name
from iscsi_rp.link.pki import (
    AUTHORITY,
    AUTHORITY_KEY,
    ISSUED,
    REVOKED,
    Authority,
    AuthorityExistsError,
    AuthorityExpiredError,
    CertificateExistsError,
    Identity,
    IdentityError,
    NoAuthorityError,
    NoCertificateError,
    Role,
    State,
    identity_in,
    identity_of,
)
from iscsi_rp.link.pki_files import DamagedFileError, PkiFileError
from tests.unit.link.interrupted_pki import ONE

ARRAY: Final = Identity(Role.ARRAY, "array-1")
RPA: Final = Identity(Role.APPLIANCE, "rpa-1")
MINUTE_NS: Final = 60_000_000_000
DAY_NS: Final = 86_400_000_000_000


@pytest.fixture
def site(tmp_path: Path) -> Authority:
    """With a certificate of each role."""
    authority = Authority.create(tmp_path / "pki", "site")
    authority.issue(ARRAY)
    authority.issue(RPA)
    return authority


def context(folder: Path, own: Path, *, server: bool) -> ssl.SSLContext:
    """As docs/pki.md says of the daemons, by `ssl` alone."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
    made.load_verify_locations(folder / AUTHORITY)
    made.load_verify_locations(folder / REVOKED)
    made.load_cert_chain(own)
    return made


def handshake(folder: Path, client: Path, server: Path) -> tuple[Identity | None, Identity | None]:
    """Of whom the server takes the client for, and the client the server. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        context(folder, server, server=True).wrap_bio(up, down, server_side=True),
        context(folder, client, server=False).wrap_bio(down, up),
    ]
    waiting = list(ends)
    for _ in range(10):
        for end in list(waiting):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                waiting.remove(end)
    assert not waiting
    assert {end.version() for end in ends} == {"TLSv1.3"}
    at_server, at_client = (identity_in(end.getpeercert() or {}) for end in ends)
    return at_server, at_client


def pem(authority: Authority, identity: Identity) -> Path:
    return authority.folder / identity.file_name


def test_array_and_appliance_know_each_other(site: Authority) -> None:
    assert handshake(site.folder, pem(site, ARRAY), pem(site, RPA)) == (ARRAY, RPA)
    assert handshake(site.folder, pem(site, RPA), pem(site, ARRAY)) == (RPA, ARRAY)


def test_a_machine_needs_three_files(site: Authority, tmp_path: Path) -> None:
    machine = tmp_path / "machine"
    machine.mkdir()
    for name in (AUTHORITY, REVOKED, ARRAY.file_name):
        shutil.copy(site.folder / name, machine)
    assert handshake(machine, machine / ARRAY.file_name, pem(site, RPA)) == (ARRAY, RPA)
    with pytest.raises(NoAuthorityError, match=r"authority\.key is missing"):
        Authority.open(machine)
    with pytest.raises(AuthorityExistsError, match=r"authority\.crt and revoked\.crl"):
        Authority.create(machine, "site")
    assert sorted(os.listdir(machine)) == sorted((AUTHORITY, REVOKED, ARRAY.file_name))


def foreign(site: Authority) -> Path:
    other = Authority.create(site.folder.parent / "foreign", "site")
    other.issue(ARRAY)
    return pem(other, ARRAY)


def expired(site: Authority) -> Path:
    site.issue(ARRAY, 1, renew=True, now_ns=utc_ns() - DAY_NS - MINUTE_NS)
    return pem(site, ARRAY)


def not_yet_valid(site: Authority) -> Path:
    site.issue(ARRAY, renew=True, now_ns=utc_ns() + 6 * MINUTE_NS)
    return pem(site, ARRAY)


def revoked(site: Authority) -> Path:
    site.revoke(ARRAY)
    return pem(site, ARRAY)


def self_signed(site: Authority) -> Path:
    return write(site, [ARRAY.uri], itself=True)


def write(site: Authority, uris: list[str], *, itself: bool = False) -> Path:
    """A certificate with these URIs that the authority signed, or itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    loaded = serialization.load_pem_private_key((site.folder / AUTHORITY_KEY).read_bytes(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    signer = key if itself else loaded
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(ARRAY))])
    authority = x509.load_pem_x509_certificate((site.folder / AUTHORITY).read_bytes())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if itself else authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    path = site.folder.parent / "written.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (foreign, "unable to get local issuer certificate"),
        (expired, "certificate has expired"),
        (not_yet_valid, "certificate is not yet valid"),
        (revoked, "certificate revoked"),
        (self_signed, "self-signed certificate"),
    ],
)
def test_either_side_refuses(tmp_path: Path, make: Any, reason: str) -> None:
    site = Authority.create(tmp_path / "pki", "site", now_ns=utc_ns() - 10 * DAY_NS)
    site.issue(ARRAY)
    site.issue(RPA)
    assert handshake(site.folder, pem(site, ARRAY), pem(site, RPA)) == (ARRAY, RPA)
    bad = make(site)
    for client, server in ((bad, pem(site, RPA)), (pem(site, RPA), bad)):
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            handshake(site.folder, client, server)
        assert caught.value.verify_message == reason


def test_a_certificate_is_no_authority(site: Authority) -> None:
    """Whoever has an identity's key cannot sign another."""
    own = x509.load_pem_x509_certificate(pem(site, ARRAY).read_bytes())
    constraints = own.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = own.extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical
    assert usage.critical
    assert not constraints.value.ca
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign


def test_a_clock_that_is_five_minutes_behind_does_not_matter(tmp_path: Path) -> None:
    ahead_ns = utc_ns() + 4 * MINUTE_NS
    site = Authority.create(tmp_path / "pki", "site", now_ns=ahead_ns)
    for identity in (ARRAY, RPA, ONE):
        site.issue(identity, now_ns=ahead_ns)
    site.revoke(ONE, now_ns=ahead_ns)
    assert handshake(site.folder, pem(site, ARRAY), pem(site, RPA)) == (ARRAY, RPA)


@pytest.mark.parametrize(
    "uris", [[], [ARRAY.uri, RPA.uri], [ARRAY.uri, ARRAY.uri], [ARRAY.uri, "urn:other"], ["urn:other"]]
)
def test_a_certificate_of_no_one_name_is_nobodys(site: Authority, uris: list[str]) -> None:
    path = write(site, uris)
    assert handshake(site.folder, path, pem(site, RPA)) == (None, RPA)
    assert identity_of(x509.load_pem_x509_certificate(path.read_bytes())) is None


@pytest.mark.parametrize(
    "uri",
    [
        f"{ARRAY.uri}\n",
        f"{ARRAY.uri}\0",
        f"{ARRAY.uri}/x",
        f"x{ARRAY.uri}",
        "urn:iscsi-rp:array:",
        "urn:iscsi-rp:array:Array-1",
        "urn:iscsi-rp:host:array-1",
        "URN:iscsi-rp:array:array-1",
        f"urn:iscsi-rp:array:{'x' * 64}",
    ],
)
def test_what_is_like_our_names_is_none(uri: str) -> None:
    assert identity_in({"subjectAltName": (("URI", uri),)}) is None


def test_only_uris_are_names() -> None:
    assert identity_in({"subjectAltName": (("DNS", ARRAY.uri),)}) is None
    assert identity_in({"subjectAltName": (("DNS", "host"), ("URI", ARRAY.uri))}) == ARRAY
    assert identity_in({}) is None


@pytest.mark.parametrize(
    "name", ["a", "0", "a.b_c-d", "x" * 63, "", "x" * 64, "A", "-a", "a/b", "..", "a\n", "ä"]
)
def test_names_are_those_of_arrays_and_appliances(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        with pytest.raises(IdentityError, match="is not a name"):
            Identity(Role.ARRAY, name)
    else:
        assert Identity(Role.ARRAY, name).uri == f"urn:iscsi-rp:array:{name}"


def test_the_longest_name_fits(site: Authority) -> None:
    longest = Identity(Role.APPLIANCE, "x" * 63)
    site.issue(longest)
    assert handshake(site.folder, pem(site, longest), pem(site, ARRAY)) == (longest, ARRAY)


def test_who_has_a_certificate_gets_another_only_if_that_is_meant(site: Authority) -> None:
    (first,) = site.valid(ARRAY)
    before = pem(site, ARRAY).read_bytes()
    with pytest.raises(CertificateExistsError) as caught:
        site.issue(ARRAY)
    assert "--renew" in str(caught.value.hint)
    assert pem(site, ARRAY).read_bytes() == before
    second = site.issue(ARRAY, renew=True)
    assert {each.serial for each in site.valid(ARRAY)} == {first.serial, second.serial}
    assert {each.serial for each in site.revoke(ARRAY)} == {first.serial, second.serial}
    third = site.issue(ARRAY)
    assert site.valid(ARRAY) == [third]
    assert handshake(site.folder, pem(site, ARRAY), pem(site, RPA)) == (ARRAY, RPA)


def test_the_index_tells_states_also_when_identities_have_left(site: Authority) -> None:
    pem(site, ARRAY).unlink()
    pem(site, RPA).unlink()
    later_ns = utc_ns() + 10 * DAY_NS
    site.issue(ONE, 1)
    site.revoke(ARRAY)
    found = Authority.open(site.folder).certificates()
    assert [(str(each.identity), each.state(later_ns)) for each in found] == [
        ("appliance rpa-1", State.VALID),
        ("array array-1", State.REVOKED),
        ("array one", State.EXPIRED),
    ]
    with pytest.raises(NoCertificateError, match="no valid certificate of array array-1"):
        site.revoke(ARRAY)
    with pytest.raises(NoCertificateError):
        site.revoke(ONE, now_ns=later_ns)


def test_a_revocation_is_for_ever(site: Authority) -> None:
    site.revoke(ARRAY)
    (lost,) = (each for each in site.certificates() if each.identity == ARRAY)
    (site.folder / ISSUED / f"{lost.serial_text}.crt").unlink()  # the index does not matter for it
    site.revoke(RPA)
    site.issue(ONE)
    for bad in (ARRAY, RPA):
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
            handshake(site.folder, pem(site, ONE), pem(site, bad))
    found = x509.load_pem_x509_crl((site.folder / REVOKED).read_bytes())
    assert len(found) == 2
    assert found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3
    authority = x509.load_pem_x509_certificate((site.folder / AUTHORITY).read_bytes())
    assert found.next_update_utc == authority.not_valid_after_utc


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


def test_nothing_outlives_the_authority(tmp_path: Path) -> None:
    begin_ns = utc_ns()
    site = Authority.create(tmp_path / "pki", "site", now_ns=begin_ns)
    end_ns = site.issue(ARRAY, 30 * 365).not_after_ns
    authority = x509.load_pem_x509_certificate((site.folder / AUTHORITY).read_bytes())
    assert authority.not_valid_after_utc == datetime.fromtimestamp(end_ns // 1_000_000_000, UTC)
    assert end_ns - begin_ns > 20 * 365 * DAY_NS
    for change in (site.issue, site.revoke):
        with pytest.raises(AuthorityExpiredError):
            change(RPA, now_ns=end_ns)


def test_without_an_authority(tmp_path: Path) -> None:
    with pytest.raises(NoAuthorityError, match=r"authority\.crt is missing"):
        Authority.open(tmp_path / "absent")
    Authority.create(tmp_path / "pki", "site")
    before = (tmp_path / "pki" / AUTHORITY_KEY).read_bytes()
    with pytest.raises(AuthorityExistsError):
        Authority.create(tmp_path / "pki", "site")
    assert (tmp_path / "pki" / AUTHORITY_KEY).read_bytes() == before
    with pytest.raises(IdentityError):
        Authority.create(tmp_path / "other", "A Site")
    assert not (tmp_path / "other").exists()


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
