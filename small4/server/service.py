"""What the handlers of one server share."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from small4.server.admission import Admission
from small4.server.body import Bodies
from small4.server.bounds import Bounds
from small4.server.dialects import Dialects
from small4.server.door import Access
from small4.server.drain import Drain
from small4.server.fetch import FetchConfig, Fetcher
from small4.server.idempotency import KeptAnswers
from small4.server.keys import KeyStore
from small4.server.log import Log
from small4.server.metrics import Metrics
from small4.server.models import Models

if TYPE_CHECKING:  # a server without a gateway does not load its database
    from small4.gateway.assembly import Assembly

NUM_PARSERS = 2  # threads for large bodies and for texts to tokenize


@dataclass
class Service:
    """The parts of a server, made once and handed to whoever needs them."""

    models: Models
    store: KeyStore
    bounds: Bounds
    access: Access
    fetch: FetchConfig
    log: Log
    is_ready: Callable[[], bool] = lambda: True  # whether the models answer
    gateway: "Assembly | None" = None  # that the routed offers are of
    drain: Drain = field(default_factory=Drain)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.dialects = Dialects(self.store.secret())
        self.admission = Admission(self.bounds)
        self.bodies = Bodies(self.bounds)
        self.fetcher = Fetcher(self.fetch)
        self.kept = KeptAnswers(self.bounds)
        self.parsers = ThreadPoolExecutor(NUM_PARSERS, "small4 parser")
        self.metrics.watch("running", lambda: self.admission.num_running)
        self.metrics.watch("queued", lambda: self.admission.num_queued)
        self.metrics.watch("held_body_bytes", lambda: self.bodies.held_bytes)
        self.metrics.watch("kept_answers", lambda: len(self.kept))
        if self.gateway is not None:
            self.metrics.watch_routes(self.gateway.health)
