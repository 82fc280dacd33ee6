"""`small4 run --route`: a first hosted call, against a live small4 server."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from small4.chat import Finish, ReasoningDelta, TextDelta, Usage
from small4.gateway.known import known_providers
from small4.server.run import serving
from tests.cli.conftest import Small4
from tests.server.asgi import Served

SUM = (ReasoningDelta("65"), TextDelta("126"), Finish("stop", Usage(12, 9, 6)))


@dataclass
class There:
    url: str
    key: str
    served: Served


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    served = Served(tmp_path_factory.mktemp("there"), SUM)
    key, _ = served.store.create("test")
    with serving(served.app) as url:
        yield There(url, key, served)


@pytest.fixture(autouse=True)
def _no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in known_providers({}).values():
        monkeypatch.delenv(known.variable or "", raising=False)


def test_a_question_goes_to_the_provider_that_a_key_was_set_for(small4: Small4, there: There) -> None:
    assert small4("keys", "set", there.url, "--name", "there", stdin=there.key.encode()).returncode == 0
    done = small4("run", "--route", "there", "17+48+36+25", "-e", "high", "-s", "Be brief.", "--usage")
    assert (done.returncode, done.stdout) == (0, "126\n"), done.stderr
    assert f"scripted at {there.url}/v1" in done.stderr
    assert "12 tokens in, 9 out (6 of them thinking)" in done.stderr
    request, _ = there.served.provider.requests[-1]
    assert ([message.content for message in request.messages], request.effort) == (["Be brief.", "17+48+36+25"], "high")


def test_the_answer_as_json_names_the_route_and_a_pipe_is_the_question(small4: Small4, there: There) -> None:
    small4("keys", "set", there.url, stdin=there.key.encode())
    done = small4("run", "--route", there.url, "scripted", "-", "--json", stdin=b"what is it?")
    answer = json.loads(done.stdout)
    assert (answer["text"], answer["reasoning"], answer["usage"]["is_estimated"]) == ("126", "65", False)
    assert answer["model"] == f"scripted at {there.url}/v1"
    assert there.served.provider.requests[-1][0].messages[-1].content == "what is it?"


def test_a_url_may_speak_another_dialect(small4: Small4, there: There) -> None:
    url = f"{there.url}/anthropic/v1"
    assert small4("keys", "set", url, "--dialect", "anthropic", stdin=there.key.encode()).returncode == 0
    assert small4("run", "--route", url, "--dialect", "anthropic", "hello").stdout == "126\n"
    assert there.served.provider.requests[-1][0].messages[-1].content == "hello"


def test_chat_without_a_terminal_asks_the_provider_one_question(small4: Small4, there: There) -> None:
    small4("keys", "set", there.url, stdin=there.key.encode())
    done = small4("chat", "--route", there.url)
    assert done.returncode == 0, done.stderr
    assert f"scripted at {there.url}/v1" in done.stdout
    assert "126" in done.stdout
    assert small4("chat", "--route", there.url, "--cache", "1G").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--route", "mistral", "x"), "MISTRAL_API_KEY"),
        (("--route", "nobody", "x"), "no provider is called 'nobody'"),
        (("--route", "http://127.0.0.1:1", "x"), "no connection"),
        (("--route", "mistral", "--quant", "int4", "x"), "--quant is for a model of this machine"),
        (("--dialect", "google", "x"), "--dialect says what the server behind --route speaks"),
        (("--route", "mistral"), "nothing is asked"),
    ],
)
def test_mistakes_are_told_with_the_way_out(small4: Small4, arguments: tuple[str, ...], says: str) -> None:
    done = small4("run", *arguments)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr


def test_a_refused_key_is_told_as_such(small4: Small4, there: There) -> None:
    small4("keys", "set", there.url, "--skip-test", stdin=b"sk-wrong-0123456789abc")
    done = small4("run", "--route", there.url, "scripted", "hello")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the provider refused the key that it was given (HTTP 401)" in done.stderr
    assert "wrong-0123" not in done.stderr
