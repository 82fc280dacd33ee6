"""How large a constraint may be, and what compiling it may cost."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarLimits:
    """Limits on one constraint. A schema counts with all tools' schemas that go with it."""

    max_schema_bytes: int = 65_536  # as JSON
    max_depth: int = 64  # levels of JSON; an object within an object takes two
    max_properties: int = 1_000
    max_enum_entries: int = 5_000
    max_pattern_bytes: int = 2_048  # of each regular expression
    max_lark_bytes: int = 65_536
    compile_seconds: float = 2.0  # of processor time
    compile_bytes: int = 512 * 2**20  # memory that compiling may take
    start_seconds: float = 30.0  # for the helper to start and read the vocabulary
    max_lexer_states: int = 50_000  # of one answer; a state takes 1 to 2 kB
    max_cached: int = 256  # compiled constraints and refusals that are kept
    max_cached_bytes: int = 64 * 2**20  # of memory, by estimate
