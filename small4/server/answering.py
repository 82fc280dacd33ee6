"""Runs one call and sends its answer: whole, or event by event while it comes.

    work      takes a place, fetches images, reads the provider's events, and waits while the client's buffer is full
    watch     ends the work when its client leaves or reads nothing, or the server stops; breaks long silences

The status is sent with the first event, so that whatever is wrong with a request is told by a status of its own; but
no later than the first heartbeat, since connections that are silent for long are cut on the way.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from small4.chat import AnswerEvent, ChatRequest
from small4.errors import BusyError
from small4.providers.provider import Caller, Provider
from small4.server.admission import Admission
from small4.server.body import ClientGone
from small4.server.bounds import Bounds
from small4.server.drain import STOPPING, Drain
from small4.server.exchange import Exchange, exchange_of
from small4.server.links import Fetch, with_images
from small4.server.meter import Meter
from small4.server.outlet import Outlet
from small4.server.refusal import problem_behind

EVENTS_PER_TURN = 16  # of one stream, before the others get theirs


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked of whom, and for whom."""

    provider: Provider
    request: ChatRequest
    fetch: Fetch  # of its links
    caller: Caller
    key_id: str


class Answering:
    """An ASGI response: answers the job through its outlet, and leaves in the exchange what was used."""

    def __init__(self, job: Job, outlet: Outlet, admission: Admission, drain: Drain, bounds: Bounds) -> None:
        self.job, self.outlet, self.admission, self.drain, self.bounds = job, outlet, admission, drain, bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = exchange_of(scope)
        self.outlet.connect(send)
        try:
            await self._watched(self._work(exchange), receive)
        except ClientGone:
            exchange.has_left, exchange.error = True, "left"
            _abort_connection(scope)
        except Exception as error:
            if not self.outlet.has_begun:
                raise
            exchange.fail(error)
            await self.outlet.fail(problem_behind(error))

    async def _work(self, exchange: Exchange) -> None:
        if self.drain.is_draining:
            raise BusyError(STOPPING)
        async with self.admission.place(self.job.key_id, self.job.caller.priority):
            # What arrives here waits in no line, and a link that cannot be had is still told by a status of its own.
            request = await with_images(self.job.request, self.job.fetch)
            self.outlet.may_begin = True
            meter = Meter(request.num_answers, exchange)
            stream = self.job.provider.stream(request, self.job.caller)
            try:
                await self._pump(stream, meter)
            except BaseException:
                if meter.is_open:
                    await self._estimate(request, meter)
                raise
            await self.outlet.finish()

    async def _pump(self, stream: AsyncGenerator[AnswerEvent, None], meter: Meter) -> None:
        num_events = 0
        async with aclosing(stream) as events:
            async for event in events:
                meter.see(event)
                await self.outlet.push(event)
                num_events += 1
                if num_events % EVENTS_PER_TURN == 0:  # neither of the two waits while there is something to be had
                    await asyncio.sleep(0)
        meter.check_ended()

    async def _estimate(self, request: ChatRequest, meter: Meter) -> None:
        """What was used by answers that nobody will hear the end of: the provider tells only at their end."""
        with suppress(Exception):
            meter.estimate(await self.job.provider.count_tokens(request))

    async def _watched(self, work: Awaitable[None], receive: Receive) -> None:
        """Run the work to its end; raises `ClientGone` if nobody is left to hear it, or what the work raises."""
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            with self.drain.watching() as stopping:
                await self._watch(working, leaving, stopping)
        finally:
            leaving.cancel()
            working.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)
        working.result()

    async def _watch(
        self, working: "asyncio.Future[None]", leaving: "asyncio.Future[None]", stopping: "asyncio.Future[None]"
    ) -> None:
        tick = self.bounds.heartbeat_seconds / 2  # so that no silence is longer than the heartbeat
        while not working.done():
            await asyncio.wait({working, leaving, stopping}, timeout=tick, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return
            if leaving.done() or self.outlet.is_stalled(self.bounds.send_stall_seconds):
                raise ClientGone
            if stopping.done():
                raise BusyError(STOPPING)
            await self.outlet.break_silence(tick)


async def _disconnected(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _abort_connection(scope: Scope) -> None:
    """Let go of a connection whose client may still be there and read nothing; see `protocol.py`."""
    abort = scope.get("state", {}).get("abort")
    if abort is not None:
        abort()
