"""Guesses of the draft head on the engine: those of its definition, whatever chunks, company, rests and preemptions."""

from collections.abc import Sequence as Items
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from small4.chat import Sampling
from small4.engine.config import EngineConfig
from small4.engine.draft_runner import DraftRunner
from small4.engine.engine import Engine, GenerationRequest
from small4.engine.scheduler import Run
from small4.engine.sequence import Sequence
from small4.errors import ConfigError, MemoryBudgetError
from small4.model.attention import FullAttention
from small4.model.config import DraftConfig, VisionConfig
from small4.model.draft_head import DraftHead
from small4.model.transformer import Transformer
from small4.train.optim import initialise
from tests.engine.tiny import (
    PROMPTS,
    Expected,
    engine_of,
    kindred_head,
    random_prompt,
    strange_head,
    submit,
    tiny_model,
)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return tiny_model()


@pytest.fixture(scope="module")
def expected(model: Transformer) -> Expected:
    return Expected(model)


@torch.inference_mode()
def by_definition(
    model: Transformer, head: DraftHead, tokens: list[int], count: int, images: Items[Tensor] = ()
) -> list[int]:
    """No cache, no batch: the head over the whole sequence again for every guess."""
    drafts: list[int] = []
    embedding_TD = model.embed(torch.tensor(tokens), images)[1:]
    places_T = torch.arange(len(tokens))
    hidden_TD = model.hidden(torch.tensor(tokens), places_T, FullAttention([len(tokens)]), images)[:-1]
    while True:
        num_rows = len(hidden_TD)
        guess_TD = head(embedding_TD, hidden_TD, torch.arange(num_rows), FullAttention([num_rows]))
        drafts.append(int(model.logits(guess_TD[-1:]).argmax()))
        if len(drafts) == count:
            return drafts
        embedding_TD = torch.cat([embedding_TD, model.tok_embeddings(torch.tensor(drafts[-1:]))])
        hidden_TD = torch.cat([hidden_TD, guess_TD[-1:]])


class Checked:
    """A draft runner whose every guess is held to the definition."""

    def __init__(self, runner: DraftRunner) -> None:
        self.runner, self.num_checked = runner, 0
        for layer in runner.cache.layers:
            layer.fill_(float("nan"))  # a row that nobody wrote must show
        runner.waiting.fill_(float("nan"))

    def propose(self, wishes: Items[tuple[Run, int]]) -> list[list[int]]:
        guessed = self.runner.propose(wishes)
        for (run, count), drafts in zip(wishes, guessed, strict=True):
            sequence = run.sequence
            if drafts:
                wanted = by_definition(
                    self.runner.target.model, self.runner.head, sequence.tokens, count, sequence.images
                )
                assert drafts == wanted
                self.num_checked += 1
        return guessed


def check(engine: Engine) -> Checked:
    """Put a check between the engine and its draft runner."""
    assert engine.speculation is not None
    assert engine.draft_runner is not None
    checked = engine.speculation.drafter = Checked(engine.draft_runner)
    return checked


@pytest.mark.parametrize("seed", range(2))
def test_guesses_are_those_of_the_definition_in_any_company(model: Transformer, seed: int) -> None:
    rng = Random(seed)
    engine = engine_of(
        model,
        num_blocks=22,
        draft_head=[strange_head, kindred_head][seed](model),
        clock=rng.random,  # drafts pay by whim, so that states wait for some steps
        max_step_tokens=[12, 64][seed],
        max_running=4,
        has_prefix_cache=False,
    )
    checked = check(engine)
    sequences = [submit(engine, random_prompt(rng, rng.randint(2, 40)), 20) for _ in range(5)]
    engine.run_to_end()
    assert checked.num_checked > 10
    assert sum(sequence.num_preemptions for sequence in sequences) > 0
    assert engine.draft_runner is not None
    assert sorted(engine.draft_runner.free_rows) == [0, 1, 2, 3]


def test_a_block_of_the_prefix_cache_has_the_rows_of_the_head(model: Transformer, expected: Expected) -> None:
    engine = engine_of(model, draft_head=strange_head(model))
    checked, prompt = check(engine), PROMPTS[0][:21]
    assert engine.speculation is not None
    engine.speculation.rule.max_drafts = 0  # nothing but full blocks makes rows for the first one
    first = submit(engine, prompt, 20)
    engine.run_to_end()
    engine.speculation.rule.max_drafts = 4
    again = submit(engine, [*prompt, *first.output], 12)
    engine.run_to_end()
    assert again.num_cached == 40
    assert again.output == expected(again.tokens[: again.num_prompt], 12)
    assert checked.num_checked > 5


def test_guesses_pay_for_the_sequences_of_one_prompt_from_their_first_tokens(model: Transformer) -> None:
    engine = engine_of(model, draft_head=kindred_head(model))
    checked = check(engine)
    hot = Sampling(temperature=1.0, seed=4)
    engine.submit(GenerationRequest(prompt=PROMPTS[1][:21], max_tokens=12, num_sequences=4, sampling=hot))
    engine.run_to_end()
    assert checked.num_checked > 8


