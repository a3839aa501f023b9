"""The site's own certificate authority: a folder of files, by which array and appliance know each other.

docs/pki.md has the files and their formats. Who a certificate is of stands in its subject alternative name,
as `urn:iscsi-rp:ROLE:NAME`; its subject is for people.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from iscsi_rp.clock import utc_ns
from iscsi_rp.errors import ConflictError, NotFoundError, UsageError
from iscsi_rp.link import certificates as signed
from iscsi_rp.link.certificates import Key, key_pem, pem
from iscsi_rp.link.pki_files import DamagedFileError, locked, make_folder, read, typed, undamaged, write
from iscsi_rp.units import format_time

AUTHORITY: Final = "authority.crt"
AUTHORITY_KEY: Final = "authority.key"
REVOKED: Final = "revoked.crl"
ISSUED: Final = "issued"
VALIDITY_DAYS: Final = 825

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_URI: Final = re.compile(rf"urn:iscsi-rp:(array|appliance):({_NAME.pattern})")
_PRIVATE, _PUBLIC = 0o600, 0o644
_NS_PER_S: Final = 1_000_000_000


class IdentityError(UsageError):
    """This is not a name."""


class NoAuthorityError(NotFoundError):
    """There is no certificate authority here."""

    hint = "The authority of a site is in one folder, on the machine where `iscsi-rp pki init` made it."


class AuthorityExistsError(ConflictError):
    """There is a certificate authority here already."""

    hint = "The folder is an authority's, or of a machine that uses certificates. Nothing was changed."


class AuthorityExpiredError(ConflictError):
    """The authority has expired, and can issue and revoke nothing."""

    hint = "Make a new authority in another folder, and issue new certificates to all machines of the site."


class CertificateExistsError(ConflictError):
    """There is a valid certificate of that name already."""

    hint = (
        "--renew issues another one. The old one stays valid until it expires; `iscsi-rp pki revoke` revokes"
        " all that there are of the name."
    )


class NoCertificateError(NotFoundError):
    """There is no valid certificate of that name."""

    hint = "`iscsi-rp pki list` shows what was issued."


class Role(StrEnum):
    ARRAY = "array"
    APPLIANCE = "appliance"


@dataclass(frozen=True, slots=True)
class Identity:
    role: Role
    name: str

    def __post_init__(self) -> None:
        """Raises IdentityError."""
        _check_name(self.name)

    @property
    def uri(self) -> str:
        return f"urn:iscsi-rp:{self.role.value}:{self.name}"

    @property
    def file_name(self) -> str:
        return f"{self.role.value}-{self.name}.pem"

    def __str__(self) -> str:
        return f"{self.role.value} {self.name}"


def _check_name(text: str) -> None:
    if not _NAME.fullmatch(text):
        raise IdentityError(
            f"{text!r} is not a name: at most 63 of a-z 0-9 . _ -, the first a letter or a digit"
        )


def identity_in(certificate: Mapping[str, object]) -> Identity | None:
    """Who a peer is, by `ssl.SSLSocket.getpeercert()`. None: it has no URI, more than one, or another one."""
    names: Any = certificate.get("subjectAltName", ())
    return _identity([value for kind, value in names if kind == "URI"])


def identity_of(certificate: x509.Certificate) -> Identity | None:
    """The same, of a certificate in a file."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return None
    return _identity(names.get_values_for_type(x509.UniformResourceIdentifier))


def _identity(uris: list[str]) -> Identity | None:
    match = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    return Identity(Role(match[1]), match[2]) if match else None


class State(StrEnum):
    VALID = "valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that the authority has issued. Times are nanoseconds since 1970 UTC."""

    identity: Identity
    serial: int
    not_before_ns: int
    not_after_ns: int
    revoked_ns: int | None

    @property
    def serial_text(self) -> str:
        """40 hexadecimal digits, as in the name of its file in the index."""
        return f"{self.serial:040X}"

    def state(self, now_ns: int) -> State:
        if self.revoked_ns is not None:
            return State.REVOKED
        return State.VALID if now_ns < self.not_after_ns else State.EXPIRED


