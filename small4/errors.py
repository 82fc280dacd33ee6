"""Every exception that small4 raises, as one tree.

A message says what was wrong, the limit, and the way out. The command line prints it and exits with 2; the server
turns it into the caller's dialect. Anything outside this tree is a bug of ours.
"""


class Small4Error(Exception):
    """A mistake that the caller can mend; the message says how."""


# --- weights on disk ---


class CheckpointError(Small4Error):
    """A checkpoint cannot be read or written as asked."""


class CheckpointNotFoundError(CheckpointError):
    """Nothing at that path or name, or no weights in the directory."""


class HeaderError(CheckpointError):
    """A weights file's header is truncated, inconsistent or beyond the limits; no tensor was believed."""


class UnsafeFileError(CheckpointError):
    """The file is of a kind that can run code when opened (pickle and its like); it was not opened."""


class TensorMismatchError(CheckpointError):
    """Tensors are missing, left over, or of another shape or type than the config asks for; all are named."""


class UnsupportedModelError(CheckpointError):
    """The config names an architecture or a quantisation that small4 does not run."""


class ConfigError(Small4Error):
    """A configuration contradicts itself or its tensors, or leaves its allowed range."""


class VerificationError(CheckpointError):
    """Stored bytes are not what they claim to be: digest mismatch, NaN or infinity in weights."""


class SaveError(CheckpointError):
    """A save could not be completed; what stood there before is untouched."""


class DownloadError(CheckpointError):
    """A download failed or was refused; what arrived is kept for the next try."""


# --- training ---


class TrainingStateError(Small4Error):
    """A training directory holds no complete state to resume from, or one of another run."""


# --- requests ---


class RequestError(Small4Error):
    """A chat request that cannot be honoured as written."""


class FieldError(RequestError):
    """A field of a request is malformed, beyond its limit, or asks for what cannot be honoured; `param` is its path."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnsayableError(FieldError):
    """The API of the provider that was to answer has no word for a field; nothing was sent, and another's may."""


class MessageOrderError(RequestError):
    """The conversation's roles do not follow the order that the template allows."""


class EffortError(RequestError):
    """An unknown reasoning effort."""


class ToolError(RequestError):
    """A tool's name or schema, a tool call or a tool result is malformed."""


class ImageError(RequestError):
    """An image is corrupt, of a refused kind, or beyond the limits."""


class SamplingError(RequestError):
    """A sampling parameter lies outside its range, contradicts another, or leaves no token to draw."""


class ContextLengthError(RequestError):
    """Prompt plus requested output do not fit the context; the message has both numbers."""


class GrammarError(RequestError):
    """A constraint on the answer cannot be compiled within the limits, contradicts the request, or grew too complex."""


class SchemaError(GrammarError):
    """A JSON Schema asks for what cannot be enforced; the message names the keyword and where it stands."""


# --- the engine ---


class BusyError(RequestError):
    """The queue is full; the request was not taken and may be sent again."""


class ConnectionsBusyError(BusyError):
    """All connections that we may have to another provider are in use; nothing was sent to it."""


class CacheTooSmallError(ContextLengthError):
    """A request that fits the context but could never fit the cache, however long it waited."""


class NonFiniteLogitsError(Small4Error):
    """The model's scores for one sequence are not numbers; only that sequence ended."""


class MemoryBudgetError(ConfigError):
    """The memory does not hold even the smallest cache."""


class EngineStoppedError(Small4Error):
    """The engine died or hung while it answered; it starts again, and the request may be sent again."""


# --- the catalogue ---


class CatalogError(Small4Error):
    """A file of claims is malformed, or names a field, source, route or model that does not exist."""


# --- the server and other providers ---


class AuthenticationError(Small4Error):
    """No key, or one that does not open anything."""


class ForbiddenError(Small4Error):
    """A valid key that may not do this, or a host or origin that is not served."""


class UnknownModelError(Small4Error):
    """No model of that name is served; the message names those that are."""


class NoRouteError(UnknownModelError):
    """Rules left no route to the model; the message names what removed each."""


class UnknownPathError(Small4Error):
    """No such path, object or method."""


class UnknownResponseError(UnknownPathError):
    """No response of that id is kept for this caller."""


class TooLargeError(Small4Error):
    """The body is larger than the limit that the message names."""


class ConflictError(Small4Error):
    """The same idempotency key is being worked on, or came with another body."""


class RateLimitError(Small4Error):
    """Too many requests; the caller may come again after `retry_after_seconds`."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UpstreamError(Small4Error):
    """Another provider answered with an error, nonsense, or half an answer; `status` is its HTTP status, if any.

    `retry_after_seconds` is when it asked to be called again, if it did.
    """

    def __init__(self, message: str, status: int | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class UpstreamUnreachableError(UpstreamError):
    """No connection to another provider came about; nothing was sent, so that the request may go elsewhere."""


class UpstreamTimeoutError(UpstreamError):
    """Another provider took longer than a limit, which the message names."""


class UpstreamKeyError(UpstreamError):
    """Another provider refused the key that it was given, or its account is spent; the same key fails again."""


# --- the gateway's books ---


class LedgerError(Small4Error):
    """The ledger is of a newer version, open in another process, or was told of an attempt that it does not know."""


class LedgerUnavailableError(LedgerError):
    """The ledger cannot be written now, so nothing that costs money may begin; it may be tried again."""


class BudgetError(RateLimitError):
    """The request might cost more than a budget has left; `budget` names it, `renews_at` is in seconds since 1970."""

    def __init__(self, message: str, *, budget: str, renews_at: int, retry_after_seconds: float) -> None:
        super().__init__(message, retry_after_seconds)
        self.budget = budget
        self.renews_at = renews_at


class UnpricedError(ForbiddenError):
    """What the route costs is unknown, and a budget has to be kept."""
