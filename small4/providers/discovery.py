"""What can be learned of a hosted provider without paying: whether its key is good, and which models it lists."""

from dataclasses import dataclass

from small4.errors import Small4Error, UpstreamKeyError
from small4.providers.asking import ask, naming, refusal
from small4.providers.upstream import Upstream
from small4.wire.models_reader import FoundModel, read_models


@dataclass(frozen=True, slots=True)
class Discovery:
    """The models of a provider; `is_key_proven` is false where nothing that it answers depends on the key."""

    models: tuple[FoundModel, ...]
    is_key_proven: bool


async def list_models(upstream: Upstream) -> tuple[FoundModel, ...]:
    """The models that a provider lists."""
    return tuple(read_models(await _get(upstream, "/models")))


async def discover(upstream: Upstream, key_path: str | None = None) -> Discovery:
    """The models, and a trial of the key; raises `UpstreamKeyError` for a bad one, other errors for a bad provider.

    `key_path` answers for the key where the list does not; without one, a list that is open to all proves nothing.
    """
    models = await list_models(upstream)
    if upstream.key is None:
        return Discovery(models, is_key_proven=False)
    if key_path is not None:
        await _get(upstream, key_path)
        return Discovery(models, is_key_proven=True)
    stranger = Upstream(upstream.endpoint, bounds=upstream.bounds)
    try:
        await _get(stranger, "/models")
    except UpstreamKeyError:
        return Discovery(models, is_key_proven=True)
    except Small4Error:  # refused for another reason than the key, which says nothing of the key
        pass
    finally:
        await stranger.aclose()
    return Discovery(models, is_key_proven=False)


async def _get(upstream: Upstream, path: str) -> bytes:
    with naming(upstream):
        async with ask(upstream, "GET", path) as reply:
            if reply.status != 200:
                raise await refusal(reply, upstream)
            return await reply.whole()
