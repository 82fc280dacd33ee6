"""What the grammar has to know of a tokenizer, as plain data, and llguidance's form of it."""

import json
from dataclasses import asdict, dataclass
from typing import Protocol

from llguidance import LLTokenizer, TokenizerWrapper

TokenId = int


class Controls(Protocol):
    """The control tokens that shape an answer."""

    @property
    def bos(self) -> int: ...
    @property
    def eos(self) -> int: ...
    @property
    def think(self) -> int: ...
    @property
    def end_think(self) -> int: ...
    @property
    def tool_calls(self) -> int: ...
    @property
    def args(self) -> int: ...


class TokenSource(Protocol):
    """A tokenizer, as far as it is asked; `Tokenizer` has these."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def num_special_tokens(self) -> int: ...
    @property
    def control(self) -> Controls: ...
    def token_bytes(self, token_id: int) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The bytes of every piece by id; the first `num_special_tokens` ids are control tokens, whose bytes are empty."""

    pieces: tuple[bytes, ...]
    num_special_tokens: int
    bos: TokenId
    eos: TokenId
    think: TokenId
    end_think: TokenId
    tool_calls: TokenId
    args: TokenId

    @classmethod
    def of(cls, tokenizer: TokenSource) -> "Vocabulary":
        """The vocabulary of a tokenizer; takes 0.3 s for 131,072 ids."""
        control, num_special = tokenizer.control, tokenizer.num_special_tokens
        pieces = [tokenizer.token_bytes(token_id) for token_id in range(num_special, tokenizer.vocab_size)]
        return cls(
            pieces=(*([b""] * num_special), *pieces),
            num_special_tokens=num_special,
            bos=control.bos,
            eos=control.eos,
            think=control.think,
            end_think=control.end_think,
            tool_calls=control.tool_calls,
            args=control.args,
        )

    @property
    def num_words(self) -> int:
        """Width of a mask: 32-bit words that hold one bit per id."""
        return (len(self.pieces) + 31) // 32

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads; bytes stand as the characters of their values."""
        return json.dumps({**asdict(self), "pieces": [piece.decode("latin-1") for piece in self.pieces]})

    @classmethod
    def from_json(cls, text: str | bytes) -> "Vocabulary":
        fields = json.loads(text)
        return cls(**{**fields, "pieces": tuple(piece.encode("latin-1") for piece in fields["pieces"])})


def load_tokenizer(vocabulary: Vocabulary) -> LLTokenizer:
    """llguidance's prefix tree of the pieces; takes 0.7 s for 131,072 ids."""
    pieces = _Pieces(vocabulary)
    pieces.tree = LLTokenizer(pieces)
    return pieces.tree


class _Pieces(TokenizerWrapper):
    """What `LLTokenizer` reads. It does not call the parent's `__init__`, which wants a tokenizer of text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        num_special = vocabulary.num_special_tokens
        names = [b"<SPECIAL_%d>" % token_id for token_id in range(num_special)]
        self.tokens = [*names, *vocabulary.pieces[num_special:]]
        self.special_token_ids = list(range(num_special))
        self.bos_token_id = vocabulary.bos
        self.eos_token_id = vocabulary.eos
        self.is_tokenizer_wrapper = True
        self.tree: LLTokenizer | None = None

    def __call__(self, text: str) -> list[TokenId]:
        # Asked only to choose among spellings of forced text, which our grammars leave to the model.
        return [] if self.tree is None else self.tree.greedy_tokenize(text)
