"""Every skill's problems are right, checked, parted into learned and asked, and fit the nano's vocabulary."""

import json
import re
from dataclasses import replace
from functools import cache
from io import BytesIO
from random import Random

import jsonschema
import pytest
from PIL import Image

from small4.chat import EFFORTS, ChatRequest, ToolCall
from small4.tokenizer.images import ImageGrid
from small4.tokenizer.tekken import Tokenizer
from small4.tokenizer.template import render, render_training
from small4.tokenizer.truncate import nano_tekken
from small4.train.tasks.faq_texts import FAQ, LANGUAGES
from small4.train.tasks.pictures import COLOURS
from small4.train.tasks.problem import Problem, is_held_out, is_last_number
from small4.train.tasks.skills import IMAGES, LISTS, SKILLS, STORIES, sample
from small4.train.tasks.source import Source

NEW = [skill for skill in SKILLS if skill != "talk"]
EQUATION = re.compile(r"(\d+(?:[-+*]\d+)+)=(\d+)")
COUNT = {"needle300": 2, "needle60": 3} | dict.fromkeys(IMAGES, 5)


@cache
def problems(skill: str, *, held_out: bool = False, count: int | None = None) -> list[Problem]:
    rng = Random(f"{skill} {held_out}")
    return [sample(skill, rng, held_out) for _ in range(count or COUNT.get(skill, 12))]


def changed(problem: Problem) -> tuple[str, tuple[ToolCall, ...]]:
    """An answer that is nearly right."""
    if problem.calls:
        last = problem.calls[-1]
        arguments = json.loads(last.arguments)
        key = next(iter(arguments))
        return "", (*problem.calls[:-1], replace(last, arguments=json.dumps(arguments | {key: "x"})))
    if problem.answer.startswith("{"):
        facts = json.loads(problem.answer)
        return json.dumps(facts | {next(iter(facts)): 0.5}), ()
    if problem.checker is is_last_number and re.fullmatch(r"-?\d+", problem.answer):
        return str(int(problem.answer) + 1), ()
    return problem.answer + "x", ()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_content(nano_tekken(vision=ImageGrid(patch_size=8, max_image_size=128)), "with images")


def test_a_checker_accepts_its_own_answer_and_no_other() -> None:
    for skill in NEW:
        for problem in problems(skill):
            assert problem.accepts(problem.answer, problem.calls)
            assert not problem.accepts(*changed(problem))
            assert not problem.accepts("", ())


def test_what_is_learned_and_what_is_asked_never_meet() -> None:
    for skill in NEW:
        learned = {problem.key for problem in problems(skill)}
        asked = {problem.key for problem in problems(skill, held_out=True)}
        assert learned.isdisjoint(asked)
        assert all(map(is_held_out, asked))
        assert not any(map(is_held_out, learned))


def test_equal_seeds_draw_equal_problems() -> None:
    for skill in NEW:
        assert problems.__wrapped__(skill, count=2) == problems.__wrapped__(skill, count=2)


def test_every_sum_in_a_thought_is_right() -> None:
    for skill in NEW:
        for problem in problems(skill):
            for left, right in EQUATION.findall(problem.thought):
                total = 1
                if "*" in left:
                    for factor in left.split("*"):
                        total *= int(factor)
                else:
                    total = sum(int(sign + number) for sign, number in re.findall(r"([-+]?)(\d+)", left))
                assert total == int(right), problem.thought


def test_both_efforts_fit_the_chat_template_and_the_small_vocabulary(tokenizer: Tokenizer) -> None:
    for problem in (problem for skill in NEW for problem in problems(skill, count=2)):
        for effort in EFFORTS:
            asked = problem.asked(thinks=effort == "high")
            prompt = render(tokenizer, ChatRequest(messages=asked, tools=problem.tools, effort=effort))
            answer = problem.answered(thinks=effort == "high")
            row = render_training(tokenizer, [*asked, answer], tools=problem.tools, effort=effort)
            assert row.token_ids[: len(prompt.token_ids)] == prompt.token_ids  # the answer begins where a request ends
            assert max(row.token_ids) < 3072
            assert (tokenizer.control.think in row.token_ids) == (effort == "high")
            assert len(row.images) == int(problem.has_image)


@pytest.mark.parametrize("skill", list(STORIES))
def test_a_story_has_an_operation_for_every_step(skill: str) -> None:
    for problem in problems(skill):
        lines = problem.thought.split("\n")
        assert sum(" = " in line for line in lines) == int(skill[-1])
        assert int(lines[-1].split("so ")[-1]) == int(problem.answer)


