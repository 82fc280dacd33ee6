"""Where small4 keeps its own files, and where its user's are; XDG_CONFIG_HOME and XDG_STATE_HOME are honoured."""

from pathlib import Path

from platformdirs import user_config_path, user_state_path


def config_directory() -> Path:
    """For what the user writes: small4.toml, files of the catalogue."""
    return user_config_path("small4", appauthor=False)


def state_directory() -> Path:
    """For what small4 writes: keys, the ledger, history, crash reports."""
    return user_state_path("small4", appauthor=False)
