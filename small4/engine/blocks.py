"""The pool of cache blocks: who holds which, by count.

A block is held by the sequences that list it in their tables; held by none it is free. A free block that still has
cached contents keeps them until it is handed out again, the one unused for longest first:

    free, empty  ->  free, cached (least recently released first)      the order of `take`
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable


class BlockPool:
    """Counts the holders of `num_blocks` blocks."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_holders = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self.on_take: Callable[[int], None] = lambda block: None  # hears of every block whose contents are given up

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks for one holder, or None and no change where so many are not free."""
        if count > len(self._free):
            return None
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self.num_holders[block] = 1
            self.on_take(block)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """One holder more for each block, free ones with contents included."""
        for block in blocks:
            self._free.pop(block, None)
            self.num_holders[block] += 1

    def release(self, blocks: Iterable[int], is_cached: Callable[[int], bool] = lambda block: False) -> None:
        """One holder less for each; a block without holders is free, and last in line if its contents are cached."""
        for block in blocks:
            assert self.num_holders[block] > 0, f"block {block} was released more often than taken"
            self.num_holders[block] -= 1
            if self.num_holders[block] == 0:
                self._free[block] = None
                if not is_cached(block):
                    self._free.move_to_end(block, last=False)
