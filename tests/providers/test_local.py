"""The local provider: requests to answers on the engine, off the event loop."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from io import BytesIO

import pytest
from PIL import Image

from small4.answer import Answer
from small4.chat import (
    AnswerEvent,
    ChatRequest,
    Finish,
    ImagePart,
    JsonSchema,
    Message,
    Regex,
    Sampling,
    TextDelta,
)
from small4.engine.config import EngineConfig
from small4.engine.engine import Output
from small4.engine.sequence import Priority, Sequence
from small4.errors import (
    ContextLengthError,
    EngineStoppedError,
    ImageError,
    MessageOrderError,
    SamplingError,
    SchemaError,
)
from small4.model.transformer import Transformer
from small4.providers import local
from small4.providers.local import LocalProvider
from small4.providers.provider import NANO_NOTE, Caller, Provider, collect
from small4.tokenizer import template
from small4.tokenizer.tekken import Tokenizer
from small4.train.data import NANO_TEKKEN
from small4.train.optim import initialise
from small4.train.presets import preset

NETWORK = Transformer(preset("test").model)
initialise(NETWORK, preset("test").model.n_layers, seed=1)
NETWORK.requires_grad_(False)
TOKENIZER = Tokenizer.from_file(NANO_TEKKEN)
CALLER = Caller(name="somebody", salt=b"somebody's")
REQUEST = ChatRequest(messages=(Message("user", "17+4"),), max_tokens=12, sampling=Sampling(temperature=1.0, seed=3))


@pytest.fixture(scope="module")
def provider() -> LocalProvider:
    return make_provider()


def make_provider(cache_bytes: int = 2_000_000) -> LocalProvider:
    return LocalProvider("tiny", NETWORK, TOKENIZER, engine=EngineConfig(block_size=4, cache_bytes=cache_bytes))


def ask(provider: Provider, request: ChatRequest, caller: Caller = CALLER) -> list[Answer]:
    return asyncio.run(collect(provider.stream(request, caller)))


def events_of(provider: Provider, request: ChatRequest) -> list[AnswerEvent]:
    async def read() -> list[AnswerEvent]:
        return [event async for event in provider.stream(request, CALLER)]

    return asyncio.run(read())


def test_each_of_several_answers_has_its_events_and_ends_in_a_finish(provider: LocalProvider) -> None:
    events = events_of(provider, dataclasses.replace(REQUEST, num_answers=4))
    for index in range(4):
        own = [event.event for event in events if event.index == index]
        assert isinstance(own[-1], Finish)
        assert not any(isinstance(event, Finish) for event in own[:-1])
    assert [event.index for event in events] != sorted(event.index for event in events)  # side by side


def test_the_first_of_several_answers_is_the_one_that_is_asked_for_alone(provider: LocalProvider) -> None:
    several = ask(provider, dataclasses.replace(REQUEST, num_answers=4))
    [alone] = ask(provider, REQUEST)
    assert len({answer.text for answer in several}) == 4
    assert several[0].text == alone.text
    assert [answer.text for answer in several] == [
        answer.text for answer in ask(make_provider(), dataclasses.replace(REQUEST, num_answers=4))
    ]


def test_an_answer_that_ends_at_its_stop_string_leaves_the_others_going(provider: LocalProvider) -> None:
    whole = ask(provider, dataclasses.replace(REQUEST, num_answers=3))
    stop = whole[1].text[1:3]
    assert all(stop not in answer.text for answer in (whole[0], whole[2]))
    cut = ask(provider, dataclasses.replace(REQUEST, num_answers=3, stop=(stop,)))
    assert (cut[1].text, cut[1].finish_reason, cut[1].stop) == (whole[1].text.split(stop)[0], "stop", stop)
    assert [cut[0].text, cut[2].text] == [whole[0].text, whole[2].text]
    wait_until_idle(provider)


def test_what_ended_an_answer_for_want_of_room_is_told() -> None:
    provider = make_provider(cache_bytes=10_000)
    endless = dataclasses.replace(REQUEST, sampling=Sampling(ignore_eos=True))
    assert ask(provider, endless)[0].finish_reason == "length"
    assert ask(provider, dataclasses.replace(endless, max_tokens=None))[0].finish_reason == "context"


def test_tokens_found_in_the_prefix_cache_are_counted_for_the_same_salt_only() -> None:
    provider = make_provider()
    long = dataclasses.replace(REQUEST, messages=(Message("user", "17+48+36+25+11"),), num_answers=2)
    prompt_tokens = asyncio.run(provider.count_tokens(long))
    reusable = (prompt_tokens - 1) // 4 * 4  # whole blocks, and the last token runs
    for caller, cached in ((CALLER, 0), (CALLER, reusable), (Caller(salt=b"another's"), 0)):
        for answer in ask(provider, long, caller):
            assert answer.usage.prompt_tokens == prompt_tokens
            assert answer.usage.cached_tokens == cached


def test_an_answer_that_fails_leaves_its_siblings_alone(provider: LocalProvider) -> None:
    whole = ask(provider, dataclasses.replace(REQUEST, num_answers=3))
    prepared = provider.prepare(dataclasses.replace(REQUEST, num_answers=3), CALLER)
    fault = ZeroDivisionError("a bug of ours")

    def fail_second(sequences: list[Sequence]) -> None:
        sequences[1].steering.thought = Broken(fault)  # type: ignore[assignment]

    events = list(failing(prepared, fail_second))
    answers = [[event.event for event in events if event.index == index] for index in range(3)]
    assert answers[1] == [Finish("error", dataclasses.replace(whole[1].usage, completion_tokens=0), error=fault)]
    for index in (0, 2):
        text = "".join(event.text for event in answers[index] if isinstance(event, TextDelta))
        assert text == whole[index].text


def test_where_all_answers_fail_the_error_is_raised(provider: LocalProvider) -> None:
    prepared = provider.prepare(dataclasses.replace(REQUEST, num_answers=2), CALLER)

    def fail_all(sequences: list[Sequence]) -> None:
        for sequence in sequences:
            sequence.steering.thought = Broken(ZeroDivisionError("a bug of ours"))  # type: ignore[assignment]

    with pytest.raises(ZeroDivisionError):
        list(failing(prepared, fail_all))


class Broken:
    """The rules of a sequence that fail at its first token."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def apply(self, token_id: int) -> int:
        raise self.error


