"""The twelve tools of the nano's training: their schemas, how each is asked for, what it gives, what is said then."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from small4.chat import Tool
from small4.train.tasks.extraction import COLOURS, DAYS, THINGS
from small4.train.tasks.source import Source

Arguments = dict[str, Any]

_LANGUAGES = ("French", "German", "Spanish", "Italian")
_MONEY = ("EUR", "USD", "GBP", "CHF")
_LISTS = ("shopping", "todo")
_WEATHER = ("sunny", "rainy", "cloudy", "windy")
_ROOMS = ("kitchen", "bedroom", "office", "hall")


@dataclass(frozen=True, slots=True)
class Kit:
    """One tool and everything that is said around it. `{key}` in a phrase is the argument or result of that name."""

    tool: Tool
    draw: Callable[[Source], Arguments]
    asked: tuple[str, ...]
    result: Callable[[Source, Arguments], dict[str, Any]]
    report: str  # the answer, once the result is there

    @property
    def name(self) -> str:
        return self.tool.name

    def say(self, phrase: str, facts: dict[str, Any]) -> str:
        """A phrase with its facts in words."""
        return phrase.format(
            **{k: value if isinstance(value, dict) else _in_words(value) for k, value in facts.items()}
        )


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join([", ".join(value[:-1]), value[-1]] if len(value) > 1 else value)
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _tool(name: str, description: str, required: dict[str, Any], optional: dict[str, Any] | None = None) -> Tool:
    """A tool whose parameters are these properties."""
    schema = {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }
    return Tool(name, description, schema)


_DICE = {
    "type": "object",
    "properties": {"count": {"type": "integer"}, "sides": {"type": "integer"}},
    "required": ["count", "sides"],
    "additionalProperties": False,
}
_STRING, _INTEGER, _BOOLEAN = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}


def _weather(source: Source) -> Arguments:
    return {"city": source.city()} | ({"unit": source.choice(("C", "F"))} if source.chance(0.4) else {})


def _done(source: Source, arguments: Arguments) -> dict[str, Any]:
    return {"ok": True}


KITS: tuple[Kit, ...] = (
    Kit(
        _tool("get_weather", "Weather of a city", {"city": _STRING}, {"unit": {"enum": ["C", "F"]}}),
        _weather,
        (
            "What is the weather in {city}?",
            "How is the weather in {city}?",
            "Weather in {city}?",
            "Is it warm in {city}?",
        ),
        lambda s, a: {"degrees": s.number(1, 35), "sky": s.choice(_WEATHER)},
        "It is {degrees} degrees and {sky} in {city}.",
    ),
    Kit(
        _tool("get_time", "Local time of a city", {"city": _STRING}),
        lambda s: {"city": s.city()},
        ("What time is it in {city}?", "Tell me the time in {city}.", "Time in {city}?", "How late is it in {city}?"),
        lambda s, a: {"time": f"{s.number(0, 23):02}:{s.number(0, 59):02}"},
        "It is {time} in {city}.",
    ),
    Kit(
        _tool("convert_money", "Change money", {"amount": _INTEGER, "to": {"enum": list(_MONEY)}}),
        lambda s: {"amount": s.number(2, 999), "to": s.choice(_MONEY)},
        ("Change {amount} to {to}.", "How much is {amount} in {to}?", "Convert {amount} to {to}.", "{amount} in {to}?"),
        lambda s, a: {"value": s.number(2, 999)},
        "That is {value} {to}.",
    ),
    Kit(
        _tool("send_message", "Send a text to a person", {"to": _STRING, "text": _STRING}),
        lambda s: {
            "to": s.name(),
            "text": s.choice(
                ("I am late", "see you soon", "call me", "thank you", "all is well", f"I am in {s.city()}")
            ),
        },
        ("Tell {to}: {text}.", "Send {to} the message: {text}.", "Write to {to}: {text}.", "Message {to}: {text}."),
        _done,
        "I sent it to {to}.",
    ),
    Kit(
        _tool("set_timer", "Start a timer", {"minutes": _INTEGER}),
        lambda s: {"minutes": s.number(1, 120)},
        (
            "Set a timer for {minutes} minutes.",
            "Timer: {minutes} minutes.",
            "Wake me in {minutes} minutes.",
            "Start a timer of {minutes} minutes.",
        ),
        _done,
        "The timer runs for {minutes} minutes.",
    ),
    Kit(
        _tool("set_alarm", "Set an alarm", {"hour": _INTEGER, "minute": _INTEGER}),
        lambda s: {"hour": s.number(0, 23), "minute": s.number(1, 59)},
        (
            "Set an alarm for {hour}:{minute}.",
            "Alarm at {hour}:{minute}.",
            "Wake me at {hour}:{minute}.",
            "I get up at {hour}:{minute}.",
        ),
        _done,
        "The alarm is set for {hour}:{minute}.",
    ),
    Kit(
        _tool(
            "add_items", "Add to a list", {"list": {"enum": list(_LISTS)}, "items": {"type": "array", "items": _STRING}}
        ),
        lambda s: {"list": s.choice(_LISTS), "items": s.rng.sample(THINGS, s.number(1, 3))},
        (
            "Put {items} on my {list} list.",
            "Add {items} to the {list} list.",
            "{items} on the {list} list.",
            "My {list} list needs {items}.",
        ),
        lambda s, a: {"size": s.number(3, 20)},
        "The {list} list has {size} items now.",
    ),
    Kit(
        _tool("find_person", "Look up a person", {"name": _STRING}),
        lambda s: {"name": s.name()},
        ("What is the number of {name}?", "How do I reach {name}?", "Find {name}.", "Look up {name}."),
        lambda s, a: {"phone": f"{s.number(100, 999)}-{s.number(1000, 9999)}"},
        "The number of {name} is {phone}.",
    ),
    Kit(
        _tool(
            "set_light",
            "Switch a light",
            {"room": {"enum": list(_ROOMS)}, "on": _BOOLEAN},
            {"color": {"enum": list(COLOURS)}},
        ),
        lambda s: {"room": s.choice(_ROOMS), "on": s.chance(0.5)},
        (
            "Turn {on} the light in the {room}.",
            "Light {on} in the {room}.",
            "Switch the {room} light {on}.",
            "{room} light {on}.",
        ),
        _done,
        "The light in the {room} is {on}.",
    ),
    Kit(
        _tool("book_table", "Book a table", {"people": _INTEGER, "day": {"enum": list(DAYS)}, "place": _STRING}),
        lambda s: {"people": s.number(1, 12), "day": s.choice(DAYS), "place": s.made_up(2)},
        (
            "Book a table for {people} at {place} on {day}.",
            "Table for {people} on {day} at {place}.",
            "We are {people} on {day} at {place}.",
            "On {day} at {place} for {people}, a table.",
        ),
        lambda s, a: {"booking": s.number(100, 999)},
        "Booked at {place} for {people} on {day}, number {booking}.",
    ),
    Kit(
        _tool("translate", "Translate a word", {"word": _STRING, "language": {"enum": list(_LANGUAGES)}}),
        lambda s: {"word": s.made_up(s.number(1, 3)).lower(), "language": s.choice(_LANGUAGES)},
        (
            "What is {word} in {language}?",
            "Translate {word} to {language}.",
            "Say {word} in {language}.",
            "{word} in {language}?",
        ),
        lambda s, a: {"translation": s.made_up(2).lower()},
        "{word} is {translation} in {language}.",
    ),
    Kit(
        _tool("roll_dice", "Roll dice", {"dice": _DICE}),
        lambda s: {"dice": {"count": s.number(1, 9), "sides": s.choice((4, 6, 8, 10, 12, 20))}},
        (
            "Roll {dice[count]} dice with {dice[sides]} sides.",
            "Throw {dice[count]} dice of {dice[sides]} sides.",
            "Dice: {dice[count]} with {dice[sides]} sides.",
            "I need {dice[count]} rolls of a die with {dice[sides]} sides.",
        ),
        lambda s, a: {"total": s.number(a["dice"]["count"], a["dice"]["count"] * a["dice"]["sides"])},
        "The dice show {total}.",
    ),
)
