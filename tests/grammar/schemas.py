"""Random JSON Schemas of the kinds that people send, and random answers under a mask."""

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from small4.grammar.matcher import Grammar
from small4.grammar.vocabulary import Vocabulary

FEATURES = {"allOf", "anyOf", "boolean", "bounds", "closed map", "const", "enum", "format", "lengths", "limits", "map"}
FEATURES |= {"multipleOf", "nested", "null", "oneOf", "optional", "pattern", "prefixItems", "recursive", "ref"}
FEATURES |= {"typeList"}
PATTERNS = (
    r"^[A-Z]{2}-\d{3,5}$",
    r"^(red|green|blue)( light)?$",
    r"^\w+@\w+\.(com|org)$",
    "[aeiou]{2}",
    r"^[^\s\"]{1,8}$",
    r"^é+[äöü]?$",
)
FORMATS = ("date", "date-time", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
NAMES = ("name", "age", "tags", "größe", "a b", 'quote"d', "x/y", "id", "items", "$value", "back\\slash")
_CLOSERS = (b'"', b"}", b"]", b":", b",", b"@", b".", b"a", b"1")  # what ends or advances a value, the best first
Times = list[tuple[float, float]]  # of the clock and of the processor
_MAX_FREE_TOKENS = 100  # then the first of them that is allowed is mostly taken


class SchemaSource:
    """Draws schemas from a seed and remembers in `features` what it used."""

    def __init__(self, seed: int) -> None:
        self.features: set[str] = set()
        self._random = random.Random(seed)
        self._definitions: dict[str, Any] = {}

    def draw(self) -> dict[str, Any]:
        """A schema whose root is mostly an object."""
        depth = self._random.choice((1, 2, 2, 3))
        root = self._object(depth) if self._random.random() < 0.8 else self._any(depth)
        return {**root, "$defs": self._definitions} if self._definitions else root

    def _any(self, depth: int) -> dict[str, Any]:
        leaves = (self._string, self._string, self._number, self._integer, self._choice, self._plain)
        inner: tuple[Callable[[int], dict[str, Any]], ...]
        inner = (
            self._object,
            self._array,
            self._union,
            self._one_of,
            self._reference,
            self._map,
            self._all_of,
            self._tree,
        )
        if depth <= 0:
            return self._random.choice(leaves)()
        draw = self._random.choice((*leaves, *inner, *inner))
        return draw(depth) if draw in inner else draw()  # type: ignore[call-arg, operator]

    def _use(self, feature: str, chance: float = 1.0) -> bool:
        used = self._random.random() < chance
        self.features |= {feature} if used else set()
        return used

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._random.sample(NAMES, self._random.randint(0, 5))
        schema: dict[str, Any] = {"type": "object", "properties": {name: self._any(depth - 1) for name in names}}
        schema["required"] = [name for name in names if not self._use("optional", 0.3)]
        if self._use("closed map", 0.7):
            schema["additionalProperties"] = False
        self.features |= {"nested"} if depth > 1 else set()
        return schema

    def _map(self, depth: int) -> dict[str, Any]:
        self._use("map")
        schema: dict[str, Any] = {"type": "object", "maxProperties": self._random.randint(1, 4)}
        if self._random.random() < 0.5:
            return schema | {"additionalProperties": self._any(depth - 1)}
        return schema | {"patternProperties": {"^k_[a-z]+$": self._any(depth - 1)}, "additionalProperties": False}

    def _array(self, depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "array", "items": self._any(depth - 1)}
        if self._use("limits", 0.7):
            schema["minItems"] = self._random.randint(0, 3)
            schema["maxItems"] = schema["minItems"] + self._random.randint(0, 4)
        elif self._use("prefixItems", 0.5):
            schema |= {"prefixItems": [self._any(depth - 1) for _ in range(2)], "items": False, "minItems": 2}
        return schema

    def _string(self) -> dict[str, Any]:
        if self._use("pattern", 0.3):
            return {"type": "string", "pattern": self._random.choice(PATTERNS)}
        if self._use("format", 0.3):
            return {"type": "string", "format": self._random.choice(FORMATS)}
        if self._use("lengths", 0.5):
            low = self._random.randint(0, 6)
            return {"type": "string", "minLength": low, "maxLength": low + self._random.randint(0, 20)}
        return {"type": "string"}

    def _integer(self) -> dict[str, Any]:
        low = self._random.choice((-1000, -7, 0, 1, 18, 10**6))
        if self._use("multipleOf", 0.3):
            return {"type": "integer", "multipleOf": self._random.choice((2, 5, 7, 10))}
        bounds = {"minimum": low, "exclusiveMaximum": low + self._random.choice((1, 9, 10**4))}
        return {"type": "integer", **(bounds if self._use("bounds", 0.7) else {})}

    def _number(self) -> dict[str, Any]:
        low = self._random.choice((-3.5, 0, 0.001, 99.9))
        bounds = {
            self._random.choice(("minimum", "exclusiveMinimum")): low,
            "maximum": low + self._random.choice((0.5, 1000)),
        }
        return {"type": "number", **(bounds if self._use("bounds", 0.7) else {})}

    def _choice(self) -> dict[str, Any]:
        values = ["a", "B b", 'ü\n"', 1, -2.5, True, None, {"k": [1]}, []]
        if self._use("const", 0.3):
            return {"const": self._random.choice(values)}
        self._use("enum")
        return {"enum": self._random.sample(values, self._random.randint(1, 5))}

    def _plain(self) -> dict[str, Any]:
        if self._use("typeList", 0.4):
            return {"type": ["string", "null"], "maxLength": 5}
        kind = self._random.choice(("boolean", "null"))
        self._use(kind)
        return {"type": kind}

    def _union(self, depth: int) -> dict[str, Any]:
        self._use("anyOf")
        return {"anyOf": [self._any(depth - 1) for _ in range(self._random.randint(1, 3))]}

    def _one_of(self, depth: int) -> dict[str, Any]:
        """Alternatives that exclude each other by type or by a property that names the kind."""
        self._use("oneOf")
        if self._random.random() < 0.5:
            return {"oneOf": [self._string(), self._integer(), {"type": "null"}]}
        kinds = [{"kind": {"const": kind}, "value": self._any(depth - 1)} for kind in ("circle", "square", "line")]
        return {"oneOf": [{"type": "object", "properties": kind, "required": ["kind", "value"]} for kind in kinds]}

    def _all_of(self, depth: int) -> dict[str, Any]:
        self._use("allOf")
        return {
            "allOf": [
                {"type": "object", "properties": {"p": self._string()}, "required": ["p"]},
                {"properties": {"q": self._integer()}},
            ]
        }

    def _reference(self, depth: int) -> dict[str, Any]:
        self._use("ref")
        name = f"part {len(self._definitions)}"
        self._definitions[name] = True
        self._definitions[name] = self._any(depth - 1)
        return {"$ref": f"#/$defs/{name.replace(' ', '%20')}"}

    def _tree(self, depth: int) -> dict[str, Any]:
        self._use("recursive")
        node = {"value": self._integer(), "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}
        self._definitions["node"] = {
            "type": "object",
            "properties": node,
            "required": ["value"],
            "additionalProperties": False,
        }
        return {"$ref": "#/$defs/node"}


def draw_answer(grammar: Grammar, vocabulary: Vocabulary, seed: int, times: Times | None = None) -> list[int]:
    """Tokens drawn at random among the allowed ones, with an inclination to come to an end; </s> left out.

    Appends to `times` the seconds that each mask took. For grammars without a thought.
    """
    matcher, choose = grammar.matcher(), random.Random(seed)
    masks = np.zeros((1, vocabulary.num_words), np.int32)
    closers = [vocabulary.pieces.index(piece) for piece in _CLOSERS]
    answer: list[int] = []
    while True:
        start = time.perf_counter(), time.thread_time()
        matcher.fill_mask(masks, 0)
        if times is not None:
            times.append((time.perf_counter() - start[0], time.thread_time() - start[1]))
        if is_allowed(masks[0], vocabulary.eos):
            return answer
        closing = [token_id for token_id in closers if is_allowed(masks[0], token_id)]
        if closing and len(answer) >= _MAX_FREE_TOKENS and choose.random() < 0.8:
            token_id = closing[0]
        elif closing and choose.random() < 0.5:
            token_id = choose.choice(closing)
        else:
            token_id = choose.choice(allowed_ids(masks[0]))
        matcher.accept(token_id)
        answer.append(token_id)


def allowed_ids(mask: np.ndarray) -> list[int]:
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return np.flatnonzero(bits).tolist()


def is_allowed(mask: np.ndarray, token_id: int) -> bool:
    return bool(int(mask.view(np.uint32)[token_id // 32]) >> token_id % 32 & 1)


def text_of(vocabulary: Vocabulary, token_ids: list[int]) -> str:
    """The answer's text; fails on bytes that are no UTF-8."""
    return b"".join(vocabulary.pieces[token_id] for token_id in token_ids).decode("utf-8")