def failing(prepared: local.PreparedRequest, spoil: object) -> Iterator[AnswerEvent]:
    """Submit, with the sequences spoilt before the engine runs them."""
    engine = prepared.worker.engine
    submit = engine.submit

    def submit_spoilt(request: object) -> list[Sequence]:
        sequences = submit(request)  # type: ignore[arg-type]
        spoil(sequences)  # type: ignore[operator]
        return sequences

    engine.submit = submit_spoilt  # type: ignore[method-assign]
    try:
        yield from prepared.start()
    finally:
        engine.submit = submit  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"messages": ()}, MessageOrderError),
        ({"messages": (Message("user", "word " * 4000),)}, ContextLengthError),
        ({"messages": (Message("user", (ImagePart(b"no image"),)),)}, ImageError),
        ({"sampling": Sampling(temperature=9.0)}, SamplingError),
        ({"max_tokens": 0}, SamplingError),
        ({"max_tokens": 1_000_000}, ContextLengthError),
        ({"num_answers": 0}, SamplingError),
        ({"num_answers": 9}, SamplingError),
        ({"stop": ("",)}, SamplingError),
        ({"thinking_budget": -1}, SamplingError),
        ({"response_format": JsonSchema({"not": {}})}, SchemaError),
    ],
)
def test_what_is_wrong_with_a_request_is_raised_before_the_first_event(
    provider: LocalProvider, changes: dict[str, object], error: type[Exception]
) -> None:
    async def first() -> AnswerEvent:
        return await anext(provider.stream(dataclasses.replace(REQUEST, **changes), CALLER))  # type: ignore[arg-type]

    with pytest.raises(error):
        asyncio.run(first())
    assert provider.worker.engine.num_waiting == 0


def test_an_answer_on_a_dead_engine_has_its_error_and_the_next_one_a_fresh_engine() -> None:
    provider = make_provider()

    def die() -> list[Output]:
        raise SystemExit

    provider.worker.engine.step = die  # type: ignore[method-assign]
    with pytest.raises(EngineStoppedError):
        ask(provider, dataclasses.replace(REQUEST, num_answers=2))
    assert len(ask(provider, REQUEST)) == 1
    assert provider.watchdog.num_restarts == 1


