"""The handlers that tell about the server itself."""

from starlette.requests import Request
from starlette.responses import Response

from small4.server.endpoints import json_response
from small4.server.service import Service


class StatusEndpoints:
    """Alive, ready, counted."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def alive(self, request: Request) -> Response:
        """Whoever reads this has reached a server; no more is told without a key."""
        return json_response({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether a request would be answered now."""
        is_ready = not self.service.drain.is_draining and self.service.is_ready()
        return json_response({"ready": is_ready}, 200 if is_ready else 503)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus to collect."""
        return Response(self.service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")
