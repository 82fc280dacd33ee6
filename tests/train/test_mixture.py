"""The mix holds its shares and its phases, thoughts are cut as a budget cuts them, and images train the tower."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from small4.errors import ConfigError
from small4.model.transformer import Transformer
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import TrainingExample, render_training
from small4.train.conversations import Conversations, conversation, cut_thought, last_turn_only, opening_tokens
from small4.train.data import Feed, training_tokenizer
from small4.train.loop import train
from small4.train.loss import compute_loss
from small4.train.mixture import SHORT_SKILLS, WHOLE, Group, Mixture
from small4.train.optim import initialise, make_optimizers
from small4.train.presets import preset
from small4.train.tasks.problem import is_held_out
from small4.train.tasks.skills import sample

CONFIG = preset("test-whole")
SHORT, MAIN, LAST = range(3)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return training_tokenizer(CONFIG)


@pytest.fixture(scope="module")
def feed(tokenizer: Tokenizer) -> Feed:
    return Feed(CONFIG, tokenizer)


@pytest.fixture(scope="module")
def conversations(feed: Feed) -> Conversations:
    assert feed.conversations is not None
    return feed.conversations


@pytest.fixture
def thinking(tokenizer: Tokenizer) -> TrainingExample:
    problems = [sample("sum3", Random(seed)) for seed in range(2)]
    return render_training(tokenizer, conversation(problems, "high"), effort="high")


@pytest.mark.parametrize("phase", [MAIN, LAST])
def test_every_group_has_its_share_of_the_tokens(
    conversations: Conversations, tokenizer: Tokenizer, phase: int
) -> None:
    rng, tokens = Random(phase), Counter[str]()
    group_of = {skill: name for name, group in conversations.mixture.groups.items() for skill in group.skills}
    for _ in range(1000):
        problems, effort = conversations.exchanges(rng, phase)
        for problem in problems:
            row = render_training(tokenizer, conversation([problem], effort), tools=problem.tools, effort=effort)
            tokens[group_of[problem.skill]] += len(row.token_ids) - opening_tokens(tokenizer, effort)
    for name, group in conversations.mixture.groups.items():
        assert tokens[name] / tokens.total() == pytest.approx(group.share, abs=0.04), name


def test_the_run_begins_with_short_forms(conversations: Conversations) -> None:
    rng = Random(0)
    for _ in range(300):
        problems, effort = conversations.exchanges(rng, SHORT)
        assert {problem.skill for problem in problems} <= set(SHORT_SKILLS)
        assert effort == "none" or len(problems) == 1


def test_the_run_ends_with_whole_conversations(conversations: Conversations) -> None:
    rng = Random(0)
    drawn = [conversations.exchanges(rng, LAST) for _ in range(300)]
    assert {len(problems) for problems, effort in drawn if effort == "high"} == {1, 2, 3}


def test_phases_change_where_they_say() -> None:
    assert [WHOLE.phase(step, 100) for step in (0, 14, 15, 69, 70, 99)] == [SHORT, SHORT, MAIN, MAIN, LAST, LAST]


def test_nothing_held_out_is_ever_trained_on(conversations: Conversations) -> None:
    rng = Random(1)
    for phase in (SHORT, MAIN, LAST):
        for _ in range(200):
            assert not any(is_held_out(problem.key) for problem in conversations.exchanges(rng, phase)[0])


def test_tools_and_rules_have_their_row_to_themselves(conversations: Conversations) -> None:
    rng = Random(2)
    for _ in range(600):
        problems, _ = conversations.exchanges(rng, LAST)
        assert len(problems) == 1 or not any(problem.tools or problem.system for problem in problems)


def test_a_cut_thought_is_a_beginning_of_the_thought_and_nobody_learns_to_cut(
    thinking: TrainingExample, tokenizer: Tokenizer
) -> None:
    control, rng = tokenizer.control, Random(0)
    whole = thinking.token_ids
    close = len(whole) - 1 - whole[::-1].index(control.end_think)
    for _ in range(30):
        row = cut_thought(thinking, control, rng)
        cut = len(row.token_ids) - 1 - row.token_ids[::-1].index(control.end_think)
        assert row.token_ids[:cut] == whole[:cut]
        assert row.token_ids[cut:] == whole[close:]
        assert row.is_target[:cut] == thinking.is_target[:cut]
        assert row.is_target[cut:] == [False, *thinking.is_target[close + 1 :]]
        assert cut < close


def test_without_its_thoughts_an_earlier_turn_carries_no_loss(thinking: TrainingExample, tokenizer: Tokenizer) -> None:
    row = last_turn_only(thinking, tokenizer.control)
    ends = [place for place, token in enumerate(row.token_ids) if token == tokenizer.control.end_inst]
    assert not any(row.is_target[: ends[-1] + 1])
    assert all(row.is_target[ends[-1] + 1 :])


def test_a_padded_step_has_exactly_its_tokens(tokenizer: Tokenizer) -> None:
    assert isinstance(CONFIG.mix, Mixture)
    padded = Feed(replace(CONFIG, mix=replace(CONFIG.mix, is_padded=True)), tokenizer)
    for step in range(5):
        batch = padded.batch(step)
        assert len(batch.tokens_T) == sum(batch.lengths) == CONFIG.tokens_per_step
        assert tokenizer.special_id("<pad>") not in batch.target_M


def test_a_step_of_the_mix_is_the_same_each_time(feed: Feed, tokenizer: Tokenizer) -> None:
    first, again = feed.batch(9), Feed(CONFIG, tokenizer).batch(9)
    assert torch.equal(first.tokens_T, again.tokens_T)
    assert all(torch.equal(a, b) for a, b in zip(first.images, again.images, strict=True))


def with_images(feed: Feed) -> int:
    """The first step whose batch holds an image."""
    return next(step for step in range(20) if feed.batch(step).images)


def test_the_loss_reaches_the_tower_and_the_projector(feed: Feed) -> None:
    model = Transformer(CONFIG.model)
    initialise(model, CONFIG.model.n_layers, seed=0)
    compute_loss(model, feed.batch(with_images(feed)), 0.01, 0.001).total.backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []
    assert any(name.startswith("vision_encoder") for name, _ in model.named_parameters())


def test_the_image_path_learns_at_a_quarter_of_the_rate() -> None:
    model = Transformer(CONFIG.model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    (adamw,) = make_optimizers(model, CONFIG.optim)
    rates = {names[id(p)]: group["peak"] for group in adamw.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    for name, rate in rates.items():
        share = 0.25 if name.startswith(("vision", "patch_merger", "pre_mm")) else 1.0
        assert rate == share * CONFIG.optim.learning_rate, name


def test_an_image_changes_what_is_learned(feed: Feed) -> None:
    model = Transformer(CONFIG.model)
    initialise(model, CONFIG.model.n_layers, seed=0)
    batch = feed.batch(with_images(feed))
    dark = replace(batch, images=tuple(torch.zeros_like(image) for image in batch.images))
    with torch.no_grad():
        losses = [float(compute_loss(model, each, 0.0, 0.0).cross_entropy) for each in (batch, dark)]
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_a_run_over_the_whole_mix_resumes_bit_for_bit(tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=4, save_every=2)
    whole, whole_progress = train(config, tokenizer, tmp_path / "whole")
    train(config, tokenizer, tmp_path / "cut", stop_at=2)
    resumed, progress = train(config, tokenizer, tmp_path / "cut", resume=True)
    assert progress.loss == whole_progress.loss
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_mixture_of_unknown_skills_or_unended_phases_is_refused() -> None:
    with pytest.raises(ConfigError, match="poetry"):
        Group(share=1.0, high_share=0.0, skills={"poetry": 1.0})
    with pytest.raises(ConfigError, match=r"rise to 1\.0"):
        replace(WHOLE, phases=WHOLE.phases[:2])
