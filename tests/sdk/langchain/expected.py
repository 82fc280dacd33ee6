"""A plugin for pytest: the tests that expected.toml names must fail, each for the reason that stands there."""

import tomllib
from pathlib import Path

import pytest

LISTS = tomllib.loads(Path(__file__).with_name("expected.toml").read_text(encoding="utf-8"))


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark them; a name that no test has any more is an error of the list."""
    for suite in {item.path.stem for item in items}:
        reasons = LISTS["both"] | LISTS[suite]
        tests = [item for item in items if item.path.stem == suite]
        unknown = reasons.keys() - {test.originalname for test in tests} - {test.name for test in tests}
        if unknown:
            raise pytest.UsageError(f"expected.toml names tests that {suite} has not: {', '.join(sorted(unknown))}")
        for test in tests:
            reason = reasons.get(test.name) or reasons.get(test.originalname)
            if reason is not None:
                test.add_marker(pytest.mark.xfail(reason=reason, strict=True))
