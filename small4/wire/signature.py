"""Signatures of thoughts: what a client sends back as the model's reasoning must be what the model wrote.

Anthropic's dialect carries them. A signature is an HMAC of the thought with a key of the instance: it keeps nothing
secret, and a thought that was changed on the way is left out of the conversation.
"""

import hmac
from base64 import b64encode
from dataclasses import dataclass, field

_PURPOSE = b"small4 thought\0"  # the key may sign other things too


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs thoughts with the instance's key, at least 16 bytes."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        assert len(self.key) >= 16

    def sign(self, text: str) -> str:
        """The signature, as base64 text."""
        return b64encode(hmac.digest(self.key, _PURPOSE + text.encode("utf-8", "surrogatepass"), "sha256")).decode()

    def verifies(self, text: str, signature: str) -> bool:
        """Whether this is the signature of that text; compared in constant time."""
        return hmac.compare_digest(self.sign(text).encode(), signature.encode("utf-8", "surrogatepass"))
