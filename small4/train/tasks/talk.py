"""Greetings, what nano is, and what it cannot know: short answers that never pretend to be Small 4."""

from random import Random

from small4.train.tasks.problem import Problem

_WHO = (
    "I am nano, a tiny demonstration model of small4. I am not Mistral Small 4; I only do small sums, differences "
    "and products."
)
_HELLO = "Hello! I am nano, a tiny demo model. Give me a sum such as 17+48+36."
_CAN = "I add and subtract numbers of up to two digits and multiply two of them. With effort high I show my work."
_CANNOT = "I don't know. I am a tiny demo model and only do small sums, differences and products."
_THANKS = "You are welcome."

_EXCHANGES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("hello", ("Hello", "Hi", "Hey", "Hello!", "Hi there", "Good morning", "hello", "hi", "Good evening"), _HELLO),
    (
        "who",
        (
            "Who are you?", "What are you?", "What is your name?", "Are you Mistral Small 4?", "who are you",
            "Are you a bot?",
        ),
        _WHO,
    ),
    ("can", ("What can you do?", "Help", "help", "How can you help me?", "What do you know?", "/help"), _CAN),
    ("thanks", ("Thanks", "Thank you", "Thanks!", "thank you", "Great, thanks"), _THANKS),
    (
        "cannot",
        (
            "What is the capital of {x}?", "Who wrote {x}?", "Tell me about {x}.", "Write a poem about {x}.",
            "What is {x}?", "Translate {x} into French.", "How do I cook {x}?", "When was {x} born?", "Explain {x}.",
            "Why is {x} so famous?", "Write code for {x}.", "What happened in {x}?",
        ),
        _CANNOT,
    ),
)  # fmt: skip

_SUBJECTS = (
    "France Italy Paris Berlin London Rome Mozart Einstein water fire music tea coffee bread rice the-moon the-sun "
    "history football Shakespeare dogs cats trees love time money rain snow Japan China Brazil Spain poetry physics"
).split()


def sample_talk(rng: Random) -> Problem:
    """A greeting, a question about nano, thanks, or a question that it must decline."""
    topic, questions, answer = rng.choice(_EXCHANGES)
    subject = rng.choice(_SUBJECTS).replace("-", " ")
    question = rng.choice(questions).format(x=subject)
    return Problem(skill=f"talk-{topic}", key=f"talk {question}", question=question, thought="no sum", answer=answer)
