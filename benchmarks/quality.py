"""What four and eight bits cost: divergence of packed models from their BF16 weights, beside llama.cpp's formats.

    python -m benchmarks.quality                  the nano, and a wider model if it has been trained here
    python -m benchmarks.peers.wide               trains that one, ten minutes on two cores

The text is conversations over the nano's held-out problems; figures are means over the tokens of the answers. The
reference is the BF16 model computed in float32. *As run* is our engine or llama.cpp with what each rounds on the way;
*weights alone* puts the rounded weights into the reference. The nano's rows are mostly shorter than 256: there our int4
takes int8, and llama.cpp takes wider types too, which the second table tells tensor by tensor. All rows of the wider
model are at least 256 but those of the keys' half of wkv_b. Exits with 1 where our int4 diverges more than Q4_K_M.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

import torch
from torch import Tensor

from benchmarks.peers.divergence import divergence, engine_logits
from benchmarks.peers.llama import Worker
from benchmarks.peers.mini import InMemory, gguf_file
from benchmarks.peers.rounded import Storage, dense_of_gguf, dense_of_packed, gguf_storage, packed_storage
from benchmarks.peers.wide import checkpoint
from benchmarks.report import print_table, write_results
from small4.chat import Effort, Message
from small4.checkpoint.load import load_model
from small4.kernels.ops import backend
from small4.llm import load
from small4.model.attention import FullAttention
from small4.model.config import ModelConfig
from small4.model.quantize import fuse_model, quantize_model
from small4.model.transformer import Transformer
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render_training
from small4.train.data import NANO_TEKKEN, assistant_turn, sample_problem
from small4.train.evaluate import ENGINE, evaluate
from small4.train.presets import NANO_MIX

NANO = NANO_TEKKEN.parent
OURS = ("bf16", "int8", "int4")
THEIRS = ("BF16", "Q8_0", "Q4_K_M", "Q4_0")


@dataclass(frozen=True, slots=True)
class Text:
    """One conversation: its tokens, and the places from which the assistant's tokens are predicted."""

    tokens: list[int]
    places: Tensor


@dataclass(frozen=True, slots=True)
class Figure:
    """One format of one model."""

    name: str
    as_run: float  # KL in nats
    weights_alone: float
    same_choice: float  # share of places where the likeliest token is the reference's
    num_bytes: int  # of all weights as they are stored
    types: dict[str, str]  # kind of parameter -> how it is stored


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what packed weights cost in quality.")
    parser.add_argument("--conversations", type=int, default=60)
    parser.add_argument("--problems", type=int, default=100, help="of every skill and effort, for the nano's accuracy")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts = list(conversations(arguments.conversations))
    models = {"nano": NANO, "wide": checkpoint()}
    if not models["wide"].exists():
        print("the wider model has not been trained here: python -m benchmarks.peers.wide")
        del models["wide"]
    results: dict[str, object] = {"settings": vars(arguments), "kernels": backend().name}
    is_met = True
    with torch.inference_mode():
        for name, directory in models.items():
            figures = compare(load_model(directory), texts, arguments.threads)
            show(name, figures)
            by_name = {figure.name: figure for figure in figures}
            is_met &= by_name["small4 int4"].as_run <= by_name["llama.cpp Q4_K_M"].as_run
            results[name] = [dataclasses.asdict(figure) for figure in figures]
    results["nano accuracy"] = accuracies(arguments.problems)
    print(f"written to {write_results('quality', results)}")
    return 0 if is_met else 1


def conversations(count: int) -> list[Text]:
    """Over held-out problems, a third without a thought; the same on every call."""
    tokenizer, rng, texts = Tokenizer.from_file(NANO_TEKKEN), Random("quality"), []
    for number in range(count):
        effort: Effort = "none" if number % 3 == 0 else "high"
        mix = {
            skill: share for skill, share in NANO_MIX[effort].items() if skill != "talk"
        }  # which has no held-out part
        messages: list[Message] = []
        for _ in range(4 if effort == "none" else 1):
            problem = sample_problem(mix, rng, held_out=True)
            messages += [Message("user", problem.question), assistant_turn(problem, effort)]
        example = render_training(tokenizer, messages, effort=effort)
        texts.append(Text(example.token_ids, torch.tensor(example.is_target).nonzero().squeeze(1) - 1))
    return texts