def test_closing_a_stream_gives_its_blocks_back_and_others_their_tokens(provider: LocalProvider) -> None:
    endless = dataclasses.replace(REQUEST, max_tokens=1500, sampling=Sampling(ignore_eos=True))

    async def leave_one() -> list[Answer]:
        async with aclosing(provider.stream(endless, CALLER)) as events:
            await anext(events)
            other = asyncio.ensure_future(collect(provider.stream(REQUEST, CALLER)))
            await asyncio.sleep(0.02)
        return await other

    assert asyncio.run(leave_one()) == ask(provider, REQUEST)
    wait_until_idle(provider)


def test_a_stream_that_is_closed_costs_no_further_step() -> None:
    provider = make_provider()
    endless = dataclasses.replace(REQUEST, num_answers=3, max_tokens=1000, sampling=Sampling(ignore_eos=True))

    async def leave() -> int:
        async with aclosing(provider.stream(endless, CALLER)) as events:
            for _ in range(20):
                await anext(events)
        return provider.worker.engine.num_steps

    num_steps = asyncio.run(leave())
    wait_until_idle(provider)
    assert provider.worker.engine.num_steps <= num_steps + 1  # the one under way


def test_the_event_loop_goes_on_while_a_request_is_prepared(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def slow_render(*arguments: object) -> object:
        assert release.wait(20)
        return template.render(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(local, "render", slow_render)

    async def ask_two() -> list[Answer]:
        asked = asyncio.ensure_future(collect(provider.stream(REQUEST, CALLER)))
        await asyncio.sleep(0.05)
        release.set()  # which a loop that waits for the prompt would never come to
        return await asked

    assert len(asyncio.run(ask_two())) == 1


def test_a_plain_request_does_not_wait_behind_slow_grammars(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, compile_ = threading.Event(), provider._grammar

    def slow_compile(request: ChatRequest, *, in_thought: bool) -> object:
        assert request.response_format is None or release.wait(20)
        return compile_(request, in_thought=in_thought)

    monkeypatch.setattr(provider, "_grammar", slow_compile)
    formed = dataclasses.replace(REQUEST, response_format=Regex("[0-9]{2}"))

    async def ask_many() -> list[list[Answer]]:
        slow = [asyncio.ensure_future(collect(provider.stream(formed, CALLER))) for _ in range(20)]
        await asyncio.sleep(0.01)
        plain = await collect(provider.stream(REQUEST, CALLER))
        assert not any(task.done() for task in slow)
        release.set()
        return [plain, *await asyncio.gather(*slow)]

    assert len(asyncio.run(ask_many())) == 21


def test_name_salt_and_priority_of_the_caller_reach_the_engine(provider: LocalProvider) -> None:
    batch = provider.prepare(REQUEST, dataclasses.replace(CALLER, priority="batch")).generation
    assert (batch.caller, batch.salt, batch.priority) == ("somebody", b"somebody's", Priority.LOW)
    assert provider.prepare(REQUEST, CALLER).generation.priority == Priority.NORMAL


def test_every_answer_has_the_form_that_was_asked_for(provider: LocalProvider) -> None:
    request = dataclasses.replace(REQUEST, response_format=Regex("[0-9]{2}"), num_answers=3)
    assert all(len(answer.text) == 2 and answer.text.isdigit() for answer in ask(provider, request))


def test_a_nano_says_what_it_is_and_that_it_takes_the_likeliest_token(provider: LocalProvider) -> None:
    assert provider.model.note == NANO_NOTE
    assert provider.model.temperatures == {"none": 0.0, "high": 0.0}
    assert "images" not in provider.model.abilities
    assert provider.model.context_length == 2048


def test_an_image_that_the_model_cannot_read_is_refused_by_name(provider: LocalProvider) -> None:
    file = BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    with pytest.raises(ImageError, match="reads no images"):
        provider.prepare(dataclasses.replace(REQUEST, messages=(Message("user", (ImagePart(file.getvalue()),)),)))


def wait_until_idle(provider: LocalProvider) -> None:
    engine, deadline = provider.worker.engine, time.monotonic() + 20
    while (engine.num_running or engine.num_waiting) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert engine.scheduler.pool.num_free == engine.cache_plan.num_blocks


def test_outputs_of_an_answer_that_has_ended_are_passed_over(provider: LocalProvider) -> None:
    prepared = provider.prepare(dataclasses.replace(REQUEST, stop=("a", "e", "1", " ")), CALLER)
    outputs: list[Output] = list(provider.worker.stream(prepared.generation))
    read = [event for output in outputs for event in prepared._read(output)]
    assert sum(isinstance(event.event, Finish) for event in read) == 1
