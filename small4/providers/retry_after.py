"""When a provider asks to be called again: `retry-after-ms`, or `retry-after` in seconds or as a date."""

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

MAX_SECONDS = 86_400.0  # nobody waits longer; what asks for more is treated as this


def retry_after_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds from now on, if the headers tell; `now` is in seconds since 1970."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return min(milliseconds / 1000, MAX_SECONDS)
    text = headers.get("retry-after", "")
    seconds = _number(text)
    if seconds is None:
        seconds = _until(text, now)
    return None if seconds is None else min(seconds, MAX_SECONDS)


def _number(text: str) -> float | None:
    """A plain decimal number; not all that Python takes for one, such as inf and 1e9."""
    text = text.strip()
    is_number = text.isascii() and len(text) <= 20 and text.replace(".", "", 1).isdecimal()
    return float(text) if is_number else None


def _until(text: str, now: float) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)
