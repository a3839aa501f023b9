"""What this side proves to be, and whom it believes: the files of the site's authority (docs/pki.md)."""

import ssl
import stat
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from iscsi_rp.clock import utc_ns
from iscsi_rp.errors import ConfigError
from iscsi_rp.link.pki import AUTHORITY, REVOKED, Identity, identity_of
from iscsi_rp.units import format_duration

Signature = tuple[tuple[int, int, int], ...]
EXPIRES_SOON_S: Final = 30 * 86400.0
_HINT: Final = "`iscsi-rp pki issue` makes it, where the site's authority is; docs/pki.md says what to copy."


class Credentials:
    """What is copied into the folder counts from the next handshake on."""

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.identity = identity
        self._own = folder / identity.file_name
        self._authority = folder / AUTHORITY
        self._revoked = folder / REVOKED
        self._contexts: dict[tuple[bool, Signature], ssl.SSLContext] = {}
        "Of the files as they are, at most one for each side."

    def context(self, *, server: bool) -> ssl.SSLContext:
        """For a handshake: TLS 1.3 (RFC 8446), the peer has to have a certificate of the authority that is
        not revoked. Who it is, is for the caller to look at. Raises `ConfigError` that names the file.
        """
        key = server, self.signature()
        if key not in self._contexts:
            context = self._read(server)
            self._contexts = {kept: each for kept, each in self._contexts.items() if kept[1] == key[1]}
            self._contexts[key] = context
        return self._contexts[key]

    def _read(self, server: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # a certificate names a daemon, not where it listens
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_X509_STRICT
        if server:
            context.num_tickets = 0  # each connection proves itself anew
        for path in (self._own, self._authority, self._revoked):
            if not path.exists():
                raise ConfigError(f"{path} is missing", hint=_HINT)
        if stat.S_IMODE(self._own.stat().st_mode) & 0o077:
            raise ConfigError(f"{self._own} has a private key that others may read", hint="chmod 600 it.")
        for path, what, held in (
            (self._authority, "certificate", {"x509": 1, "x509_ca": 1, "crl": 0}),
            (self._revoked, "list", {"x509": 1, "x509_ca": 1, "crl": 1}),
        ):
            try:
                context.load_verify_locations(path)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"cannot use {path}: {error}", hint=_HINT) from error
            # OpenSSL believes every authority in either file: one beside the list would be believed, too.
            if context.cert_store_stats() != held:
                raise ConfigError(f"{path} does not hold one {what}, and nothing else", hint=_HINT)
        self._check()
        try:
            context.load_cert_chain(self._own, password="")  # without one OpenSSL asks at the terminal
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot use {self._own}: {error}", hint=_HINT) from error
        return context

    def _certificate(self) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self._own.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot use {self._own}: {error}", hint=_HINT) from error

    def _check(self) -> None:
        """With files of several authorities no handshake would succeed, and each would blame the peer."""
        certificate = self._certificate()
        found = identity_of(certificate)
        if found != self.identity:
            raise ConfigError(f"{self._own} is of {found or 'nobody'}, not of {self.identity}", hint=_HINT)
        path = self._own
        try:
            authority = x509.load_pem_x509_certificate(self._authority.read_bytes())
            certificate.verify_directly_issued_by(authority)
            path = self._revoked
            key = authority.public_key()
            revoked = x509.load_pem_x509_crl(path.read_bytes())
            is_ours = isinstance(key, ec.EllipticCurvePublicKey) and revoked.is_signature_valid(key)
        except (OSError, ValueError, TypeError, InvalidSignature):
            is_ours = False
        if not is_ours:
            raise ConfigError(f"{path} is not signed by {self._authority}", hint=_HINT)

    @property
    def expiry(self) -> str | None:
        """A warning when the own certificate has expired, or soon will have. Raises `ConfigError`."""
        end = self._certificate().not_valid_after_utc
        left_s = end.timestamp() - utc_ns() / 1e9
        if left_s > EXPIRES_SOON_S:
            return None
        when = f"expires in {format_duration(left_s)}" if left_s > 0 else "has expired"
        return f"the certificate of {self.identity} {when} ({end:%Y-%m-%d})"

    def signature(self) -> Signature:
        """Differs when a file, or who may read it, is another than before."""
        return tuple(_signature(path) for path in (self._own, self._authority, self._revoked))


def _signature(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_ctime_ns)
