"""Training learns, balances, resumes bit for bit, and survives torn states."""

import dataclasses
import resource
from pathlib import Path

import pytest
import torch

from small4.errors import ConfigError, SaveError, TrainingStateError
from small4.model.transformer import Transformer
from small4.tokenizer.tekken import Tokenizer
from small4.train.data import NANO_TEKKEN, training_batch
from small4.train.loop import Report, train
from small4.train.loss import RoutingRecord, compute_loss
from small4.train.optim import Muon, make_optimizers, orthogonalise, rate_share
from small4.train.presets import OptimConfig, preset

CONFIG = preset("test")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(NANO_TEKKEN)


def test_training_lowers_the_loss_and_reports_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    reports: list[Report] = []
    config = dataclasses.replace(CONFIG, steps=40)
    train(config, tokenizer, tmp_path, on_report=reports.append)
    assert reports[-1].step == 40
    assert reports[-1].loss < reports[0].loss - 1.0
    assert 1.0 <= reports[-1].max_load <= 4.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    tokenizer: Tokenizer, tmp_path: Path, optimizer: str
) -> None:
    config = dataclasses.replace(CONFIG, optim=OptimConfig(name=optimizer))
    whole, whole_progress = train(config, tokenizer, tmp_path / "whole")
    train(config, tokenizer, tmp_path / "cut", stop_at=10)
    resumed, resumed_progress = train(config, tokenizer, tmp_path / "cut", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert dataclasses.replace(whole_progress, seconds=0) == dataclasses.replace(resumed_progress, seconds=0)


def test_a_torn_state_is_passed_over_for_the_whole_one_before(tokenizer: Tokenizer, tmp_path: Path) -> None:
    train(CONFIG, tokenizer, tmp_path)  # states at 10 and 20
    weights = tmp_path / "state-0000020" / "model.safetensors"
    torn = bytearray(weights.read_bytes())
    torn[-1] ^= 1
    weights.write_bytes(torn)
    reports: list[Report] = []
    train(CONFIG, tokenizer, tmp_path, resume=True, on_report=reports.append)
    assert [report.step for report in reports] == [20]  # trained 10 to 20 again


def test_a_half_written_state_is_never_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "state-0000010").mkdir(parents=True)
    (tmp_path / "state-0000010" / "state.json").write_text('{"config": ')
    with pytest.raises(TrainingStateError, match="no whole training state"):
        train(CONFIG, tokenizer, tmp_path, resume=True)


def test_a_disk_that_refuses_a_state_leaves_the_earlier_one_whole(tokenizer: Tokenizer, tmp_path: Path) -> None:
    train(CONFIG, tokenizer, tmp_path, stop_at=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # bytes of any one file; a state has more
    try:
        with pytest.raises(SaveError, match="earlier states are whole"):
            train(CONFIG, tokenizer, tmp_path, resume=True, stop_at=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["state-0000002"]
    assert train(CONFIG, tokenizer, tmp_path, resume=True, stop_at=4)[1].step == 4


def test_a_state_of_another_configuration_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    train(CONFIG, tokenizer, tmp_path, stop_at=10)
    with pytest.raises(TrainingStateError, match="another configuration"):
        train(dataclasses.replace(CONFIG, seed=5), tokenizer, tmp_path, resume=True)


def test_a_batch_depends_on_seed_and_step_alone(tokenizer: Tokenizer) -> None:
    first, again = training_batch(CONFIG, tokenizer, 3), training_batch(CONFIG, tokenizer, 3)
    assert torch.equal(first.tokens_T, again.tokens_T)
    assert not torch.equal(first.tokens_T[:64], training_batch(CONFIG, tokenizer, 4).tokens_T[:64])


def test_only_assistant_tokens_carry_loss(tokenizer: Tokenizer) -> None:
    batch = training_batch(CONFIG, tokenizer, 0)
    open_user, close_user = tokenizer.special_id("[INST]"), tokenizer.special_id("[/INST]")
    asked = set()
    inside = False
    for place, token in enumerate(batch.tokens_T.tolist()):
        inside = token == open_user or (inside and token != close_user)
        if inside or token == close_user:
            asked.add(place)
    targets = (batch.source_M + 1).tolist()
    assert targets
    assert asked.isdisjoint(targets)
    assert torch.equal(batch.tokens_T[targets], batch.target_M)


def test_the_balance_loss_is_one_for_even_load_and_grows_with_uneven(tokenizer: Tokenizer) -> None:
    ids = torch.arange(4).repeat(8)[:, None]
    even, uneven = RoutingRecord(), RoutingRecord()
    even(0, torch.zeros(32, 4), ids)
    uneven(0, torch.tensor([5.0, 0.0, 0.0, 0.0]).repeat(32, 1), torch.zeros(32, 1, dtype=torch.long))
    assert float(even.balance()[0]) == pytest.approx(1.0)
    assert float(uneven.balance()[0]) > 3.5
    assert float(uneven.balance()[2]) == pytest.approx(4.0)


def test_losses_reach_every_parameter(tokenizer: Tokenizer) -> None:
    model = Transformer(CONFIG.model)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    compute_loss(model, training_batch(CONFIG, tokenizer, 0), 0.01, 0.001).total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_schedule_warms_up_holds_and_decays() -> None:
    config = OptimConfig(warmup_share=0.1, decay_share=0.3, final_share=0.02)
    shares = [rate_share(config, step, 100) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == shares[50] == shares[70] == 1.0
    assert shares[85] == pytest.approx(0.5)
    assert shares[99] == pytest.approx(1 / 30)


def test_muon_steps_are_nearly_orthogonal_for_each_expert() -> None:
    torch.manual_seed(0)
    stack = torch.randn(3, 16, 40)
    values = torch.linalg.svdvals(orthogonalise(stack))
    assert values.shape == (3, 16)
    assert float(values.min()) > 0.4
    assert float(values.max()) < 1.3


def test_muon_leaves_embeddings_gates_and_norms_to_adamw() -> None:
    model = Transformer(CONFIG.model)
    adamw, muon = make_optimizers(model, OptimConfig(name="muon"))
    assert isinstance(muon, Muon)
    names = {id(p): name for name, p in model.named_parameters()}
    by_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert by_adamw | by_muon == set(names.values())
    assert by_adamw.isdisjoint(by_muon)
    assert {"tok_embeddings.weight", "layers.0.gate.weight", "norm.weight"} <= by_adamw
    assert {"layers.0.experts.w13", "layers.1.attention.wo.weight"} <= by_muon


def test_an_unknown_preset_or_optimiser_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="there are first"):
        preset("huge")
    with pytest.raises(ConfigError, match="adamw and muon"):
        make_optimizers(Transformer(CONFIG.model), OptimConfig(name="sgd"))
