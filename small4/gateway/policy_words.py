"""Policies as people write them: `eu,no-training,zdr`, `retention=7,max-price=0.2/0.8`."""

from typing import Any

from small4.errors import ConfigError
from small4.gateway.policy import Policy, policy_from

# Words that stand alone, and what they are in a `provider` object.
_WORDS: dict[str, tuple[str, Any]] = {
    "no-training": ("training", "deny"),
    "no-collection": ("data_collection", "deny"),
    "zdr": ("zdr", True),
    "local": ("local_only", True),
    "distillable": ("enforce_distillable_text", True),
    "parameters": ("require_parameters", True),
    "no-fallbacks": ("allow_fallbacks", False),
}
_LISTS = {"only": "only", "ignore": "ignore", "quantization": "quantizations", "region": "regions"}  # a+b+c
_NUMBERS = {"retention": "max_retention_days", "posture-age": "max_posture_age_days"}  # days


def policy_of_words(text: str) -> Policy:
    """The policy that a list of words means; all of them hold together. Two letters are a region."""
    policy = Policy()
    for word in filter(None, (part.strip() for part in text.split(","))):
        policy = policy.narrow(policy_from(_table(word), f"policy {word!r}"))
    return policy


def _table(word: str) -> dict[str, Any]:
    name, separator, value = word.partition("=")
    name = name.lower().replace("_", "-")
    if not separator and name in _WORDS:
        field, meaning = _WORDS[name]
        return {field: meaning}
    if not separator and len(name) == 2:
        return {"regions": [name]}
    if name in _LISTS and value:
        return {_LISTS[name]: value.split("+")}
    if name in _NUMBERS and value.isascii() and value.isdigit():
        return {_NUMBERS[name]: int(value)}
    if name == "max-price" and value:
        prompt, _, completion = value.partition("/")
        return {"max_price": {"prompt": prompt or None, "completion": completion or None}}
    lists = ", ".join(f"{known}=a+b" for known in _LISTS)
    numbers = ", ".join(f"{known}=DAYS" for known in _NUMBERS)
    raise ConfigError(
        f"{word!r} is no word of a policy; there are {', '.join(_WORDS)}, a region such as eu or fr, {lists}, "
        f"{numbers} and max-price=PROMPT/COMPLETION"
    )