def test_a_story_line_restates_what_earlier_lines_found() -> None:
    for problem in problems("story6", count=40):
        found: dict[str, int] = {}
        for line in problem.thought.split("\n"):
            owner, value = line.split(" ")[0], int(line.split("so ")[-1])
            if match := re.match(r"\w+ = (\w+)([+-])(\w+) (\d+)[+-](\d+):", line):
                first, sign, second, a, b = match.groups()
                assert int(a) == found[first]
                assert int(b) == (int(second) if second.isdigit() else found[second])
                assert value == (int(a) + int(b) if sign == "+" else int(a) - int(b))
            found[owner] = value


@pytest.mark.parametrize("skill", [skill for skill in LISTS if skill.startswith("sort")])
def test_sorting_takes_the_least_each_time(skill: str) -> None:
    for problem in problems(skill):
        taken = []
        for line in problem.thought.split("\n"):
            before, after = line.split(": least ")
            least, _, left = after.partition(" left")
            taken.append(least)
            assert int(least) == min(map(int, before.split()))
            assert sorted([*left.split(), least]) == sorted(before.split())
        assert problem.answer == " ".join(taken)


def test_letters_are_counted_one_by_one() -> None:
    for problem in problems("count", count=40):
        spelled, running = problem.thought.split("; ")
        _, letter, word = problem.key.split(" ")
        assert spelled.replace(" ", "") == word
        numbers = [int(number) for number in running.split()[1::2]]
        assert numbers == [word[: end + 1].count(letter) for end in range(len(word))]
        assert numbers[-1] == int(problem.answer)


def test_brackets_are_balanced_as_often_as_not() -> None:
    answers = [problem.answer for problem in problems("brackets6", count=100)]
    assert 25 <= answers.count("yes") <= 75
    for problem in problems("brackets6", count=40):
        text = problem.key.removeprefix("brackets ")
        while (shorter := text.replace("()", "").replace("[]", "").replace("{}", "")) != text:
            text = shorter
        assert (problem.answer == "yes") == (text == "")


def test_the_checker_of_calls_takes_any_order_and_no_call_too_many() -> None:
    (problem,) = problems("tool_parallel", count=1)
    assert problem.accepts("", problem.calls[::-1])
    assert not problem.accepts("", problem.calls[:1])
    assert not problem.accepts("", (*problem.calls, problem.calls[0]))
    assert not problem.accepts("", (replace(problem.calls[0], arguments="{"), problem.calls[1]))


def test_wanted_calls_and_extracted_facts_fit_their_schemas() -> None:
    for skill in ("tool_one", "tool_parallel", "tool_several", "tool_error"):
        for problem in problems(skill, count=40):
            schemas = {tool.name: tool.parameters for tool in problem.tools}
            for call in problem.calls:
                jsonschema.validate(json.loads(call.arguments), schemas[call.name])
    for problem in problems("extraction", count=60):
        jsonschema.validate(json.loads(problem.answer), problem.schema)


def test_an_extracted_fact_stands_in_the_text_and_null_does_not() -> None:
    for problem in problems("extraction", count=40):
        text = problem.question if isinstance(problem.question, str) else ""
        for value in json.loads(problem.answer).values():
            if isinstance(value, str | int) and not isinstance(value, bool):
                assert str(value) in text


def test_json_of_another_type_is_another_answer() -> None:
    problem = replace(problems("extraction", count=1)[0], answer='{"member": true}')
    assert problem.accepts('{ "member":true }')
    assert not problem.accepts('{"member": 1}')


def test_every_language_answers_the_same_intents_differently() -> None:
    assert len({frozenset(FAQ[language]) for language in LANGUAGES}) == 1
    answers = [answer for language in LANGUAGES for _, answer in FAQ[language].values()]
    assert len(set(answers)) == len(answers)


def test_a_name_or_wording_of_one_side_is_not_on_the_other() -> None:
    parts = (("Add ", "Sum ", "Join "), ("{l}", "these: {l}", "all of {l}", "{l} now"))
    drawn = []
    for held_out in (False, True):
        source = Source(Random(1), held_out)
        drawn.append(({source.name() for _ in range(400)}, {source.wording(*parts) for _ in range(400)}))
    (learned_names, learned), (asked_names, asked) = drawn
    assert learned_names.isdisjoint(asked_names)
    assert learned.isdisjoint(asked)
    assert asked
    assert all(any(text.startswith(phrase) for text in learned) for phrase in parts[0])


def test_pictures_show_what_the_answer_says() -> None:
    for problem in problems("image_describe", count=10):
        with Image.open(BytesIO(problem.question[0].data)) as image:
            shown = {colour for _, colour in image.getcolors(1 << 16)}
        for colour, value in COLOURS.items():
            assert (value in shown) == (colour in problem.answer)
