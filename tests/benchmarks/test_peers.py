"""What the benchmark against other engines counts, compares and judges."""

import math
from pathlib import Path

import pytest
import torch

from benchmarks.peers.divergence import divergence, engine_logits
from benchmarks.peers.environment import MissingPeerError
from benchmarks.peers.floor import gguf_traffic, model_traffic, routing_shares
from benchmarks.peers.llama import Worker
from benchmarks.peers.measures import BF16, LLAMA_16, ONE, OURS, Row, compare, depth_of, verdicts
from benchmarks.peers.mini import InMemory
from benchmarks.peers.rounded import dense_of_gguf, dense_of_packed, gguf_storage, packed_storage
from benchmarks.peers.rounds import CASES, Case, Entry, run_rounds
from small4.checkpoint.gguf_write import write_gguf
from small4.kernels.quantized import packed_linear
from small4.model.config import MoeConfig
from small4.model.quantize import quantize_model
from tests.checkpoint.gguf_models import tiny_config, tiny_model

MOE = MoeConfig(num_experts=8, num_experts_per_tok=2, expert_hidden_dim=32)
CONFIG = tiny_config(vision=None, n_layers=2, moe=MOE)


def test_divergence_is_the_textbook_sum() -> None:
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    wanted = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.0]
    assert divergence(p.log() + 3, q.log()).tolist() == pytest.approx(wanted, abs=1e-7)


def test_a_step_reads_all_weights_but_embeddings_and_the_experts_not_chosen() -> None:
    model = tiny_model(CONFIG)
    traffic, each = model_traffic(model), sum(parameter.nbytes for parameter in model.parameters())
    assert traffic.step_bytes(1.0, 0) == each - model.tok_embeddings.weight.nbytes
    assert traffic.step_bytes(0.25, 1000) == traffic.step_bytes(1.0, 0) - 0.75 * traffic.routed + 1000


def test_packed_weights_are_read_at_their_packed_size() -> None:
    plain, packed = tiny_model(CONFIG), tiny_model(CONFIG)
    quantize_model(packed, "int8")
    before, after = model_traffic(plain), model_traffic(packed)
    assert after.routed == pytest.approx(before.routed * 8.5 / 16)
    assert 8.5 / 16 * before.every_step < after.every_step < before.every_step


def test_one_token_chooses_its_experts_and_many_choose_more() -> None:
    with torch.no_grad():
        shares = routing_shares(tiny_model(CONFIG), (1, 8, 64))
    assert shares[1] == 2 / 8
    assert shares[1] < shares[8] < shares[64] <= 1.0


def test_weights_of_a_bf16_file_are_the_models_own(tmp_path: Path) -> None:
    model = tiny_model(CONFIG)
    (path,) = write_gguf(InMemory(CONFIG, model.state_dict()), tmp_path / "m.gguf", "gguf-bf16")
    dense = dense_of_gguf(path, CONFIG)
    assert dense.keys() == model.state_dict().keys()
    assert all(torch.equal(dense[name], tensor.float()) for name, tensor in model.state_dict().items())
    assert gguf_storage(path).types["attention.wo"] == "BF16"
    # The gate is float32 in GGUF, and so are vectors.
    assert 0 <= gguf_traffic(path).step_bytes(1.0, 0) - model_traffic(model).step_bytes(1.0, 0) < 8000


def test_dense_weights_of_a_packed_model_are_what_its_products_multiply_by() -> None:
    packed = tiny_model(CONFIG)
    quantize_model(packed, "int8")
    dense = dense_of_packed(packed)
    assert dense.keys() == tiny_model(CONFIG).state_dict().keys()
    x = torch.eye(64)  # rounded to 8 bits without loss
    assert torch.allclose(
        packed_linear(x, packed.layers[0].attention.wo.weight).T, dense["layers.0.attention.wo.weight"]
    )
    shared = packed.layers[1].experts.weights[2][0]
    both = torch.cat([dense[f"layers.1.shared_experts.{part}.weight"] for part in ("w1", "w3")])
    assert torch.allclose(packed_linear(x, shared).T, both)
    assert packed_storage(packed).types["shared_experts.w13"] == "int8"


