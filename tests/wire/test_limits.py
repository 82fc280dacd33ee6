"""Limits of a request, effort words, call ids and images: what the dialects share."""

import base64
from typing import Annotated, get_args

import pytest

from small4.chat import ImageLink, ImagePart, Sampling
from small4.engine.sampling_rules import check_sampling
from small4.errors import FieldError, SamplingError
from small4.tokenizer.images import MAX_FILE_BYTES
from small4.tokenizer.output import new_call_id
from small4.tokenizer.stop_strings import check_stop
from small4.wire import limits
from small4.wire.call_ids import is_native, native_id
from small4.wire.effort import effort_of
from small4.wire.images import MAX_IMAGE_BYTES, image_of_base64, image_of_url, image_url

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("temperature", limits.Temperature),
        ("top_p", limits.TopP),
        ("min_p", limits.MinP),
        ("presence_penalty", limits.Penalty),
        ("frequency_penalty", limits.Penalty),
        ("repetition_penalty", limits.RepetitionPenalty),
        ("logprobs", limits.TopLogprobs),
    ],
)
def test_ranges_are_those_of_the_engine(name: str, kind: Annotated) -> None:
    meta = get_args(kind)[1]
    low = 1e-9 if meta.ge is None else meta.ge  # top_p is over 0
    for value in (low, meta.le):
        check_sampling(Sampling(**{name: value}))
    for value in (low - 1e-6, meta.le + 1e-6) if name != "logprobs" else (-1, meta.le + 1):
        with pytest.raises(SamplingError):
            check_sampling(Sampling(**{name: value}))


def test_stop_strings_are_those_of_the_tokenizer() -> None:
    check_stop(["x" * limits.MAX_STOP_CHARACTERS] * limits.MAX_STOPS)
    for stops in (["x"] * (limits.MAX_STOPS + 1), ["x" * (limits.MAX_STOP_CHARACTERS + 1)], [""]):
        with pytest.raises(SamplingError):
            check_stop(stops)


def test_every_seed_becomes_one_that_the_engine_takes() -> None:
    for seed in (-(2**63), -1, 0, 2**63 - 1):
        check_sampling(Sampling(seed=limits.seed_of(seed)))
    assert limits.seed_of(7) == 7
    assert limits.seed_of(None) is None


def test_biases_are_token_ids_with_values() -> None:
    assert limits.bias_of({"5": 1.5, "0": -100.0}, "logit_bias") == ((5, 1.5), (0, -100.0))
    for bias in (
        {"a": 1.0},
        {"-1": 1.0},
        {"²": 1.0},
        {"1": 100.1},
        {"1": 1.0, "01": 2.0},
        dict.fromkeys(map(str, range(1025)), 0.0),
    ):
        with pytest.raises(FieldError, match="logit_bias"):
            limits.bias_of(bias, "logit_bias")


def test_metadata_is_limited() -> None:
    limits.check_metadata({f"{number:064}": "x" * 512 for number in range(16)}, "metadata")
    for metadata in (dict.fromkeys(map(str, range(17)), ""), {"x" * 65: ""}, {"": "x" * 513}):
        with pytest.raises(FieldError, match="metadata"):
            limits.check_metadata(metadata, "metadata")


def test_effort_words_become_the_two_states() -> None:
    words = ["none", "MINIMAL", "low", "medium", "high", "xhigh", "max"]
    assert [effort_of(word, "effort") for word in words] == ["none", "none", *["high"] * 5]
    with pytest.raises(FieldError, match="none, minimal, low"):
        effort_of("harder", "effort")


def test_call_ids_keep_their_native_form_and_others_get_one_of_their_own() -> None:
    assert native_id("a1B2c3D4e", "id") == "a1B2c3D4e"
    assert is_native(new_call_id())
    foreign = [f"call_{number}" for number in range(500)] + ["toolu_01", "\ud800", "a1B2c3D4é", "a1B2c3D4e "]
    native = [native_id(call_id, "id") for call_id in foreign]
    assert len(set(native)) == len(foreign)
    assert all(map(is_native, native))
    assert native == [native_id(call_id, "id") for call_id in foreign]
    assert native_id("call_0", "id") == "MUPikt56d"  # whatever the version: conversations go on
    for missing in (None, "", "null"):
        with pytest.raises(FieldError, match="id: a tool call id is missing"):
            native_id(missing, "id")


def test_images_come_as_data_or_as_links() -> None:
    for image in (
        ImagePart(PIXEL),
        ImageLink("https://example.org/a.png"),
        ImagePart(b"\xff\xd8\xff?"),
        ImagePart(b"?"),
    ):
        assert image_of_url(image_url(image), "url") == image
    assert image_url(ImagePart(PIXEL)).startswith("data:image/png;base64,iVBOR")
    assert image_of_url("DATA:image/jpeg;name=x;base64,AAAA", "url") == ImagePart(b"\0\0\0")
    assert MAX_IMAGE_BYTES == MAX_FILE_BYTES


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x.png",
        "file:///etc/passwd",
        "ftp://a/b",
        "data:image/png,AAAA",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:text/plain;base64,AAAA",
        "data:image/png;base64,AA=A",
        "data:image/png;base64,é",
        "http://a/" + "x" * 8192,
    ],
)
def test_what_is_no_image_is_refused(url: str) -> None:
    with pytest.raises(FieldError, match=r"^url: "):
        image_of_url(url, "url")


def test_an_image_over_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(FieldError, match="the limit is 10485760"):
        image_of_base64("A" * (MAX_IMAGE_BYTES // 3 * 4 + 5), "url")
