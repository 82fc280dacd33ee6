"""What clients keep for this instance."""

import base64

from small4.gateway.sealing import Seal, derived_key

SECRET = b"s" * 32
KEY = derived_key(SECRET, "thoughts")


def test_sealed_text_comes_back_and_two_seals_of_it_differ():
    seal = Seal(KEY, "anna")
    for text in ("", "a thought", "é\ud800\n" * 1000):
        assert seal.open(seal.seal(text)) == text
    assert seal.seal("x") != seal.seal("x")


def test_no_changed_seal_is_opened():
    seal = Seal(KEY, "anna")
    data = base64.urlsafe_b64decode(seal.seal("a thought"))
    for position in range(len(data)):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        assert seal.open(base64.urlsafe_b64encode(changed).decode()) is None
    for length in range(len(data)):
        assert seal.open(base64.urlsafe_b64encode(data[:length]).decode()) is None


def test_foreign_seals_and_nonsense_are_not_opened():
    sealed = Seal(KEY, "anna").seal("x")
    assert Seal(derived_key(b"t" * 32, "thoughts"), "anna").open(sealed) is None
    assert Seal(derived_key(SECRET, "other"), "anna").open(sealed) is None
    for text in ("", "é", "!!!!", "AAAA", "=" * 40, sealed + "x"):
        assert Seal(KEY, "anna").open(text) is None


def test_seal_of_another_caller_is_as_good_as_broken():
    sealed = Seal(KEY, "anna").seal("a thought")
    for other in ("bert", "", "ann", "annab", "anna\0"):
        assert Seal(KEY, other).open(sealed) is None
    assert Seal(KEY, "anna").open(sealed) == "a thought"


def test_each_purpose_has_a_key_of_its_own():
    assert len({derived_key(SECRET, purpose) for purpose in ("a", "b", "ab", "")}) == 4
