"""Options that `run` and `chat` share, with their help."""

from pathlib import Path
from typing import Annotated

import typer

System = Annotated[str | None, typer.Option("--system", "-s", metavar="TEXT", help="System prompt.")]
Images = Annotated[
    list[Path] | None, typer.Option("--image", "-a", metavar="PATH", help="An image for the question; repeatable.")
]
EffortWord = Annotated[
    str | None,
    typer.Option("--effort", "-e", metavar="none|high", help="Think first? Left out: high for nano, else none."),
]
Budget = Annotated[int | None, typer.Option("--budget", metavar="N", help="Most tokens of thought.")]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature", "--temp", "-T", metavar="T", help="0 takes the likeliest token. Left out: as recommended."
    ),
]
TopP = Annotated[float, typer.Option("--top-p", metavar="P", help="Smallest set of tokens with this probability.")]
TopK = Annotated[int | None, typer.Option("--top-k", metavar="N", help="Only so many of the likeliest tokens.")]
MinP = Annotated[float, typer.Option("--min-p", metavar="P", help="At least this share of the best probability.")]
RepetitionPenalty = Annotated[
    float, typer.Option("--repetition-penalty", metavar="X", help="Over 1: tokens of prompt and answer come less.")
]
PresencePenalty = Annotated[
    float, typer.Option("--presence-penalty", metavar="X", help="Taken from the score of what the answer has.")
]
FrequencyPenalty = Annotated[
    float, typer.Option("--frequency-penalty", metavar="X", help="The same, times how often it is there.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="The same seed gives the same text.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", help="Most tokens of an answer, thinking included.")
]
Cache = Annotated[
    str | None,
    typer.Option("--cache", metavar="SIZE", help="Memory for the latent cache: 512M, 4G. Left out: a share."),
]
Quant = Annotated[
    str | None, typer.Option("--quant", metavar="int8|int4", help="Pack the weights in memory; faster on a CPU.")
]
Draft = Annotated[
    str | None,
    typer.Option("--draft", metavar="HEAD", help="The model's draft head, by name or path: guesses ahead; same text."),
]
SkipDigests = Annotated[
    bool, typer.Option("--skip-digests", help="Load without comparing the files with their manifest.")
]
HideReasoning = Annotated[bool, typer.Option("--hide-reasoning", "-R", help="Do not show the thought.")]
RouteWord = Annotated[
    str | None,
    typer.Option("--route", metavar="WORD", help="Ask a hosted provider: mistral, openrouter, ..., or a base URL."),
]
DialectWord = Annotated[
    str | None,
    typer.Option("--dialect", metavar="WORD", help="What a URL speaks: openai, responses, anthropic, google, mistral."),
]
