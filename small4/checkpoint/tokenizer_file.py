"""The `tekken.json` beside the weights: a model without one, or with another's, cannot chat."""

from pathlib import Path

from small4.checkpoint.stored import Config
from small4.errors import ConfigError, Small4Error
from small4.model.config import DraftConfig, ModelConfig
from small4.tokenizer.tekken import Tokenizer

TOKENIZER_FILE = "tekken.json"


def load_tokenizer(path: Path, config: ModelConfig) -> Tokenizer:
    """The tokenizer of a checkpoint directory or file."""
    tokenizer = Tokenizer.from_file(_beside(path))
    check_vocabulary(tokenizer, config)
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, config: ModelConfig) -> None:
    """ConfigError where the tokenizer has ids that the model has no rows for."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model {config.vocab_size}; "
            "use the tekken.json that came with these weights"
        )


def tokenizer_error(path: Path, config: Config) -> Small4Error | None:
    """Why the checkpoint cannot chat; None if it can, or need not: a draft head speaks through its target."""
    if isinstance(config, DraftConfig):
        return None
    try:
        load_tokenizer(path, config)
    except Small4Error as error:
        return error
    return None


def has_tokenizer(path: Path) -> bool:
    """Whether there is such a file, good or bad."""
    return _beside(path).is_file()


def _beside(path: Path) -> Path:
    return (path if path.is_dir() else path.parent) / TOKENIZER_FILE
