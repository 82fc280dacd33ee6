"""What this instance encrypts, for its clients to keep or on its own disk, with keys derived from a secret.

Every purpose has a key of its own, so that nothing made for one can be used for another. What was made for one caller
is nothing in the hands of another.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from os import urandom

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

NONCE_BYTES = 12
VERSION = b"\x02"  # 1 was bound to no caller


def derived_key(secret: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose."""
    return HKDFExpand(SHA256(), 32, b"small4 " + purpose.encode()).derive(secret)


class Seal:
    """Encrypts texts with AES-256-GCM for one owner: a caller's thoughts that come back, or one provider's key."""

    def __init__(self, key: bytes, owner: str) -> None:
        self._cipher = AESGCM(key)
        self._bound = VERSION + owner.encode()

    def seal(self, text: str) -> str:
        """The text, encrypted and authenticated, as base64."""
        nonce = urandom(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, text.encode("utf-8", "surrogatepass"), self._bound)
        return urlsafe_b64encode(VERSION + nonce + sealed).decode()

    def open(self, sealed: str) -> str | None:
        """The text that was sealed; None where the seal is not ours, is another owner's, or was broken."""
        try:
            data = urlsafe_b64decode(sealed.encode("ascii"))
            version, nonce, rest = data[:1], data[1 : 1 + NONCE_BYTES], data[1 + NONCE_BYTES :]
            if version != VERSION:
                return None
            return self._cipher.decrypt(nonce, rest, self._bound).decode("utf-8", "surrogatepass")
        except (InvalidTag, Base64Error, UnicodeError, ValueError):
            return None
