"""What a server with a gateway tells of a request: which routes it could take, which it took, and why."""

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from small4.errors import UnknownPathError
from small4.server.endpoints import json_response
from small4.server.keys import Identity

if TYPE_CHECKING:
    from small4.gateway.assembly import Assembly


class RoutedEndpoints:
    """The handlers of these paths; without a gateway there is nothing to tell."""

    def __init__(self, gateway: "Assembly | None") -> None:
        self._gateway = gateway

    async def explain(self, request: Request) -> Response:
        """Every candidate of a request, what removed the others, and every attempt; to the key that made it alone."""
        identity: Identity = request.scope["identity"]
        gateway, request_id = self._gateway, request.path_params["request"]
        found = None if gateway is None else gateway.explain(request_id, identity.id)
        if found is None:
            raise UnknownPathError("no request of that id was made by this key through the gateway, or it is forgotten")
        return json_response(found)
