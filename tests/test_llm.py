"""`LLM` scores, generates and chats; bad requests raise before the first event."""

import asyncio
import dataclasses
import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from huggingface_hub import constants

import small4
from small4.answer import Answer, collect
from small4.chat import (
    ChatRequest,
    Finish,
    JsonSchema,
    Message,
    ReasoningDelta,
    Regex,
    Sampling,
    TextDelta,
    ThinkPart,
    Tool,
)
from small4.engine.config import EngineConfig
from small4.engine.worker import Worker
from small4.errors import (
    CacheTooSmallError,
    CheckpointNotFoundError,
    ConfigError,
    ContextLengthError,
    EffortError,
    RequestError,
    SamplingError,
    SchemaError,
    VerificationError,
)
from small4.hub.names import nano_directory
from small4.kernels.quantized import Kind
from small4.llm import LLM, ChatOptions
from small4.model.transformer import Transformer
from small4.providers.local import is_thinking
from small4.tokenizer.tekken import Tokenizer
from small4.train.data import NANO_TEKKEN
from small4.train.optim import initialise
from small4.train.presets import preset
from tests import naive


@pytest.fixture(scope="module")
def llm() -> LLM:
    config = preset("test").model
    model = Transformer(config)
    initialise(model, config.n_layers, seed=1)
    return LLM("tiny", model.requires_grad_(False), Tokenizer.from_file(NANO_TEKKEN))


def test_logits_are_float32_scores_of_every_token(llm: LLM) -> None:
    scores = llm.logits([1, 1072, 1073])
    assert scores.shape == (3, llm.config.vocab_size)
    assert scores.dtype == torch.float32
    assert int(scores[-1].argmax()) == naive.generate(llm.model, [1, 1072, 1073], max_tokens=1)[0]


def test_generate_equals_the_naive_generator(llm: LLM) -> None:
    prompt = [1, 3, 1072, 1073, 4]
    assert list(llm.generate(prompt, max_tokens=6, stop_ids=())) == naive.generate(llm.model, prompt, max_tokens=6)


def test_a_stream_ends_in_finish_and_counts_its_tokens(llm: LLM) -> None:
    events = list(llm.stream(ChatRequest(messages=(Message("user", "Hi"),), max_tokens=7)))
    finish = events[-1]
    assert isinstance(finish, Finish)
    assert finish.reason == "length"
    assert finish.usage.completion_tokens == 7
    assert not any(isinstance(event, Finish) for event in events[:-1])


def test_chat_gathers_the_same_answer_as_its_stream(llm: LLM) -> None:
    answer = llm.chat("Hi", max_tokens=9, temperature=1.0, seed=4)
    request = ChatRequest(messages=(Message("user", "Hi"),), max_tokens=9, sampling=Sampling(temperature=1.0, seed=4))
    assert answer == collect(llm.stream(request))


