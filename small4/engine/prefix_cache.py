"""Which blocks hold the beginning of a prompt, found by a chain of hashes.

    key_0 = H(salt, images)          key_i = H(key_{i-1}, tokens of block i)

A key thus stands for all tokens up to the end of its block, and two sequences share a block only if everything before
it is equal too. Sequences of different salts never share: callers are kept apart by a salt derived from their key.
"""

import hashlib
from array import array
from collections.abc import Sequence

from small4.engine.blocks import BlockPool


class PrefixCache:
    """Finds and keeps full blocks by their keys; the pool says when a block's contents go."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        pool.on_take = self.forget

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """Blocks of the longest known run of keys, from the first; not yet shared."""
        blocks = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def keep(self, key: bytes, block: int) -> None:
        """Let a full, computed block be found; the first block of equal contents stays the one."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key], self._key_of[block] = block, key

    def forget(self, block: int) -> None:
        """The block's contents are given up."""
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]

    def is_cached(self, block: int) -> bool:
        return block in self._key_of

    def clear(self) -> None:
        """Forget everything; blocks stay with their holders."""
        self._block_of.clear()
        self._key_of.clear()


def root_key(salt: bytes, image_digests: Sequence[bytes] = ()) -> bytes:
    """The key that a chain begins with."""
    parts = [salt, *image_digests]
    return _digest(b"".join(len(part).to_bytes(8, "little") + part for part in parts))


def extend_keys(keys: list[bytes], root: bytes, tokens: Sequence[int], block_size: int) -> None:
    """Append to `keys` those of the full blocks of `tokens` that are still missing."""
    for start in range(len(keys) * block_size, len(tokens) - block_size + 1, block_size):
        contents = array("q", tokens[start : start + block_size]).tobytes()
        keys.append(_digest((keys[-1] if keys else root) + contents))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
