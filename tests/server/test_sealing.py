"""What clients keep for this instance."""

import base64

from small4.server.sealing import Seal, derived_key

SECRET = b"s" * 32


def test_sealed_text_comes_back_and_two_seals_of_it_differ():
    seal = Seal(SECRET, "thoughts")
    for text in ("", "a thought", "é\ud800\n" * 1000):
        assert seal.open(seal.seal(text)) == text
    assert seal.seal("x") != seal.seal("x")


def test_no_changed_seal_is_opened():
    seal = Seal(SECRET, "thoughts")
    data = base64.urlsafe_b64decode(seal.seal("a thought"))
    for position in range(len(data)):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        assert seal.open(base64.urlsafe_b64encode(changed).decode()) is None
    for length in range(len(data)):
        assert seal.open(base64.urlsafe_b64encode(data[:length]).decode()) is None


def test_foreign_seals_and_nonsense_are_not_opened():
    sealed = Seal(SECRET, "thoughts").seal("x")
    assert Seal(b"t" * 32, "thoughts").open(sealed) is None
    assert Seal(SECRET, "other").open(sealed) is None
    for text in ("", "é", "!!!!", "AAAA", "=" * 40, sealed + "x"):
        assert Seal(SECRET, "thoughts").open(text) is None


def test_each_purpose_has_a_key_of_its_own():
    assert len({derived_key(SECRET, purpose) for purpose in ("a", "b", "ab", "")}) == 4
