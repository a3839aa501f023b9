"""The authority: who gets through a TLS handshake by it, and what it issues and revokes."""

import os
import shutil
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
from tests.unit.link.interrupted_pki import ONE
from tests.unit.link.pki_rig import ARRAY, DAY_NS, MINUTE_NS, RPA, handshake, make_site, pem


@pytest.fixture
def site(tmp_path: Path) -> Authority:
    return make_site(tmp_path / "pki")


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
