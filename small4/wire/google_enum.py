"""An answer that is one of some texts (Google's `text/x.enum`) as a regular expression, and back."""

import re
from collections.abc import Sequence

_SPECIAL = frozenset(r"\.+*?()|[]{}^$#&-~")


def enum_pattern(values: Sequence[str]) -> str:
    """The expression that matches these texts and no other."""
    return "|".join("".join(f"\\{c}" if c in _SPECIAL else c for c in value) for value in values)


def enum_values(pattern: str) -> list[str] | None:
    """The texts, or None if the expression is not one that `enum_pattern` made."""
    texts = re.findall(r"(?:[^\\|]|\\.)+", pattern, re.DOTALL)
    values = [re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) for text in texts]
    return values if values and enum_pattern(values) == pattern else None
