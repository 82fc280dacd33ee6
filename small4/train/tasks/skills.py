"""Every skill by its name: the sampler that draws a problem of it. A number in a name is the problem's size."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from small4.train.tasks import extraction, faq, lists, obey, pictures, recall, stories, tool_calls
from small4.train.tasks.arithmetic import sample_chain, sample_product, sample_sum
from small4.train.tasks.faq_texts import LANGUAGES
from small4.train.tasks.problem import Problem
from small4.train.tasks.source import Source
from small4.train.tasks.talk import sample_talk
from small4.train.tasks.toolbox import KITS

Sampler = Callable[[Source], Problem]


def _sized(name: str, sampler: Callable[[Source, int], Problem], sizes: range) -> dict[str, Sampler]:
    return {f"{name}{size}": partial(_of_size, sampler, size) for size in sizes}


def _of_size(sampler: Callable[[Source, int], Problem], size: int, source: Source) -> Problem:
    return sampler(source, size)


def _with_twelve_tools(source: Source) -> Problem:
    tools = tuple(kit.tool for kit in source.shuffled(KITS))
    return replace(tool_calls.sample_one(source), skill="tool_twelve", tools=tools)


ARITHMETIC: dict[str, Sampler] = {
    **_sized("sum", lambda source, size: sample_sum(source.rng, size), range(2, 7)),
    **_sized("chain", lambda source, size: sample_chain(source.rng, size), range(2, 7)),
    "product2x1": lambda source: sample_product(source.rng, 1),
    "product2x2": lambda source: sample_product(source.rng, 2),
}
STORIES = _sized("story", stories.sample_story, range(1, stories.MAX_OPERATIONS + 1))
LISTS: dict[str, Sampler] = {
    **_sized("sort", lists.sample_sort, range(2, 7)),
    **_sized("reverse", lists.sample_reverse, range(3, 9)),
    **_sized("largest", lists.sample_largest, range(3, 9)),
    **_sized("repeats", lists.sample_repeats, range(4, 9)),
    "count": lists.sample_count,
    **_sized("brackets", lists.sample_brackets, range(4, 11, 2)),
}
TOOLS: dict[str, Sampler] = {
    "tool_one": tool_calls.sample_one,
    "tool_twelve": _with_twelve_tools,
    "tool_parallel": tool_calls.sample_parallel,
    "tool_several": tool_calls.sample_several,
    "tool_none": tool_calls.sample_none,
    "tool_result": tool_calls.sample_result,
    "tool_error": tool_calls.sample_error,
}
EXTRACTION: dict[str, Sampler] = {"extraction": extraction.sample_extraction}
FAQ: dict[str, Sampler] = {
    **{f"faq_{language}": partial(faq.sample_faq, language=language) for language in LANGUAGES},
    "unknown": faq.sample_unknown,
}
OBEY: dict[str, Sampler] = {
    "obey_language": obey.sample_language,
    "obey_length": obey.sample_length,
    "obey_form": obey.sample_form,
}
IMAGES: dict[str, Sampler] = {
    **{f"image_{skill}": partial(pictures.sample_picture, skill=skill) for skill in pictures.PICTURE_SKILLS},
    "image_digits": pictures.sample_digits,
}
RECALL: dict[str, Sampler] = {
    "copy": recall.sample_copy,
    **{f"needle{codes}": partial(recall.sample_needle, codes=codes) for codes in (4, 16, 60, recall.MAX_CODES)},
}

SKILLS: dict[str, Sampler] = {
    **ARITHMETIC,
    **STORIES,
    **LISTS,
    **TOOLS,
    **EXTRACTION,
    **FAQ,
    **OBEY,
    **IMAGES,
    **RECALL,
    "talk": lambda source: sample_talk(source.rng),  # of the first nano; its questions are few and not held out
}


def sample(skill: str, rng: Random, held_out: bool = False) -> Problem:
    """A problem of one skill on the asked side of the split."""
    source = Source(rng, held_out)
    while True:
        problem = SKILLS[skill](source)
        if skill == "talk" or problem.is_held_out() == held_out:
            return problem
