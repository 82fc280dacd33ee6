"""One batch that is being worked on: its lines, what has become of them, and how far that is."""

import secrets

from small4.server.batch_answer import LineAnswer
from small4.server.batch_journal import Journal
from small4.server.batch_lines import BatchLines
from small4.server.batch_store import StoredBatch
from small4.wire.openai_batch import BatchObject, RequestCounts, format_answer, format_failure


class Run:
    """Writes what lines come to into the journal, and counts it in the batch."""

    def __init__(self, stored: StoredBatch, lines: BatchLines, journal: Journal) -> None:
        self.stored, self.lines, self.journal = stored, lines, journal
        self.owner = stored.owner

    @property
    def batch(self) -> BatchObject:
        return self.stored.batch

    @property
    def is_done(self) -> bool:
        return len(self.journal.ends) == len(self.lines)

    @property
    def left(self) -> list[int]:
        """The lines that have no end yet."""
        return [index for index in range(len(self.lines)) if index not in self.journal.ends]

    def end(self, index: int, custom_id: str, answer: LineAnswer) -> None:
        """A line has its answer, or was refused."""
        line = format_answer(_line_id(), custom_id, answer.status, answer.request_id, answer.body)
        self.journal.end(index, "answered" if answer.is_good else "failed", line)
        self.count()

    def fail(self, index: int, custom_id: str | None, code: str, message: str) -> None:
        """A line gets no answer."""
        self.journal.end(index, "failed", format_failure(_line_id(), custom_id, code, message))
        self.count()

    def expire(self) -> None:
        """All lines that are left get none."""
        for index in self.left:
            self.fail(index, self.lines.custom_id(index), "batch_expired", "the batch expired before this line's turn")

    def count(self) -> None:
        """Say how far it is."""
        counts = self.journal.counts
        self.batch.request_counts = RequestCounts(len(self.lines), counts["answered"], counts["failed"])


def _line_id() -> str:
    return f"batch_req_{secrets.token_hex(12)}"
