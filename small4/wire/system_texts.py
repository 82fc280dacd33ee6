"""System texts at places where the model's template has none for them.

Clients put them anywhere; the template takes them at the start and after a user, if somebody speaks after them. The
others are said by the user instead: what they say is kept, and where they stand.
"""

from collections.abc import Sequence
from dataclasses import replace

from small4.chat import Message


def place_system_texts(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with every system text at a place that the template has."""
    placed: list[Message] = []
    for index, message in enumerate(messages):
        is_last = index == len(messages) - 1
        if message.role == "system" and (is_last or (placed and placed[-1].role not in ("system", "user"))):
            message = replace(message, role="user")
        placed.append(message)
    return tuple(placed)