class Recorder:
    """Takes as many seconds as it is told, and notes when it was asked."""

    def __init__(self, name: str, seconds: float, log: list[tuple[str, Case]]) -> None:
        self.name, self.seconds, self.log = name, seconds, log

    def decode(self, num_streams: int, context: int, num_steps: int) -> list[float]:
        self.log.append((self.name, ("decode", num_streams, context)))
        return [self.seconds] * num_steps

    def prompt(self, length: int) -> float:
        self.log.append((self.name, ("prompt", 1, length)))
        return self.seconds


def test_contenders_take_turns_and_the_first_round_is_not_counted() -> None:
    log: list[tuple[str, Case]] = []
    entries = {name: Entry(Recorder(name, 1.0, log)) for name in "ab"}
    times = run_rounds(entries, 2, pause=0.0)
    assert all(len(rounds) == 2 for of_name in times.values() for rounds in of_name.values())
    in_turn = [[(name, case) for case in CASES for name in order] for order in ("ba", "ab", "ba")]
    assert log == [entry for each in in_turn for entry in each]


def test_a_verdict_is_the_ratio_of_speeds_against_must_and_goal() -> None:
    def outcome(ours: float, peer: float) -> str:
        log: list[tuple[str, Case]] = []
        pair = {BF16[0]: Recorder("ours", ours, log), LLAMA_16[0]: Recorder("peer", peer, log)}
        times = run_rounds({name: Entry(contender) for name, contender in pair.items()}, 1, pause=0.0)
        verdict = compare(Row("decode", ONE, BF16, LLAMA_16, 1.0, 1.5), times)
        assert verdict is not None
        assert verdict.ratio == pytest.approx(peer / ours)
        return verdict.outcome

    assert [outcome(1.0, peer) for peer in (0.99, 1.0, 1.49, 1.5)] == ["MISSED", "must met", "must met", "goal met"]


def test_a_row_without_a_contender_is_left_out_and_depth_compares_one_with_itself() -> None:
    log: list[tuple[str, Case]] = []
    times = run_rounds({OURS["int4"]: Entry(Recorder("ours", 2.0, log))}, 1, pause=0.0)
    whats = [verdict.what for verdict in verdicts(times)]
    assert whats == ["decode at 4096 over decode at 128", *["cache bytes per token of the release"] * 2]
    assert depth_of(OURS["int4"], times).outcome == "goal met"


@pytest.mark.slow
def test_llama_cpp_runs_our_file_and_its_own_quantised_form_of_it(tmp_path: Path) -> None:
    """Logits have deviation 1; a model that is another one diverges by tenths."""
    try:
        worker, quantiser = Worker(), Worker()
    except MissingPeerError as error:
        pytest.skip(str(error))
    model, tokens = tiny_model(CONFIG), [(i * 7 % 9) * 10 for i in range(48)]
    (path,) = write_gguf(InMemory(CONFIG, model.state_dict()), tmp_path / "m.gguf", "gguf-bf16")
    small = tmp_path / "small.gguf"
    quantiser.ask("quantize", source=str(path), target=str(small), kind="Q8_0", threads=1)
    quantiser.ask("open", path=str(small), threads=1)
    worker.ask("open", path=str(path), threads=1)
    with torch.no_grad():
        ours = engine_logits(model, tokens, num_single=8)
    assert divergence(ours, worker.logits(tokens, CONFIG.vocab_size)).mean() < 0.005
    assert divergence(ours, quantiser.logits(tokens, CONFIG.vocab_size)).mean() < 0.02
    with pytest.raises(RuntimeError, match=r"^decode: "):
        worker.ask("decode", streams="none")
    worker.close()
    quantiser.close()
