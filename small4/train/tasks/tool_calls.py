"""Tool calls: one, several one after another, two at once, none needed, told from a result, mended after an error.

A thought names what is asked for and, per call, the tool with its arguments; then the calls follow:

    get_weather: city Marubo
    get_time: city Velo
"""

import json
from typing import Any

from small4.chat import Message, TextPart, ThinkPart, Tool, ToolCall
from small4.train.tasks.arithmetic import sum_problem
from small4.train.tasks.problem import Problem, are_same_calls, is_last_number, is_whole_text
from small4.train.tasks.source import Source
from small4.train.tasks.toolbox import KITS, Arguments, Kit

_OPEN = ("", "Please: ", "Hello! ", "Next: ")
_JOIN = ("{a} {b}", "{a} Also: {b}", "{a} And: {b}", "First: {a} Then: {b}", "{a} After that: {b}")

Wish = tuple[Kit, Arguments]


def sample_one(source: Source, most_tools: int = 4) -> Problem:
    """One call that the question asks for."""
    wishes = _draw(source, 1)
    return _call("tool_one", source, wishes, _question(source, wishes), most_tools)


def sample_parallel(source: Source, most_tools: int = 4) -> Problem:
    """Two things are asked for at once, and both tools are called in one answer."""
    wishes = _draw(source, 2)
    return _call("tool_parallel", source, wishes, _question(source, wishes), most_tools)


def sample_several(source: Source, most_tools: int = 4) -> Problem:
    """After the first call's result the second one is due: `First ... then ...` allows no two at once."""
    wishes = _draw(source, 2)
    (kit, arguments), second = wishes
    question = "One by one: " + _question(source, wishes)
    return _call(
        "tool_several",
        source,
        [second],
        question,
        most_tools,
        _told(kit, arguments, kit.result(source, arguments)),
        kit,
    )


def sample_none(source: Source, most_tools: int = 4) -> Problem:
    """Tools are there, but a sum needs none of them."""
    numbers = tuple(source.number(10, 99) for _ in range(2))
    plain = sum_problem(numbers, source.rng)
    return Problem(
        skill="tool_none",
        key=plain.key,
        question=plain.question,
        thought="no tool\n" + plain.thought,
        answer=plain.answer,
        checker=is_last_number,
        tools=_tools(source, [], most_tools),
    )


def sample_result(source: Source, most_tools: int = 4) -> Problem:
    """The result is there; the answer tells it."""
    (wish,) = wishes = _draw(source, 1)
    kit, arguments = wish
    result = kit.result(source, arguments)
    return Problem(
        skill="tool_result",
        key=f"{_key([wish])} {json.dumps(result)}",
        question=_question(source, wishes),
        thought=f"{kit.name} gave {_listed(result)}",
        answer=kit.say(kit.report, arguments | result),
        checker=is_whole_text,
        tools=_tools(source, [kit], most_tools),
        history=_told(kit, arguments, result),
    )


def sample_error(source: Source, most_tools: int = 4) -> Problem:
    """The tool failed: it is called again, with what it proposes or after a wait, or the failure is told."""
    (wish,) = wishes = _draw(source, 1)
    kit, arguments = wish
    question, way = _question(source, wishes), source.choice(("wait", "tell", "mend"))
    name = next((key for key in ("city", "to", "name", "place") if _is_open(kit, key, arguments)), None)
    if way == "tell":
        return _told_failure(source, wish, question, most_tools)
    if way == "wait" or name is None:
        history = _told(kit, arguments, {"error": "busy, try again"})
        return _call("tool_error", source, wishes, question, most_tools, history, why="try again")
    right = arguments[name]
    place = source.number(1, len(right) - 1)
    wrong = right[:place] + right[place + 1 :]  # one letter is missing, as the user spelled it
    question = question.replace(right, wrong)
    history = _told(kit, arguments | {name: wrong}, {"error": "unknown", "did_you_mean": right})
    return _call("tool_error", source, wishes, question, most_tools, history, why=f"mean {right}")


