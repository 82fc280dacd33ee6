"""What `serve` does to the process that it is given."""

import gc
import signal

from small4.server.run import serve
from tests.server.asgi import Served


def test_the_garbage_collector_passes_over_what_is_loaded_before_the_first_request(tmp_path):
    num_frozen = []

    def note_and_stop(url: str) -> None:
        num_frozen.append(gc.get_freeze_count())
        signal.raise_signal(signal.SIGTERM)

    before = gc.get_freeze_count()
    try:
        serve(Served(tmp_path).app, port=0, on_start=note_and_stop)
    finally:
        gc.unfreeze()
    assert num_frozen[0] > before + 10_000