def compare(model: Transformer, texts: Sequence[Text], threads: int) -> list[Figure]:
    """Every format of one model."""
    config, state = model.config, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wanted_MW = predictions(texts, plainly(config, state))
    figures = []
    for kind in OURS:
        packed = model_of(config, state, torch.bfloat16)
        if kind != "bf16":
            quantize_model(packed, kind)  # type: ignore[arg-type]
        storage, dense = packed_storage(packed), dense_of_packed(packed)
        fuse_model(packed, backend())  # as the engine's runner does
        run_MW = predictions(texts, partial(engine_logits, packed))
        figures.append(figure(f"small4 {kind}", wanted_MW, run_MW, predictions(texts, plainly(config, dense)), storage))
    source = InMemory(config, state)
    for kind in THEIRS:
        path = gguf_file(source, kind, threads)
        worker = Worker()
        worker.ask("open", path=str(path), threads=threads)
        run_MW = predictions(texts, lambda tokens, worker=worker: worker.logits(tokens, config.vocab_size))  # type: ignore[misc]
        worker.close()
        alone_MW = predictions(texts, plainly(config, dense_of_gguf(path, config)))
        figures.append(figure(f"llama.cpp {kind}", wanted_MW, run_MW, alone_MW, gguf_storage(path)))
    return figures


def plainly(config: ModelConfig, state: dict[str, Tensor]) -> Callable[[list[int]], Tensor]:
    """Float32 logits of these weights, without a cache or a kernel of ours."""
    model = model_of(config, state, torch.float32)

    def run(tokens: list[int]) -> Tensor:
        return model(torch.tensor(tokens), torch.arange(len(tokens)), FullAttention([len(tokens)]))  # type: ignore[no-any-return]

    return run


def model_of(config: ModelConfig, state: dict[str, Tensor], dtype: torch.dtype) -> Transformer:
    """A model of its own; a head in `state` that the config ties to the embeddings stands by itself."""
    if "output.weight" in state:
        config = dataclasses.replace(config, tied_embeddings=False)
    model = Transformer(config).to(dtype).eval().requires_grad_(False)
    model.load_state_dict(state)
    return model


def predictions(texts: Sequence[Text], run: Callable[[list[int]], Tensor]) -> Tensor:
    """Logits at the places of all texts, [M, W]."""
    return torch.cat([run(text.tokens)[text.places] for text in texts])


def figure(name: str, wanted_MW: Tensor, run_MW: Tensor, alone_MW: Tensor, storage: Storage) -> Figure:
    return Figure(
        name=name,
        as_run=divergence(wanted_MW, run_MW).mean().item(),
        weights_alone=divergence(wanted_MW, alone_MW).mean().item(),
        same_choice=(wanted_MW.argmax(-1) == run_MW.argmax(-1)).double().mean().item(),
        num_bytes=storage.num_bytes,
        types=storage.types,
    )


def show(name: str, figures: Sequence[Figure]) -> None:
    """Both tables of one model."""
    print_table(
        [f"{name}: KL from BF16, nats", "as run", "weights alone", "same choice", "kilobytes"],
        [
            [f.name, f"{f.as_run:.2e}", f"{f.weights_alone:.2e}", f"{f.same_choice:.2%}", f"{f.num_bytes / 1000:,.0f}"]
            for f in figures
        ],
    )
    shown = [figure for figure in figures if figure.name.endswith(("int4", "Q4_K_M", "Q4_0"))]
    kinds = list(dict.fromkeys(kind for figure in shown for kind in figure.types))
    print()
    print_table(
        [f"{name}: stored as", *(figure.name for figure in shown)],
        [[kind, *(figure.types.get(kind, "") for figure in shown)] for kind in kinds],
    )
    print()


def accuracies(num_problems: int) -> dict[str, float]:
    """Share of the nano's exact answers over all skills and efforts, by weights."""
    shares = {}
    for kind in OURS:
        quant = None if kind == "bf16" else kind
        llm = load(NANO, dtype="bfloat16", quant=quant, engine=ENGINE)  # type: ignore[arg-type]
        scores = evaluate(llm, n=num_problems)
        shares[kind] = statistics.mean(score.accuracy for score in scores)
    print_table(["nano", "exact answers"], [[kind, f"{share:.2%}"] for kind, share in shares.items()])
    return shares


if __name__ == "__main__":
    sys.exit(main())
