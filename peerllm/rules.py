"""Rules that several sections of the config share: what a field accepts, in words and as a check."""

from __future__ import annotations

from peerllm.durations import parse_seconds
from peerllm.settings import Rule
from peerllm.sizes import parse_bytes

_MAX_TEXT = 512


def between(low: float, high: float, unit: str = "") -> Rule:
    allowed = f"{low} to {high} {unit}".rstrip()
    return Rule(allowed, lambda value: low <= value <= high)


def one_of(*choices: str) -> Rule:
    return Rule(", ".join(choices), lambda value: value in choices)


def is_plain(text: str) -> bool:
    return len(text) <= _MAX_TEXT and text.isprintable()


SWITCH = Rule("true or false", lambda _: True)
TEXT = Rule("up to 512 printable characters", is_plain)
TEXTS = Rule("a list of texts", lambda texts: all(map(is_plain, texts)))
BYTES = Rule("a size such as 1.5GiB, or 0", lambda size: 0 <= size < 2**63, parse_bytes)
SECONDS = Rule("5m, 1h or a number of seconds", lambda seconds: 0 <= seconds < 1e9, parse_seconds)
