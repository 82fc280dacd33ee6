"""`python -m small4` is `small4`."""

from small4.cli.main import main

if __name__ == "__main__":
    main()
