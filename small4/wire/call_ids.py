"""Tool call ids as the model family writes them: nine letters and digits.

Other vendors' ids (`call_...`, `toolu_...`) become such ids before a conversation is templated: always the same for the
same id, so that calls still find their results and a conversation that grows keeps its prefix.
"""

from hashlib import sha256
from string import ascii_letters, digits

from small4.errors import FieldError

LENGTH = 9
_ALPHABET = digits + ascii_letters
_CHARACTERS = frozenset(_ALPHABET)


def native_id(call_id: str | None, param: str) -> str:
    """The id itself if it is native, else the nine characters that stand for it; `param` is the path of its field."""
    if not call_id or call_id == "null":
        raise FieldError(f"{param}: a tool call id is missing; give the call and its result the same id", param)
    if is_native(call_id):
        return call_id
    number = int.from_bytes(sha256(call_id.encode("utf-8", "surrogatepass")).digest())
    characters = []
    for _ in range(LENGTH):
        number, place = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[place])
    return "".join(characters)


def is_native(call_id: str) -> bool:
    """Whether the model family itself could have written this id."""
    return len(call_id) == LENGTH and _CHARACTERS.issuperset(call_id)
