"""Where system texts may stand: the template takes every conversation in which they were placed."""

from hypothesis import given
from hypothesis import strategies as st

from small4.chat import Message
from small4.tokenizer.conversation import check_messages
from small4.wire import mistral, openai_chat
from small4.wire.system_texts import place_system_texts


def roles(text: str) -> str:
    """The roles after placing, by their first letters."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    messages = [Message(names[letter], str(index)) for index, letter in enumerate(text)]
    placed = place_system_texts(messages)
    assert [message.content for message in placed] == [message.content for message in messages]
    return "".join(message.role[0] for message in placed)


def test_places_that_the_template_has_are_kept():
    assert [roles(text) for text in ("su", "ssu", "suau", "usau", "ussu")] == ["su", "ssu", "suau", "usau", "ussu"]


def test_other_system_texts_are_said_by_the_user():
    assert [roles(text) for text in ("s", "us", "uasu", "uas", "uassu")] == ["u", "uu", "uauu", "uau", "uausu"]


@given(st.text("sua", max_size=8), st.sampled_from("us"))
def test_the_template_takes_what_was_placed(text: str, last: str):
    names = {"s": "system", "u": "user", "a": "assistant"}
    check_messages(place_system_texts([Message(names[letter], "x") for letter in text + last]), training=False)


def test_the_chat_dialects_place_them():
    messages = [{"role": role, "content": "x"} for role in ("developer", "user", "assistant", "developer", "user")]
    for dialect in (openai_chat, mistral):
        call = dialect.parse_request({"model": "m", "messages": messages})
        assert [message.role for message in call.request.messages] == ["system", "user", "assistant", "user", "user"]
