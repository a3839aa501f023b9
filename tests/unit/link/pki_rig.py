"""A site's authority, and TLS handshakes by its files."""

import contextlib
import ssl
from pathlib import Path
from typing import Final

from iscsi_rp.link.pki import AUTHORITY, REVOKED, Authority, Identity, Role, identity_in

ARRAY: Final = Identity(Role.ARRAY, "array-1")
RPA: Final = Identity(Role.APPLIANCE, "rpa-1")
MINUTE_NS: Final = 60_000_000_000
DAY_NS: Final = 86_400_000_000_000


def make_site(folder: Path) -> Authority:
    """With a certificate of each role."""
    authority = Authority.create(folder, "site")
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