def test_guesses_are_mostly_taken_where_head_and_model_agree(model: Transformer, expected: Expected) -> None:
    engine = engine_of(model, draft_head=kindred_head(model))
    sequence = submit(engine, PROMPTS[0], 60)
    engine.run_to_end()
    assert engine.speculation is not None
    assert engine.speculation.num_accepted > 40
    assert engine.num_steps < 20
    assert sequence.output == expected(PROMPTS[0], 60)


def test_an_aborted_sequence_leaves_nothing_with_the_head(model: Transformer) -> None:
    engine = engine_of(model, draft_head=strange_head(model))
    sequences = [submit(engine, prompt, 20) for prompt in PROMPTS[:3]]
    for _ in range(4):
        engine.step()
    for sequence in sequences:
        engine.abort(sequence)
    assert engine.draft_runner is not None
    assert engine.draft_runner.seats == {}
    assert len(engine.draft_runner.free_rows) == engine.config.max_running


def test_guesses_behind_an_image_are_those_of_the_definition() -> None:
    vision = VisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=56
    )
    model = Transformer(replace(tiny_model().config, vision=vision))
    initialise(model, model.config.n_layers, seed=3)
    with torch.no_grad():
        model.tok_embeddings.weight.mul_(8.0)
    model.requires_grad_(False)
    text = replace(model.config, moe=None, vision=None, n_layers=1)
    head = DraftHead(DraftConfig(text=text)).requires_grad_(False)
    initialise(head, 1, seed=2)
    engine = engine_of(model, draft_head=head, max_step_tokens=4, max_running=2)  # a chunk ends inside the image
    checked, image = check(engine), torch.randn(3, 56, 56, generator=torch.Generator().manual_seed(1))
    sequence = submit(engine, [5, 6, 10, 10, 12, 10, 10, 13, 7], 12, images=[image])
    engine.run_to_end()
    assert sequence.error is None
    assert checked.num_checked > 5


def test_the_plan_counts_the_head_to_the_byte(model: Transformer) -> None:
    head = strange_head(model)
    for cache_format in ("model", "fp8"):
        config = EngineConfig(cache_format=cache_format, cache_bytes=3_000_000, max_running=4)  # type: ignore[arg-type]
        engine = Engine(model, config, context_length=256, draft_head=head)
        runner = engine.draft_runner
        assert runner is not None
        own = engine.runner.cache
        tensors = [*own.layers, *(own.scales or []), *runner.cache.layers, runner.waiting]
        assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) == engine.cache_plan.size_bytes
        assert len(runner.cache.layers[0]) == engine.cache_plan.num_blocks
    assert "the draft head's: 192" in str(engine.cache_plan)


def test_a_cache_without_room_for_the_waiting_states_says_how_much_is_missing(model: Transformer) -> None:
    with pytest.raises(MemoryBudgetError, match=r"takes 282,624; 182,624 are missing.*--cache"):
        Engine(model, EngineConfig(cache_bytes=100_000), draft_head=strange_head(model))


def test_a_head_of_another_model_is_refused_by_what_differs(model: Transformer) -> None:
    text = replace(model.config, moe=None)
    for change, message in (
        ({"dim": 48}, "width 48, this one has 32"),
        ({"vocab_size": 4096}, "vocabulary 4096, this one has 3072"),
    ):
        with pytest.raises(ConfigError, match=message):
            engine_of(model, draft_head=DraftHead(DraftConfig(text=replace(text, **change))))
    with pytest.raises(ConfigError, match=r"torch.bfloat16 and the model in torch.float32"):
        engine_of(model, draft_head=strange_head(model).bfloat16())


def test_without_drafts_a_head_takes_no_memory(model: Transformer) -> None:
    engine = engine_of(model, draft_head=strange_head(model), max_draft_tokens=0)
    assert (engine.draft_runner, engine.speculation, engine.cache_plan.waiting_bytes) == (None, None, 0)


class RowClock:
    """Time by rows that go through the model: a step costs as much as five of them."""

    def __init__(self, model: Transformer) -> None:
        self.now = 0.0
        self.hook = model.norm.register_forward_hook(self.count)

    def count(self, module: object, arguments: tuple[Tensor], output: Tensor) -> None:
        self.now += 1.0 + 0.2 * len(output)

    def __call__(self) -> float:
        return self.now


def test_the_rule_rests_a_head_that_guesses_wrong_and_uses_one_that_guesses_right(model: Transformer) -> None:
    num_drafted = []
    for head in (strange_head(model), kindred_head(model)):
        clock = RowClock(model)
        engine = engine_of(model, draft_head=head, clock=clock)
        submit(engine, PROMPTS[0], 150)
        engine.run_to_end()
        clock.hook.remove()
        assert engine.speculation is not None
        num_drafted.append(engine.speculation.num_drafted)
    assert num_drafted[0] < 50
    assert num_drafted[1] > 75


def test_sequences_of_a_line_take_their_seats_in_turn(model: Transformer, expected: Expected) -> None:
    engine = engine_of(model, draft_head=kindred_head(model), max_running=2, num_blocks=24)
    sequences: list[Sequence] = [submit(engine, prompt, 9) for prompt in PROMPTS]
    engine.run_to_end()
    assert [sequence.output for sequence in sequences] == [expected(prompt, 9) for prompt in PROMPTS]