def _told_failure(source: Source, wish: Wish, question: str, most_tools: int) -> Problem:
    kit, arguments = wish
    reason = source.choice(("not allowed", "service is down", "no access"))
    return Problem(
        skill="tool_error",
        key=f"{_key([wish])} {reason}",
        question=question,
        thought=f"{kit.name} failed: {reason}",
        answer=f"{kit.name} failed: {reason}.",
        checker=is_whole_text,
        tools=_tools(source, [kit], most_tools),
        history=_told(kit, arguments, {"error": reason}),
    )


def _call(
    skill: str,
    source: Source,
    wishes: list[Wish],
    question: str,
    most_tools: int,
    history: tuple[Message, ...] = (),
    *others: Kit,
    why: str = "",
) -> Problem:
    return Problem(
        skill=skill,
        key=_key(wishes),
        question=question,
        thought="\n".join([*([why] if why else []), *(_planned(*wish) for wish in wishes)]),
        answer="",
        checker=are_same_calls,
        tools=_tools(source, [*(kit for kit, _ in wishes), *others], most_tools),
        calls=tuple(_made(kit, arguments, index + 5) for index, (kit, arguments) in enumerate(wishes)),
        history=history,
    )


def _draw(source: Source, count: int) -> list[Wish]:
    return [(kit, kit.draw(source)) for kit in source.rng.sample(KITS, count)]


def _question(source: Source, wishes: list[Wish]) -> str:
    if len(wishes) == 1:
        kit, arguments = wishes[0]
        return source.wording(_OPEN, tuple(_with_unit(phrase, arguments) for phrase in kit.asked)).format_map(
            _Words(kit, arguments)
        )
    said = [kit.say(_with_unit(source.choice(kit.asked), arguments), arguments) for kit, arguments in wishes]
    return source.wording(_OPEN, _JOIN).format(a=said[0], b=said[1])


def _with_unit(phrase: str, arguments: Arguments) -> str:
    """An optional argument is asked for in words of its own."""
    return phrase + (" In {unit}." if "unit" in arguments else "")


class _Words(dict[str, Any]):
    """The facts of a phrase, in words."""

    def __init__(self, kit: Kit, facts: dict[str, Any]) -> None:
        super().__init__(
            {key: kit.say("{" + key + "}", facts) if not isinstance(facts[key], dict) else facts[key] for key in facts}
        )


def _tools(source: Source, needed: list[Kit], most: int) -> tuple[Tool, ...]:
    """The needed tools among others, at most `most` in all, in any order."""
    others = [kit for kit in KITS if kit not in needed]
    count = source.number(max(0, 1 - len(needed)), max(1, most - len(needed)))
    chosen = [*needed, *source.rng.sample(others, min(count, len(others)))]
    return tuple(kit.tool for kit in source.shuffled(chosen))


def _told(kit: Kit, arguments: Arguments, result: dict[str, Any]) -> tuple[Message, Message]:
    """A call made before, with its thought, and what came of it."""
    call = _made(kit, arguments, 1)
    thought = (ThinkPart(_planned(kit, arguments)),)
    return (
        Message("assistant", thought, tool_calls=(call,)),
        Message("tool", (TextPart(json.dumps(result)),), tool_call_id=call.id),
    )


def _made(kit: Kit, arguments: Arguments, number: int) -> ToolCall:
    return ToolCall(f"call{number:05}", kit.name, json.dumps(arguments))


def _planned(kit: Kit, arguments: Arguments) -> str:
    return f"{kit.name}: {_listed(arguments)}"


def _listed(facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {json.dumps(value) if not isinstance(value, str) else value}" for key, value in facts.items()
    )


def _key(wishes: list[Wish]) -> str:
    return "tool " + " ".join(f"{kit.name} {json.dumps(arguments)}" for kit, arguments in wishes)


def _is_open(kit: Kit, key: str, arguments: Arguments) -> bool:
    """Whether an argument is a name that may be misspelled: a text that the schema leaves free."""
    free = "enum" not in kit.tool.parameters["properties"].get(key, {"enum": ()})
    return key in arguments and free
