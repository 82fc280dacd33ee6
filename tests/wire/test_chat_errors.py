"""Errors and model lists of the Chat Completions dialects."""

import json

import pytest

from small4.errors import ContextLengthError, FieldError, RateLimitError, RequestError, UpstreamError
from small4.wire import mistral, openai_chat
from small4.wire.model_entry import ModelEntry
from small4.wire.problem import INTERNAL_MESSAGE, STATUS, Problem, problem_of

KINDS = sorted(STATUS)


@pytest.mark.parametrize(
    ("problem", "type_", "code"),
    [
        (Problem("invalid", "bad", "top_p"), "invalid_request_error", None),
        (
            Problem("invalid", "long", code="context_length_exceeded"),
            "invalid_request_error",
            "context_length_exceeded",
        ),
        (Problem("authentication", "no"), "authentication_error", "invalid_api_key"),
        (Problem("forbidden", "no"), "permission_error", None),
        (Problem("unknown_model", "no"), "invalid_request_error", "model_not_found"),
        (Problem("too_large", "no"), "invalid_request_error", None),
        (Problem("rate_limit", "no"), "rate_limit_error", "rate_limit_exceeded"),
        (Problem("internal", "no"), "server_error", None),
        (Problem("overloaded", "no"), "server_error", None),
        (Problem("timeout", "no"), "server_error", None),
    ],
)
def test_problems_have_openai_s_words(problem: Problem, type_: str, code: str | None) -> None:
    fields = {"message": problem.message, "type": type_, "param": problem.param, "code": code}
    assert openai_chat.format_error(problem) == {"error": fields}
    if problem.kind != "invalid" or problem.code:
        assert mistral.format_error(problem) == {"object": "error", **fields}
        assert mistral.error_status(problem) == problem.status


def test_mistral_tells_the_place_of_a_wrong_field() -> None:
    problem = Problem("invalid", "bad", "messages[2].content[0].type")
    assert mistral.error_status(problem) == 422
    location = ["body", "messages", 2, "content", 0, "type"]
    assert mistral.format_error(problem) == {"detail": [{"loc": location, "msg": "bad", "type": "value_error"}]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dialect", [openai_chat, mistral])
def test_a_provider_s_error_is_read_as_what_it_was_written_from(dialect, kind: str) -> None:
    problem = Problem(kind, "so it is", "messages[0].role" if kind == "invalid" else None)
    status = mistral.error_status(problem) if dialect is mistral else problem.status
    error = dialect.parse_error(status, json.dumps(dialect.format_error(problem)).encode())
    if kind == "invalid":
        assert (type(error), str(error), error.param) == (FieldError, "so it is", "messages[0].role")
    elif kind == "rate_limit":
        assert (type(error), str(error)) == (RateLimitError, "so it is")
    elif kind == "too_large":
        assert isinstance(error, RequestError)
    else:
        assert isinstance(error, UpstreamError)
        assert error.status == status
        assert ("so it is" in str(error)) == (kind not in ("authentication", "forbidden"))  # such words may hold a key


@pytest.mark.parametrize("dialect", [openai_chat, mistral])
def test_errors_of_providers_are_told_apart(dialect) -> None:
    def parse(status: int, **fields: object) -> Exception:
        body = fields if dialect is mistral else {"error": fields}
        return dialect.parse_error(status, json.dumps(body).encode())

    assert isinstance(parse(400, message="long", code="context_length_exceeded"), ContextLengthError)
    assert isinstance(parse(429, message="spent", code="insufficient_quota"), UpstreamError)
    assert "sk-secret" not in str(parse(401, message="wrong key sk-secret"))
    long = parse(500, message="a\n\x1b[31m" + "b" * 1000)
    assert len(str(long)) < 400
    assert str(long).isprintable()
    for body in (b"", b"<html>", b"[]", b"\xff", b"[" * 100_000, b'{"error":7}', b'{"detail":7}', b'{"error":null}'):
        error = dialect.parse_error(502, body)
        assert isinstance(error, UpstreamError)
        assert error.status == 502


def test_only_our_own_messages_leave_the_process() -> None:
    assert problem_of(ValueError("0x7f12 secret")) == Problem("internal", INTERNAL_MESSAGE)


def test_model_cards_have_the_keys_of_three_apis() -> None:
    entry = ModelEntry(
        id="mistral-small-4", name="Mistral Small 4", created=1763600000, owner="mistralai", context_length=262144,
        max_tokens=8192, aliases=("mistral-small-latest",), default_temperature=0.1, has_images=False,
    )  # fmt: skip
    for dialect in (openai_chat, mistral):
        models = dialect.format_models([entry])
        assert models["object"] == "list"
        (card,) = models["data"]
        assert {"id": "mistral-small-4", "object": "model", "created": 1763600000, "owned_by": "mistralai"}.items() <= (
            card.items()
        )
        assert card["capabilities"]["function_calling"] is True
        assert card["capabilities"]["vision"] is False
        assert card["capabilities"]["completion_fim"] is False
        assert (card["max_context_length"], card["aliases"]) == (262144, ["mistral-small-latest"])
        assert card["architecture"]["input_modalities"] == ["text"]
        assert "reasoning_effort" in card["supported_parameters"]
