"""Google's generateContent, streamGenerateContent and countTokens; the names that every dialect has."""

from small4.wire.google_errors import format_error, parse_error
from small4.wire.google_format import format_request
from small4.wire.google_models import format_count, format_model, format_models
from small4.wire.google_reader import Reader
from small4.wire.google_request import parse_count_request, parse_request
from small4.wire.google_writer import Writer

__all__ = [
    "Reader",
    "Writer",
    "format_count",
    "format_error",
    "format_model",
    "format_models",
    "format_request",
    "parse_count_request",
    "parse_error",
    "parse_request",
]
