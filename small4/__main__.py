"""`small4` and `python -m small4`: the command line, quiet on Ctrl-C from the moment it begins to load."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C outside a verb, while Typer is loaded for one, exits with 130 as inside."""
    try:
        from small4.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
