"""What stands around `POST /v1/responses`: responses that are kept, each caller's own."""

from starlette.requests import Request
from starlette.responses import Response

from small4.errors import FieldError
from small4.server.endpoints import json_response
from small4.server.service import Service
from small4.wire import openai_responses
from small4.wire.openai_responses import DEFAULT_LISTED


class ResponsesEndpoints:
    """Read, list, delete."""

    def __init__(self, service: Service) -> None:
        self.past = service.dialects.past

    async def read(self, request: Request) -> Response:
        """A kept response."""
        return json_response(self.past.response(*_name(request)))

    async def delete(self, request: Request) -> Response:
        """Forget it; those that went on from it stay whole."""
        owner, response_id = _name(request)
        self.past.delete(owner, response_id)
        return json_response(openai_responses.format_deleted(response_id))

    async def input_items(self, request: Request) -> Response:
        """A page of what was said before it."""
        items = self.past.input_items(*_name(request))
        query = request.query_params
        page = openai_responses.format_item_list(
            items, limit=_limit(query.get("limit")), after=query.get("after"), is_ascending=query.get("order") == "asc"
        )
        return json_response(page)

    async def cancel(self, request: Request) -> Response:
        """Only what runs in the background could be cancelled so, and nothing does."""
        self.past.response(*_name(request))
        raise FieldError("this response has ended; close the connection to end one that has not")


def _name(request: Request) -> tuple[str, str]:
    return request.scope["identity"].id, request.path_params["response"]


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LISTED
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise FieldError("limit must be a whole number", "limit")
    return int(text)
