"""Anthropic's Messages: `POST /v1/messages` and `/v1/messages/count_tokens`; the names that every dialect has."""

from small4.wire.anthropic_errors import error_status, format_error, parse_error
from small4.wire.anthropic_format import format_request
from small4.wire.anthropic_models import format_count, format_model, format_models
from small4.wire.anthropic_reader import Reader
from small4.wire.anthropic_request import parse_count_request, parse_request
from small4.wire.anthropic_writer import Writer

__all__ = [
    "Reader",
    "Writer",
    "error_status",
    "format_count",
    "format_error",
    "format_model",
    "format_models",
    "format_request",
    "parse_count_request",
    "parse_error",
    "parse_request",
]
