"""The budget of a thought: how the block that the model thinks in is closed for it.

Applied to every token that is drawn, in order, and gives the one that is really emitted: inside the block, once the
budget is spent, that is the closing token, whatever was drawn. Tokens of all blocks of an answer count together.
"""

from small4.errors import SamplingError


class ThoughtLimit:
    """Closes the thought of one sequence after `budget` tokens, or at once on `close_now`; None: no budget.

    `is_open` says that the prompt ends inside a thought.
    """

    def __init__(self, budget: int | None, open_id: int, close_id: int, *, is_open: bool = False) -> None:
        if budget is not None and budget < 0:
            raise SamplingError(f"thinking budget is {budget}; it must be 0 or more tokens")
        self.budget, self.open_id, self.close_id = budget, open_id, close_id
        self.is_open, self.used = is_open, 0

    @property
    def is_spent(self) -> bool:
        """Whether the thought may have no further token."""
        return self.budget is not None and self.used >= self.budget

    def close_now(self) -> None:
        """Answer now: an open thought ends with the next token, and a later one gets no tokens. From any thread."""
        self.budget = self.used

    def apply(self, token_id: int) -> int:
        """The token that is really emitted where `token_id` was drawn."""
        if self.is_open and self.is_spent:
            token_id = self.close_id
        if token_id in (self.open_id, self.close_id):
            self.is_open = token_id == self.open_id
        elif self.is_open:
            self.used += 1
        return token_id
