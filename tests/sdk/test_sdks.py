"""Every official SDK, in its newest major and in the one before, against a live server."""

import pytest

from tests.sdk.conftest import Outcomes
from tests.sdk.environments import versions_of
from tests.sdk.live import SCRIPTS
from tests.sdk.matrix import COLUMNS, PAGE, ROWS, cases_of, langchain_lines, pages

CASES = [(column.environment, column.script, row) for column in COLUMNS for row in cases_of(column.script)]


@pytest.mark.sdk
@pytest.mark.parametrize(("environment", "script", "row"), CASES)
def test_sdk(outcomes: Outcomes, environment: str, script: str, row: str) -> None:
    error = outcomes(environment, script)[row].error
    assert error is None, error


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_case_is_a_row(script: str) -> None:
    assert set(cases_of(script)) <= set(ROWS)


def test_the_pages_of_cases_show_the_scripts() -> None:
    stale = [path.name for path, text in pages() if not path.exists() or path.read_text(encoding="utf-8") != text]
    assert stale == [], "write them anew: python -m tests.sdk.matrix"


def test_the_matrix_has_a_cell_for_every_case_and_the_versions_of_the_locks() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for column in COLUMNS:
        assert f"{column.package} {versions_of(column.environment)[column.package]}" in page
    num_links = {script: sum(column.script == script for column in COLUMNS) for script in SCRIPTS}
    for script, number in num_links.items():
        for row in cases_of(script):
            assert page.count(f"[passes](sdk/{script}.md#{row})") == number


def test_the_matrix_names_what_fails_of_langchains_tests() -> None:
    assert "\n".join(langchain_lines()) in PAGE.read_text(encoding="utf-8")
