"""Where the command line keeps its own files."""

from pathlib import Path


def config_directory() -> Path:
    """For what the user writes; XDG_CONFIG_HOME is honoured."""
    from platformdirs import user_config_path

    return user_config_path("small4", appauthor=False)


def state_directory() -> Path:
    """For history and crash reports; XDG_STATE_HOME is honoured."""
    from platformdirs import user_state_path

    return user_state_path("small4", appauthor=False)
