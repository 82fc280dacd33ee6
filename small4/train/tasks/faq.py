"""Greetings, questions about the nano, and questions that it must decline, in five languages.

An intent has one answer per language, so the exact text tells whether the intent was understood. One question in ten,
with what stands around it, is held out; so is one subject in ten of what it cannot know.
"""

from small4.train.tasks.faq_texts import ENDINGS, FAQ, LANGUAGES, OPENERS, PLAIN_INTENTS, SUBJECTS, UNKNOWN, Language
from small4.train.tasks.problem import Problem, is_whole_text
from small4.train.tasks.source import Source

_MARKS = ("", "!", ".", " :)", "!!")

NAMES: dict[Language, str] = {"en": "English", "fr": "French", "de": "German", "es": "Spanish", "it": "Italian"}


def sample_faq(source: Source, language: Language) -> Problem:
    """A question that it can answer."""
    intent = source.choice(tuple(FAQ[language]))
    questions, answer = FAQ[language][intent]
    if intent in PLAIN_INTENTS:
        question = source.choice(questions) + source.choice(_MARKS)
    else:
        question = source.choice(OPENERS[language]) + source.choice(questions) + source.choice(ENDINGS[language])
    return Problem(
        skill=f"faq_{language}",
        key=f"faq {question}",
        question=question,
        thought=f"{intent}, in {NAMES[language]}",
        answer=answer,
        checker=is_whole_text,
    )


def sample_unknown(source: Source) -> Problem:
    """A question that it must decline, in any of the languages."""
    language = source.choice(LANGUAGES)
    questions, answer = UNKNOWN[language]
    subject = source.city() if source.chance(0.4) else source.choice(SUBJECTS)
    template = source.wording(OPENERS[language], questions, ENDINGS[language])
    return Problem(
        skill="unknown",
        key=f"unknown {language} {subject}",
        question=template.format(x=subject),
        thought=f"unknown, in {NAMES[language]}",
        answer=answer,
        checker=is_whole_text,
    )
