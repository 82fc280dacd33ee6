"""Every limit on a request in one place; what lies above is refused before the work that it would cause.

The figures are the defaults of docs/security.md. A limit on what a chat may ask for (answers, stops, tools) lies with
its meaning, in `wire` and `engine`; a limit on an image with the fetcher; a limit on a schema with the grammar.
"""

from dataclasses import dataclass, fields

from small4.errors import ConfigError

KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one server accepts, and how long it waits."""

    max_target_bytes: int = 2 * KIB  # path and query as they came
    max_headers: int = 64
    max_header_bytes: int = 32 * KIB  # names and values of all headers
    header_seconds: float = 10.0  # from the connection, or the first byte of a next request, to the end of its headers
    keep_alive_seconds: float = 15.0  # between two requests of a connection
    max_connections: int = 4096

    max_body_bytes: int = 32 * MIB  # of one request, counted while it arrives
    max_held_body_bytes: int = 512 * MIB  # of all requests, images fetched for them included
    max_held_body_bytes_per_key: int = 256 * MIB
    body_idle_seconds: float = 15.0  # without a byte of the body
    body_seconds: float = 60.0  # after which the body must have come at the least rate on average
    min_body_bytes_per_second: int = KIB
    max_json_values: int = 200_000  # values and names in one body
    max_json_string_bytes: int = 16 * MIB  # an image of 10 MiB is a string of 14

    max_concurrent: int = 1024  # requests that are being answered; the engine runs and queues sequences among them
    max_queued: int = 1024  # requests that wait for their turn to be answered
    max_queued_per_key: int = 256
    queue_seconds: float = 60.0

    heartbeat_seconds: float = 10.0  # of silence in a stream before a comment is sent
    send_stall_seconds: float = 60.0  # in which a client must have read what waits for it, or at the least rate
    min_send_bytes_per_second: int = KIB
    drain_seconds: float = 30.0  # that open answers get after SIGTERM

    max_idempotency_key: int = 255  # characters
    idempotency_seconds: float = 24 * 3600.0  # that an answer is kept under its key
    max_kept_answers: int = 4096
    max_kept_answer_bytes: int = 64 * MIB  # of all kept answers
    max_one_kept_answer_bytes: int = 4 * MIB

    max_form_parts: int = 16
    max_form_head_bytes: int = 4 * KIB  # headers of one part of a form
    max_form_field_bytes: int = 4 * KIB  # of a part that is no file
    max_file_bytes: int = 200 * MIB  # of one file, counted while it arrives
    max_files_per_key: int = 1000
    max_files_bytes_per_key: int = 2 * GIB
    max_files_bytes: int = 16 * GIB  # of all keys
    file_seconds: float = 30 * 24 * 3600.0  # that a file, and a batch that has ended, is kept

    max_batches_per_key: int = 200  # those that have ended among them
    max_batch_lines: int = 50_000
    batch_seconds: float = 24 * 3600.0  # after which a batch ends with what it has
    max_batch_concurrent: int = 8  # lines of all batches that are being answered
    max_batch_attempts: int = 5  # of one line, where the server or its engine ended meanwhile
    max_batch_answers_bytes: int = GIB  # of all answers of one batch
    batch_retry_seconds: float = 1.0  # before a second attempt at what lacks room; twice as long before each one after
    max_batch_retry_seconds: float = 60.0  # between two attempts

    parse_off_loop_bytes: int = 16 * KIB  # a larger body is parsed in a thread

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ConfigError(f"{field.name} is {value}; it must be more than 0")