def test_a_stop_string_ends_the_answer_before_it(llm: LLM) -> None:
    request = ChatRequest(messages=(Message("user", "Hi"),), max_tokens=40, sampling=Sampling(temperature=2.0, seed=3))
    free = collect(llm.stream(request))
    middle = free.text[len(free.text) // 2 :][:2]
    stopped = collect(llm.stream(dataclasses.replace(request, stop=(middle,))))
    assert stopped.text == free.text.split(middle)[0]
    assert (stopped.finish_reason, stopped.stop) == ("stop", middle)
    assert stopped.usage.completion_tokens < free.usage.completion_tokens


def test_logprobs_are_those_of_the_logits(llm: LLM) -> None:
    prompt = [1, 3, 1072, 1073, 4]
    sampling = Sampling(temperature=1.0, seed=2, logprobs=2)
    draws = list(llm.generate(prompt, max_tokens=4, sampling=sampling, stop_ids=()).draws())
    tokens = prompt + [draw.token_id for draw in draws]
    scores = llm.logits(tokens)[len(prompt) - 1 : -1].double().log_softmax(-1)
    for draw, logprobs in zip(draws, scores, strict=True):
        assert draw.logprob == pytest.approx(float(logprobs[draw.token_id]), abs=1e-3)
        assert [value for _, value in draw.top] == pytest.approx(logprobs.topk(2).values.tolist(), abs=1e-3)


def test_a_forced_token_has_its_own_logprob(llm: LLM) -> None:
    prompt = [1, 34, 1072]
    [draw] = llm.generate(prompt, max_tokens=1, sampling=Sampling(logprobs=0), thinking_budget=0).draws()
    assert draw.token_id == 35
    assert draw.logprob == pytest.approx(float(llm.logits(prompt)[-1].double().log_softmax(-1)[35]), abs=1e-3)


@pytest.mark.parametrize("num_tokens", [0, 4])
def test_min_tokens_and_ignore_eos_keep_an_answer_going(llm: LLM, num_tokens: int) -> None:
    prompt, end = [1, 3, 1072, 1073, 4], ((2, 100.0),)  # a bias that makes </s> certain
    sampling = Sampling(logit_bias=end, min_tokens=num_tokens)
    assert len(list(llm.generate(prompt, max_tokens=9, sampling=sampling))) == num_tokens + 1
    ignored = Sampling(logit_bias=end, min_tokens=num_tokens, ignore_eos=True)
    assert list(llm.generate(prompt, max_tokens=9, sampling=ignored)) == [2] * 9


@pytest.mark.parametrize(
    "request_",
    [
        ChatRequest(messages=(Message("user", "Hi"),), stop=("",)),
        ChatRequest(messages=(Message("user", "Hi"),), max_tokens=5, sampling=Sampling(min_tokens=6)),
        ChatRequest(messages=(Message("user", "Hi"),), sampling=Sampling(logit_bias=((3072, 1.0),))),
    ],
)
def test_a_contradictory_request_raises_at_the_call(llm: LLM, request_: ChatRequest) -> None:
    with pytest.raises(SamplingError):
        llm.stream(request_)


def test_a_thinking_budget_of_nothing_leaves_no_reasoning(llm: LLM) -> None:
    opened = Message("assistant", (ThinkPart("let me", closed=False),), prefix=True)
    request = ChatRequest(messages=(Message("user", "Hi"), opened), max_tokens=5, thinking_budget=0, effort="high")
    answer = collect(llm.stream(request))
    assert answer.reasoning == ""
    assert answer.usage.reasoning_tokens == 1  # the forced [/THINK]


def test_a_prompt_over_the_context_names_both_numbers(llm: LLM) -> None:
    with pytest.raises(ContextLengthError, match="the limit is 2048"):
        llm.chat("word " * 4000)


def test_answer_now_ends_a_thought_that_would_not_end_by_itself(llm: LLM) -> None:
    opened = Message("assistant", (ThinkPart("let me", closed=False),), prefix=True)
    endless = Sampling(temperature=1.0, seed=1, logit_bias=((35, -100.0), (9, -100.0)), ignore_eos=True)
    request = ChatRequest(messages=(Message("user", "Hi"), opened), max_tokens=1000, effort="high", sampling=endless)
    stream = llm.stream(request)
    assert isinstance(next(stream), ReasoningDelta)
    stream.answer_now()
    assert any(isinstance(event, TextDelta) for event in stream)
    stream.close()
    assert list(stream) == []


def test_the_options_of_chat_are_the_fields_of_request_and_sampling() -> None:
    fields = {field.name for kind in (ChatRequest, Sampling) for field in dataclasses.fields(kind)}
    assert set(ChatOptions.__annotations__) == fields - {"messages", "sampling", "num_answers"}


def test_an_option_that_there_is_not_is_refused(llm: LLM) -> None:
    with pytest.raises(TypeError, match="temprature"):
        llm.chat("Hi", temprature=0.5)  # type: ignore[call-arg]


def test_several_answers_are_drawn_each_by_itself(llm: LLM) -> None:
    answers = llm.answers("Hi", 3, temperature=1.0, seed=4, max_tokens=9)
    assert answers[0] == llm.chat("Hi", temperature=1.0, seed=4, max_tokens=9)
    assert len({answer.text for answer in answers}) == 3


def test_a_stream_is_of_one_answer(llm: LLM) -> None:
    with pytest.raises(RequestError, match="ask for several with `answers`"):
        llm.stream(ChatRequest(messages=(Message("user", "Hi"),), num_answers=2))


def test_penalties_bias_and_logprobs_reach_the_engine(llm: LLM) -> None:
    free = llm.chat("Hi", max_tokens=12)
    assert free.text != llm.chat("Hi", max_tokens=12, repetition_penalty=10.0, frequency_penalty=2.0).text
    [logprobs] = llm.chat("Hi", max_tokens=1, logit_bias=((1200, 100.0),), logprobs=2).logprobs
    assert logprobs.token.token_id == 1200
    assert len(logprobs.top) == 2


def test_an_unknown_effort_names_those_there_are(llm: LLM) -> None:
    with pytest.raises(EffortError, match="none, high"):
        llm.chat("Hi", effort="medium")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no-such-model", "there are nano, small4"),
        ("nanno", "did you mean nano"),
        ("small4", "fetch it with: small4 pull small4"),
        ("~/no-such-directory", "there is nothing at /"),
        (Path("nano"), "there is nothing at nano"),
    ],
)
def test_a_name_that_is_not_here_tells_the_way_out(
    name: str | Path, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointNotFoundError, match=told):
        small4.load(name)


