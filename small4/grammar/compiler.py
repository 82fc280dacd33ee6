"""Constraints to grammars: checked, tried in the helper, compiled here, and kept.

llguidance's compiled form cannot leave its process. So the helper compiles for the verdict alone; what it finds
good is compiled again here, at a cost that is then known to lie within the limits.
"""

import threading
from collections import OrderedDict
from types import TracebackType

from llguidance import LLMatcher

from small4.errors import GrammarError, SchemaError
from small4.grammar.constraint import Constraint, Thinking, check_constraint, grammar_text
from small4.grammar.helper import parser_limits
from small4.grammar.limits import GrammarLimits
from small4.grammar.matcher import Grammar
from small4.grammar.trial import Trial
from small4.grammar.vocabulary import Vocabulary, load_tokenizer

# What a compiled grammar takes, estimated from its text: 34 to 210 bytes per character were seen, over a base.
_BYTES_PER_CHARACTER = 200
_BASE_BYTES = 50_000
_MESSAGES = {  # of llguidance, with what to do about it
    "oneOf constraints are not supported": (
        "the schema uses the keyword 'oneOf' with alternatives that may overlap, which cannot be enforced; "
        "use anyOf, or give the alternatives different types or a required property with different const"
    ),
    "min/maxProperties only supported": (
        "the schema uses the keyword 'minProperties' or 'maxProperties' beside optional properties, which cannot be "
        "enforced; make every property required"
    ),
    "NoExtension": "no answer satisfies the constraint; loosen it",
    "patternProperty regexes": (
        "the schema uses the keyword 'patternProperties' with patterns that may overlap, which cannot be enforced; "
        "make them exclude each other"
    ),
}


class Compiler:
    """Compiles constraints for one vocabulary. Safe to call from several threads; a call may take seconds."""

    def __init__(self, vocabulary: Vocabulary, limits: GrammarLimits | None = None) -> None:
        self.vocabulary = vocabulary
        self.limits = limits or GrammarLimits()
        self.trial = Trial(vocabulary, self.limits)
        self._tokenizer = load_tokenizer(vocabulary)
        self._cache = _Cache(self.limits)

    def compile(self, constraint: Constraint, *, thinking: Thinking = "allowed") -> Grammar:
        """The grammar of a constraint; one that is malformed, unsupported or too costly is a `GrammarError`."""
        check_constraint(constraint, self.limits)
        text = grammar_text(constraint, self.vocabulary, thinking)
        found = self._cache.get(text)
        if found is None:
            # Tried without the thought, which could hide that no answer follows it.
            found = self._compile(text, grammar_text(constraint, self.vocabulary, "none"))
            self._cache.put(text, found)
        if isinstance(found, GrammarError):
            raise type(found)(*found.args)
        return found

    def close(self) -> None:
        """Ends the helper process."""
        self.trial.close()

    def __enter__(self) -> "Compiler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _compile(self, text: str, bare: str) -> "Grammar | GrammarError":
        try:
            error = self.trial.check(bare)
        except GrammarError as refusal:
            return refusal
        if error is not None:
            return _explain(error, '"json_schema"' in text)
        start = LLMatcher(self._tokenizer, text, log_level=0, limits=parser_limits(self.limits.max_lexer_states))
        return Grammar(start, self.vocabulary)


class _Cache:
    """Grammars and refusals by their text, the least lately used dropped first."""

    def __init__(self, limits: GrammarLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, Grammar | GrammarError] = OrderedDict()
        self._num_bytes = 0

    def get(self, text: str) -> Grammar | GrammarError | None:
        with self._lock:
            if text in self._entries:
                self._entries.move_to_end(text)
            return self._entries.get(text)

    def put(self, text: str, found: Grammar | GrammarError) -> None:
        with self._lock:
            if text not in self._entries:
                self._num_bytes += _cost(text)
            self._entries[text] = found
            while len(self._entries) > self._limits.max_cached or self._num_bytes > self._limits.max_cached_bytes:
                dropped, _ = self._entries.popitem(last=False)
                self._num_bytes -= _cost(dropped)


def _cost(text: str) -> int:
    return _BASE_BYTES + _BYTES_PER_CHARACTER * len(text)


def _explain(error: str, has_schema: bool) -> GrammarError:
    """llguidance's message in our words, or its first line."""
    kind = SchemaError if has_schema else GrammarError
    for start, message in _MESSAGES.items():
        if start in error:
            return kind(message)
    reason = " ".join(error.replace("<non-verbose/>", "").split())[:300]
    return kind(f"the constraint cannot be enforced: {reason}; change or leave out that part")
