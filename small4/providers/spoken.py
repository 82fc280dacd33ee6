"""The APIs that hosted providers speak, one line each: paths, the key's header, and the functions of `wire`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote

from small4.errors import Small4Error
from small4.providers.endpoint import Dialect
from small4.wire import anthropic, google, mistral, openai_chat, openai_responses
from small4.wire.call import Call, Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """One API, as a client speaks it."""

    path: Callable[[Call], str]  # where a call goes
    format_request: Callable[[Call], dict[str, Any]]
    reader: Callable[[int], Reader]  # for so many answers
    parse_error: Callable[[int, bytes], Small4Error]
    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)
    has_large_lines: bool = False  # an event repeats the whole request, or holds the whole answer

    def key_headers(self, key: str) -> dict[str, str]:
        """The header that carries a key."""
        return {self.key_header: self.key_prefix + key}


def _google_path(call: Call) -> str:
    verb = "streamGenerateContent?alt=sse" if call.is_stream else "generateContent"
    return f"/models/{quote(call.model, safe='')}:{verb}"


SPOKEN: Mapping[Dialect, Spoken] = {
    "openai": Spoken(
        path=lambda call: "/chat/completions",
        format_request=openai_chat.format_request,
        reader=openai_chat.Reader,
        parse_error=openai_chat.parse_error,
    ),
    "mistral": Spoken(
        path=lambda call: "/chat/completions",
        format_request=mistral.format_request,
        reader=mistral.Reader,
        parse_error=mistral.parse_error,
    ),
    "responses": Spoken(
        path=lambda call: "/responses",
        format_request=openai_responses.format_request,
        reader=lambda num_answers: openai_responses.Reader(),
        parse_error=openai_responses.parse_error,
        has_large_lines=True,
    ),
    "anthropic": Spoken(
        path=lambda call: "/messages",
        format_request=partial(anthropic.format_request, signer=None),
        reader=lambda num_answers: anthropic.Reader(),
        parse_error=anthropic.parse_error,
        key_header="x-api-key",
        key_prefix="",
        headers={"anthropic-version": "2023-06-01"},
    ),
    "google": Spoken(
        path=_google_path,
        format_request=google.format_request,
        reader=google.Reader,
        parse_error=google.parse_error,
        key_header="x-goog-api-key",
        key_prefix="",
    ),
}