def test_loading_leaves_torchs_threads_to_the_caller() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    small4.load("nano")
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == 2


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ConfigError, match="float16"):
        small4.load("nano", dtype="float16")


def test_files_that_differ_from_the_manifest_are_not_loaded_unless_told_otherwise(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(nano_directory(), tmp_path / "copy"))
    tekken = copy / "tekken.json"
    tekken.write_text(tekken.read_text().replace('"version"', '"version" ', 1))
    with pytest.raises(VerificationError, match=r"tekken\.json has \d+ bytes, the manifest says"):
        small4.load(copy)
    assert small4.load(copy, check_digests=False).context_length == 2048


def test_a_tokenizer_larger_than_the_model_is_refused(llm: LLM) -> None:
    small = Transformer(dataclasses.replace(llm.config, vocab_size=2000))
    with pytest.raises(ConfigError, match=r"3072 ids, the model 2000"):
        LLM("small", small, llm.tokenizer)


@pytest.mark.parametrize(("ids", "expected"), [([1, 2], False), ([34, 5], True), ([34, 5, 35, 6], False)])
def test_an_open_thought_is_seen_in_the_prompt(ids: list[int], expected: bool) -> None:
    assert is_thinking(ids, 34, 35) is expected


def test_asyncio_streams_give_the_same_events(llm: LLM) -> None:
    requests = [ChatRequest(messages=(Message("user", text),), max_tokens=6) for text in ("Hi", "Ho", "17+4")]

    async def gather(request: ChatRequest) -> Answer:
        return collect([event async for event in llm.stream_async(request)])

    async def all_of_them() -> list[Answer]:
        return await asyncio.gather(*map(gather, requests))

    assert asyncio.run(all_of_them()) == [collect(llm.stream(request)) for request in requests]


def test_threads_that_ask_first_share_one_engine(llm: LLM) -> None:
    fresh = LLM("tiny", llm.model, llm.tokenizer)
    together = Barrier(8)

    def ask(_: int) -> Worker:
        together.wait(20)
        return fresh.provider.worker

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1


def test_many_requests_are_answered_in_order_and_told_one_by_one(llm: LLM) -> None:
    requests = [ChatRequest(messages=(Message("user", f"{i}+1"),), max_tokens=3 + i) for i in range(5)]
    told: list[int] = []
    answers = llm.answer_all(requests, on_answer=lambda index, answer: told.append(index))
    assert answers == [collect(llm.stream(request)) for request in requests]
    assert told == [0, 1, 2, 3, 4]


