"""When two stated amounts can be the same one."""

import pytest

from small4.catalog.fields import FIELDS
from small4.catalog.readings import amounts_agree, lowest_amount
from small4.errors import CatalogError


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("262K", 262144),
        ("256K", 262144),
        ("256K", 256000),
        ("256K", "262K"),
        ("119B", 119401298944),
        ("6B", 6095717376),
        ("6.5B", 6499022848),
        ("100.0", "100"),
    ],
)
def test_an_amount_agrees_with_its_rounding(left, right) -> None:
    assert amounts_agree(left, right)
    assert amounts_agree(right, left)


@pytest.mark.parametrize(
    ("left", "right"), [(256000, 262144), ("262K", 256000), ("8K", "256K"), ("6B", "6.5B"), (6095717376, "6.5B")]
)
def test_other_amounts_contradict_each_other(left, right) -> None:
    assert not amounts_agree(left, right)
    assert not amounts_agree(right, left)


@pytest.mark.parametrize(
    ("left", "right", "agree"),
    [
        ("0.1875", "0.188", True),
        ("0.1875", "0.19", True),
        ("0.188", "0.19", True),
        ("0.6", "0.60", True),
        ("0.2", "0.15", False),
        ("0.15", "0.143", False),
        ("0.15", "0.06", False),
    ],
)
def test_money_agrees_to_the_digits_that_are_stated_and_to_the_cent_at_least(left, right, agree) -> None:
    assert FIELDS["price.input"].agree(left, right) is agree


def test_a_limit_is_taken_for_the_smallest_that_it_can_mean() -> None:
    assert lowest_amount("256K") == 256_000


@pytest.mark.parametrize("text", ["many", "", "-5", "5KB", "1e5", "1,000"])
def test_what_is_no_amount_is_refused(text) -> None:
    with pytest.raises(CatalogError, match="is no amount"):
        lowest_amount(text)
