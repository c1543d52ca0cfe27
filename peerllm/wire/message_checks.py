"""Limits of what peers say, and the checks of single fields; what breaks them is a `BadFrame`."""

from __future__ import annotations

import math
from enum import Enum
from typing import TypeVar

from peerllm.errors import BadFrame

MAX_TEXT = 512  # characters of a message for people, an address or a peer id
MAX_UINT32 = 0xFFFF_FFFF
MAX_UINT64 = 0xFFFF_FFFF_FFFF_FFFF

_Member = TypeVar("_Member", bound=Enum)

replace_field = object.__setattr__
"""The way into a frozen dataclass, used to normalise while it is being built."""


def check_uint(value: int, name: str, limit: int = MAX_UINT32) -> None:
    if type(value) is not int or not 0 <= value <= limit:
        raise BadFrame(f"{name} must be a whole number within 0..{limit}, not {value!r:.40}")


def check_session(session: bytes) -> None:
    if not isinstance(session, bytes) or len(session) != 16:
        raise BadFrame(f"a session id is 16 bytes, not {session!r:.80}")


def check_text(text: str, name: str) -> None:
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TEXT or not text.isascii() or not text.isprintable():
        raise BadFrame(f"{name} must be 1 to {MAX_TEXT} printable ASCII characters, not {text!r:.80}")


def clipped(text: str) -> str:
    """Cut rather than refuse: reporting an error must not fail on the error's own length."""
    if not isinstance(text, str):
        raise BadFrame(f"expected text, not {text!r:.80}")
    return text[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8")


def seconds(value: float, name: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        raise BadFrame(f"{name} must be a time in seconds, not {value!r:.40}")
    return float(value)


def member(kind: type[_Member], value: object) -> _Member:
    try:
        if type(value) in (kind, int, str):
            return kind(value)
    except ValueError:
        pass
    raise BadFrame(f"{value!r:.40} is not a {kind.__name__}")
