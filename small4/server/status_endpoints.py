"""The handlers that tell about the server itself."""

from collections.abc import Callable
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from small4.server import docs_page
from small4.server.endpoints import json_response
from small4.server.service import Service

Json = dict[str, Any]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PAGE_TYPE = "text/html; charset=utf-8"


class StatusEndpoints:
    """Alive, ready, counted, described."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._describe: Callable[[], Json] = dict

    def describe(self, describe: Callable[[], Json]) -> None:
        """Take what describes all paths, these among them; it is called once, if anybody asks."""
        self._describe = cache(describe)

    async def alive(self, request: Request) -> Response:
        """Whoever reads this has reached a server; no more is told without a key."""
        return json_response({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Whether a request would be answered now."""
        is_ready = not self.service.drain.is_draining and self.service.is_ready()
        return json_response({"ready": is_ready}, 200 if is_ready else 503)

    async def metrics(self, request: Request) -> Response:
        """For Prometheus to collect."""
        return Response(self.service.metrics.page(), headers={"content-type": METRICS_TYPE})

    async def openapi(self, request: Request) -> Response:
        """All paths, for programs."""
        return json_response(self._describe())

    async def docs(self, request: Request) -> Response:
        """All paths, for people."""
        headers = {"content-type": PAGE_TYPE, "content-security-policy": docs_page.POLICY}
        return Response(docs_page.page(self._describe()), headers=headers)
