"""The whole server as one ASGI application.

Observe     an id, a log line and metrics for every request; every error becomes an answer
Door        target, headers, host and origin
Auth        the key and what it opens
routes      the handlers
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request

from small4.errors import AuthenticationError, BusyError, UnknownPathError
from small4.server.auth import LOCAL, Auth, local_identity
from small4.server.batch_answer import BatchAnswering
from small4.server.batch_endpoints import BatchEndpoints
from small4.server.batches import Batches
from small4.server.bounds import Bounds
from small4.server.door import Access, Door
from small4.server.endpoints import Endpoints
from small4.server.fetch import FetchConfig
from small4.server.keys import Identity, KeyStore
from small4.server.log import Log
from small4.server.models import Models, Offer
from small4.server.observe import Observe
from small4.server.openapi import document
from small4.server.refusal import Refusal
from small4.server.responses_endpoints import ResponsesEndpoints
from small4.server.routed_endpoints import RoutedEndpoints
from small4.server.routes import Routes, table
from small4.server.service import Service
from small4.server.status_endpoints import StatusEndpoints
from small4.server.token_endpoints import TokenEndpoints

if TYPE_CHECKING:
    from small4.gateway.assembly import Assembly


def create_app(
    offers: Sequence[Offer],
    store: KeyStore,
    *,
    bounds: Bounds | None = None,
    access: Access | None = None,
    fetch: FetchConfig | None = None,
    log: Log | None = None,
    is_ready: Callable[[], bool] = lambda: True,
    gateway: "Assembly | None" = None,
) -> Starlette:
    """An application that serves these models to whoever holds a key of the store."""
    service = Service(
        models=Models(offers),
        store=store,
        bounds=bounds or Bounds(),
        access=access or Access(),
        fetch=fetch or FetchConfig(),
        log=log or Log(),
        is_ready=is_ready,
        gateway=gateway,
    )
    endpoints = Endpoints(service)
    status = StatusEndpoints(service)
    batches = _batches(service, endpoints)
    responses, tokens = ResponsesEndpoints(service), TokenEndpoints(service, endpoints)
    others = BatchEndpoints(service, endpoints, batches), tokens, status, RoutedEndpoints(gateway)
    routes = Routes(table(endpoints, responses, *others))
    status.describe(lambda: document(routes.paths, [offer.id for offer in service.models.offers]))
    app = Starlette(
        routes=routes.routes,
        middleware=[
            Middleware(Observe, service.dialects.of, service.bodies, service.metrics, service.log),
            Middleware(Door, service.access, service.bounds),
            Middleware(Auth, service.store, service.access, routes.needs),
        ],
        exception_handlers={HTTPException: _not_routed},
        lifespan=lambda app: _lifetime(service, batches),
    )
    app.router.redirect_slashes = False  # one spelling of each path
    app.state.service, app.state.routes, app.state.batches = service, routes, batches
    return app


def _batches(service: Service, endpoints: Endpoints) -> Batches:
    """The batches of the state directory that the keys are in."""
    store = service.store

    def identify(key_id: str) -> Identity:
        if key_id != LOCAL:
            return store.identity(key_id)
        if store.exists():
            raise AuthenticationError("this work was begun while no key existed; now one does")
        return local_identity(store)

    answering = BatchAnswering(service, endpoints)
    return Batches(store.directory / "batch", service.bounds, answering.answer, identify, service.drain, service.log)


async def _not_routed(request: Request, error: Exception) -> NoReturn:
    """Raises what a path or method that is not served means here."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = ", ".join(request.app.state.routes.allowed(request.scope))
        raise Refusal(405, "unknown_path", f"this path takes {allowed} only", {"allow": allowed})
    raise UnknownPathError("there is no such path; /openapi.json lists those there are")


@asynccontextmanager
async def _lifetime(service: Service, batches: Batches) -> AsyncIterator[None]:
    measuring = asyncio.create_task(service.metrics.measure_lag())
    if batches.exist():
        try:
            batches.open()
        except BusyError:
            pass  # another server goes on with them
        except OSError as error:  # told to whoever asks for one; chats are answered all the same
            service.log.fault("batches", error)
    try:
        yield
    finally:
        await batches.close()
        measuring.cancel()
        with suppress(asyncio.CancelledError):
            await measuring
        if service.gateway is not None:
            await service.gateway.aclose()
        service.parsers.shutdown(wait=False)
        service.fetcher.close()
        service.log.close()