class Authority:
    """Changes are made by one process at a time. Methods raise PkiFileError and DamagedFileError, which name
    the file. `now_ns` is for tests.
    """

    def __init__(self, folder: Path, key: Key, certificate: x509.Certificate) -> None:
        self.folder = folder
        self._key = key
        self._certificate = certificate

    @classmethod
    def create(cls, folder: Path, site_name: str, *, now_ns: int | None = None) -> Self:
        """Raises AuthorityExistsError, IdentityError."""
        _check_name(site_name)
        make_folder(folder)
        now = _datetime(now_ns)
        with locked(folder):
            with typed(f"cannot read {folder}"):
                there = [name for name in (AUTHORITY, AUTHORITY_KEY, REVOKED) if (folder / name).exists()]
            if there:
                raise AuthorityExistsError(
                    f"{folder} has {' and '.join(there)} already",
                    hint=None
                    if AUTHORITY in there
                    else "If there never was an authority.crt, an `init` that was"
                    " interrupted left this: then remove it.",
                )
            make_folder(folder / ISSUED)
            key = signed.new_key()
            certificate = signed.sign_authority(key, f"iscsi-rp {site_name}", now)
            nothing = signed.sign_revoked(key, certificate, [], 1, now)
            write(
                (folder / AUTHORITY_KEY, key_pem(key), _PRIVATE),
                (folder / REVOKED, pem(nothing), _PUBLIC),
                (folder / AUTHORITY, pem(certificate), _PUBLIC),
            )
        return cls(folder, key, certificate)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises NoAuthorityError."""
        for name in (AUTHORITY, AUTHORITY_KEY):
            with typed(f"cannot read {folder}"):
                there = (folder / name).exists()
            if not there:
                raise NoAuthorityError(f"there is no certificate authority in {folder}: {name} is missing")
        certificate = _load(folder / AUTHORITY, None)
        path = folder / AUTHORITY_KEY
        with undamaged(path):
            key = serialization.load_pem_private_key(read(path), password=None)
            matches = key.public_key() == certificate.public_key()
        if not matches or not isinstance(key, Key):
            raise DamagedFileError(f"{path} is not the key of {folder / AUTHORITY}")
        return cls(folder, key, certificate)

    def certificates(self) -> list[Issued]:
        """All that were issued, by identity and age."""
        revoked = {entry.serial_number: _ns(entry.revocation_date_utc) for entry in self._revoked()}
        folder = self.folder / ISSUED
        with typed(f"cannot read {folder}"):
            paths = [folder / name for name in os.listdir(folder) if name.endswith(".crt")]
        issued = [self._issued(path, revoked) for path in paths]
        return sorted(issued, key=lambda each: (str(each.identity), each.not_before_ns, each.serial))

    def valid(self, identity: Identity, *, now_ns: int | None = None) -> list[Issued]:
        """Those of `identity` that are neither revoked nor expired."""
        now_ns = utc_ns() if now_ns is None else now_ns
        mine = [each for each in self.certificates() if each.identity == identity]
        return [each for each in mine if each.state(now_ns) is State.VALID]

    def issue(
        self,
        identity: Identity,
        days: int = VALIDITY_DAYS,
        *,
        renew: bool = False,
        now_ns: int | None = None,
    ) -> Issued:
        """A new key and certificate in `identity.file_name`, for `days`, or until the authority expires.

        Raises CertificateExistsError, unless `renew`; AuthorityExpiredError.
        """
        now = _datetime(now_ns)
        end = min(now + timedelta(days=days), self._end(now))
        with locked(self.folder):
            if not renew and (there := self.valid(identity, now_ns=now_ns)):
                until = format_time(there[-1].not_after_ns)
                raise CertificateExistsError(f"there is a certificate of {identity}, valid until {until}")
            key = signed.new_key()
            certificate = signed.sign(
                self._key, self._certificate, key.public_key(), str(identity), identity.uri, now, end
            )
            issued = _describe(certificate, identity, None)
            # The index comes first: a certificate that it did not have could not be revoked.
            write(
                (self.folder / ISSUED / f"{issued.serial_text}.crt", pem(certificate), _PUBLIC),
                (self.folder / identity.file_name, key_pem(key) + pem(certificate), _PRIVATE),
            )
        return issued

    def revoke(self, identity: Identity, *, now_ns: int | None = None) -> list[Issued]:
        """Revoke every valid certificate of it; these are returned.

        Raises NoCertificateError, AuthorityExpiredError.
        """
        now = _datetime(now_ns)
        self._end(now)
        with locked(self.folder):
            lost = self.valid(identity, now_ns=now_ns)
            if not lost:
                raise NoCertificateError(f"there is no valid certificate of {identity}")
            before = self._revoked()
            number = before.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
            entries = [*before, *(signed.revoked_entry(each.serial, now) for each in lost)]
            after = signed.sign_revoked(self._key, self._certificate, entries, number + 1, now)
            write((self.folder / REVOKED, pem(after), _PUBLIC))
        return lost

    def _end(self, now: datetime) -> datetime:
        end = self._certificate.not_valid_after_utc
        if end <= now:
            raise AuthorityExpiredError(f"the authority in {self.folder} has expired on {end:%Y-%m-%d}")
        return end

    def _revoked(self) -> x509.CertificateRevocationList:
        """The only record of what is revoked: without it nothing is listed, issued or revoked."""
        path = self.folder / REVOKED
        with undamaged(path):
            found = x509.load_pem_x509_crl(read(path))
            is_ours = found.is_signature_valid(self._key.public_key())
        if not is_ours:
            raise DamagedFileError(f"{path} is damaged: it is not signed by the authority")
        return found

    def _issued(self, path: Path, revoked: Mapping[int, int]) -> Issued:
        certificate = _load(path, self._certificate)
        identity = identity_of(certificate)
        if identity is None:
            raise DamagedFileError(f"{path} is damaged: it is not of an array or appliance")
        return _describe(certificate, identity, revoked.get(certificate.serial_number))


def _load(path: Path, authority: x509.Certificate | None) -> x509.Certificate:
    """A certificate that `authority` has signed, or with None itself."""
    with undamaged(path):
        certificate = x509.load_pem_x509_certificate(read(path))
        certificate.verify_directly_issued_by(authority or certificate)
    return certificate


def _describe(certificate: x509.Certificate, identity: Identity, revoked_ns: int | None) -> Issued:
    begin, end = _ns(certificate.not_valid_before_utc), _ns(certificate.not_valid_after_utc)
    return Issued(identity, certificate.serial_number, begin, end, revoked_ns)


def _datetime(time_ns: int | None) -> datetime:
    """Whole seconds, as certificates have them (RFC 5280 4.1.2.5)."""
    return datetime.fromtimestamp((utc_ns() if time_ns is None else time_ns) // _NS_PER_S, UTC)


def _ns(time: datetime) -> int:
    return int(time.timestamp()) * _NS_PER_S