def test_among_many_requests_one_that_fails_has_its_error_and_the_others_their_answers(llm: LLM) -> None:
    good = ChatRequest(messages=(Message("user", "17+4"),), max_tokens=5)
    bad = dataclasses.replace(good, sampling=Sampling(min_tokens=6))
    first, second, third = llm.answer_all([good, bad, good])
    assert isinstance(second, SamplingError)
    assert first == third == collect(llm.stream(good))


def test_a_small_cache_names_itself_where_it_is_the_limit(llm: LLM) -> None:
    small = LLM("tiny", llm.model, llm.tokenizer, engine=EngineConfig(block_size=8, cache_bytes=60_000))
    assert small.cache_tokens < small.context_length
    with pytest.raises(CacheTooSmallError, match=rf"the cache holds {small.cache_tokens} .*--cache"):
        small.chat("word " * 200)
    answer = small.chat("Hi", ignore_eos=True)
    assert answer.finish_reason == "context"
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens == small.cache_tokens


def test_a_stop_string_ends_the_generation_behind_it(llm: LLM) -> None:
    whole = llm.chat("Hi", max_tokens=40)
    stop = whole.text[2:4]
    assert stop
    cut = llm.chat("Hi", max_tokens=40, stop=stop)
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    deadline = time.monotonic() + 20
    while llm.provider.worker.engine.num_running and time.monotonic() < deadline:
        time.sleep(0.005)
    assert llm.provider.worker.engine.num_running == 0


SUM_SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 999}, "sure": {"type": "boolean"}},
    "required": ["sum", "sure"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_has_the_form_that_was_asked_for(llm: LLM, seed: int) -> None:
    answer = llm.chat("17+4", response_format=JsonSchema(SUM_SCHEMA), temperature=1.5, seed=seed, max_tokens=200)
    assert answer.finish_reason == "stop"
    found = json.loads(answer.text)
    assert set(found) == {"sum", "sure"}
    assert 0 <= found["sum"] <= 999


def test_a_form_holds_behind_a_thought_that_is_closed_for_it(llm: LLM) -> None:
    request = ChatRequest(
        messages=(Message("user", "17+4"), Message("assistant", (ThinkPart("well", closed=False),), prefix=True)),
        response_format=Regex(r"[0-9]{2}"),
        effort="high",
        thinking_budget=4,
        max_tokens=30,
    )
    answer = collect(llm.stream(request))
    assert answer.usage.reasoning_tokens == 5  # four and [/THINK]
    assert re.fullmatch(r"[0-9]{2}", answer.text)
    assert answer.finish_reason == "stop"


def test_a_call_that_is_required_comes(llm: LLM) -> None:
    tool = Tool("add", "Add two numbers.", SUM_SCHEMA, strict=True)
    answer = llm.chat("17+4", tools=[tool], tool_choice="required", temperature=1.0, seed=1, max_tokens=300)
    assert answer.tool_calls[0].name == "add"
    assert set(json.loads(answer.tool_calls[0].arguments)) == {"sum", "sure"}
    assert answer.finish_reason == "tool_calls"


def test_a_schema_that_cannot_be_enforced_is_refused_before_the_first_token(llm: LLM) -> None:
    with pytest.raises(SchemaError, match="'not'"):
        llm.chat("17+4", response_format=JsonSchema({"not": {"type": "string"}}))
    assert llm.provider.worker.engine.num_waiting == 0


@pytest.mark.parametrize("quant", ["int8", "int4"])
def test_packed_weights_still_do_sums(quant: Kind) -> None:
    packed = small4.load("nano", quant=quant)
    assert packed.chat("17+48+36", effort="high").text == "101"


def test_an_unknown_packing_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="int8 or int4"):
        small4.load("nano", quant="int3")  # type: ignore[arg-type]
