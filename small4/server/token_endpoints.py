"""`/tokenize` and `/detokenize`: text to token ids and back, with the vocabulary of a model."""

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from small4.errors import FieldError, RequestError, UnknownPathError
from small4.server.endpoints import Endpoints, json_response
from small4.server.models import Tokenizes
from small4.server.service import Service
from small4.wire.decode import convert, decode_object

MAX_CHARACTERS = 2**22
MAX_IDS = 200_000


class TokenizeFields(msgspec.Struct):
    """The text goes by the names that other servers give it, too."""

    prompt: Annotated[str, Meta(max_length=MAX_CHARACTERS)] | None = None
    text: Annotated[str, Meta(max_length=MAX_CHARACTERS)] | None = None
    content: Annotated[str, Meta(max_length=MAX_CHARACTERS)] | None = None
    model: str | None = None


class DetokenizeFields(msgspec.Struct):
    tokens: Annotated[list[Annotated[int, Meta(ge=0, le=2**31 - 1)]], Meta(max_length=MAX_IDS)]
    model: str | None = None


class TokenEndpoints:
    """Both handlers."""

    def __init__(self, service: Service, endpoints: Endpoints) -> None:
        self.service, self.endpoints = service, endpoints

    async def tokenize(self, request: Request) -> Response:
        """Ids of a text, no control token among them whatever it spells."""
        body = await self.endpoints.read_body(request)
        fields = convert(decode_object(body), TokenizeFields)
        tokenizer, limit = self._tokenizer(fields.model)
        text = next((text for text in (fields.prompt, fields.text, fields.content) if text is not None), "")
        ids = await self.endpoints.off_loop(len(body), tokenizer.encode_text, text)
        return json_response({"tokens": ids, "count": len(ids), "max_model_len": limit})

    async def detokenize(self, request: Request) -> Response:
        """The text of ids."""
        body = await self.endpoints.read_body(request)
        fields = convert(decode_object(body), DetokenizeFields)
        tokenizer, _ = self._tokenizer(fields.model)
        try:
            text = await self.endpoints.off_loop(len(body), tokenizer.decode, fields.tokens)
        except RequestError as error:
            raise FieldError(f"tokens: {error}", "tokens") from None
        return json_response({"prompt": text, "text": text})

    def _tokenizer(self, model: str | None) -> tuple[Tokenizes, int]:
        models = self.service.models
        offer = models.offers[0] if model is None else models.find(model)
        if offer.tokenizer is None:
            raise UnknownPathError(f"the vocabulary of {offer.id} is not here, but with its provider")
        return offer.tokenizer, offer.provider.model.context_length
