"""Authentication of a login: CHAP, or none (RFC 1994; RFC 7143 9.2.1, 12.1).

The initiator offers methods, then algorithms; we send a challenge; it answers, and may challenge us in the
same breath. We answer only who has proven itself: else anybody could have us compute what proves us.
"""

import binascii
import hashlib
import hmac
from collections.abc import Callable
from typing import Final, NamedTuple

from iscsi_rp.iscsi.access import Chap, InitiatorAccess
from iscsi_rp.iscsi.keys import parse_number
from iscsi_rp.iscsi.pdu import ProtocolError
from iscsi_rp.iscsi.text import Pairs

SECURITY_KEYS: Final = frozenset({"AuthMethod", "CHAP_A", "CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"})
_PROOF: Final = frozenset({"CHAP_N", "CHAP_R"})
_PROOF_AND_CHALLENGE: Final = _PROOF | {"CHAP_I", "CHAP_C"}

CHALLENGE_BYTES: Final = 32
_BINARY_BYTES: Final = 1024
"The longest binary value (RFC 7143 12.1.3)."


class _Algorithm(NamedTuple):
    title: str
    hashlib_name: str


ALGORITHMS: Final = {
    "5": _Algorithm("MD5", "md5"),
    "6": _Algorithm("SHA-1", "sha1"),
    "7": _Algorithm("SHA-256", "sha256"),
    "8": _Algorithm("SHA3-256", "sha3_256"),
}
"By their numbers in CHAP_A."


class AuthenticationError(ProtocolError):
    """The initiator did not prove who it is."""


class Authentication:
    """What one login has to prove, and how far it is. Every error is an `AuthenticationError`, after which
    the login is over.
    """

    def __init__(
        self, access: InitiatorAccess, random_bytes: Callable[[int], bytes], *, required: bool = True
    ) -> None:
        """Not `required`: the initiator, which has credentials, may do without a proof."""
        self._access, self._random_bytes = access, random_bytes
        if access.chap is None:
            self._methods = ["None"]
        else:
            self._methods = ["CHAP"] if required else ["CHAP", "None"]
        self._offered = False
        self._algorithm: _Algorithm | None = None
        self._identifier = 0
        self._challenge = b""
        self.passed = "None" in self._methods
        "The initiator may leave the security stage."
        self.title = "none"
        'How it was done: "none", "CHAP MD5", "CHAP SHA-256, mutual".'

    def receive(self, keys: dict[str, str]) -> Pairs:
        """The answers to the security keys of one request."""
        names = frozenset(keys)
        if names == {"AuthMethod"} and not self._offered:
            self._offered = True
            return self._choose_method(keys["AuthMethod"].split(","))
        chap = self._access.chap
        if chap is not None and self._offered and not self.passed:
            if names == {"CHAP_A"} and self._algorithm is None:
                return self._send_challenge(keys["CHAP_A"].split(","))
            if names in (_PROOF, _PROOF_AND_CHALLENGE) and self._algorithm is not None:
                return self._check(chap, self._algorithm, keys)
        raise AuthenticationError("The keys of the authentication are out of order.")

    def _choose_method(self, offered: list[str]) -> Pairs:
        """The first of the initiator's list that may be (RFC 7143 6.2.1)."""
        method = next((method for method in offered if method in self._methods), None)
        if method is None:
            raise AuthenticationError("No common authentication method.")
        self.passed = method == "None"
        return [("AuthMethod", method)]

    def _send_challenge(self, offered: list[str]) -> Pairs:
        """By the first algorithm of the initiator's list that we know."""
        number = next((number for number in offered if number in ALGORITHMS), None)
        if number is None:
            raise AuthenticationError("No common CHAP algorithm.")
        self._algorithm = ALGORITHMS[number]
        self._identifier = self._random_bytes(1)[0]
        self._challenge = self._random_bytes(CHALLENGE_BYTES)
        challenge = encode_binary(self._challenge)
        return [("CHAP_A", number), ("CHAP_I", str(self._identifier)), ("CHAP_C", challenge)]

    def _check(self, chap: Chap, algorithm: _Algorithm, keys: dict[str, str]) -> Pairs:
        given = decode_binary(keys["CHAP_R"])
        right = _response(algorithm, self._identifier, chap.secret, self._challenge)
        # Both are compared whatever the first gives: the time tells nobody whether it was the user's name.
        is_user = hmac.compare_digest(keys["CHAP_N"].encode(), chap.user.encode())
        if not hmac.compare_digest(given, right) or not is_user:
            raise AuthenticationError("The CHAP user or response is wrong.")
        answers = self._prove(algorithm, keys) if "CHAP_C" in keys else []
        self.passed = True
        self.title = f"CHAP {algorithm.title}" + (", mutual" if answers else "")
        return answers

    def _prove(self, algorithm: _Algorithm, keys: dict[str, str]) -> Pairs:
        """Our response to the initiator's challenge."""
        ours = self._access.mutual
        identifier = parse_number(keys["CHAP_I"], 0, 255)
        challenge = decode_binary(keys["CHAP_C"])
        if ours is None or identifier is None:
            raise AuthenticationError("The target cannot prove itself to this initiator.")
        if hmac.compare_digest(challenge, self._challenge):
            raise AuthenticationError("The initiator sent our own challenge back.")
        response = _response(algorithm, identifier, ours.secret, challenge)
        return [("CHAP_N", ours.user), ("CHAP_R", encode_binary(response))]


def _response(algorithm: _Algorithm, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    message = bytes([identifier]) + secret + challenge
    # A host in FIPS mode has MD5 only so, and many initiators speak nothing else.
    return hashlib.new(algorithm.hashlib_name, message, usedforsecurity=False).digest()


def encode_binary(data: bytes) -> str:
    return "0x" + data.hex()


def decode_binary(value: str) -> bytes:
    """A binary value, hexadecimal or base64 (RFC 7143 6.1), of 1 to 1024 bytes. Raises
    `AuthenticationError`.
    """
    prefix, digits = value[:2].lower(), value[2:]
    try:
        if prefix == "0x":
            data = binascii.unhexlify(digits)
        elif prefix == "0b":
            data = binascii.a2b_base64(digits, strict_mode=True)
        else:
            data = b""
    except ValueError:
        data = b""
    if not 0 < len(data) <= _BINARY_BYTES:
        raise AuthenticationError("This is no binary value, or an empty one, or too long.")
    return data
