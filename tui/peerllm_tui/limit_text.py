"""Limits as people read and write them. Pure."""

from __future__ import annotations

from peerllm.errors import UsageError
from peerllm.local.inert_text import inert
from peerllm.local.lending import Limit
from peerllm.sizes import parse_bytes

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("GB", 10**9), ("MB", 10**6))
_ON, _OFF = ("true", "yes", "on"), ("false", "no", "off")


def limit_text(limit: Limit) -> str:
    """The value as `limit_value` reads it."""
    return _shown(limit, limit.value)


def default_text(limit: Limit) -> str:
    return _shown(limit, limit.default) or '""'


def limit_value(limit: Limit, text: str) -> object:
    """What the daemon is told for this text; text that is none of the kind is left for the daemon to refuse."""
    text, kind = text.strip(), limit.default
    if isinstance(kind, bool):
        return True if text.casefold() in _ON else False if text.casefold() in _OFF else text
    if isinstance(kind, list | tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(kind, str):
        return text
    try:
        if _is_size(limit):
            return parse_bytes(text.removesuffix("/s"))
        return int(text) if isinstance(kind, int) else float(text)
    except (ValueError, UsageError):
        return text


def about_text(limit: Limit) -> str:
    """What is said of a limit while it is edited."""
    return f"{inert(limit.about)} Takes {inert(limit.allowed)}; default {inert(default_text(limit))}."


def _shown(limit: Limit, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return inert(", ".join(map(str, value)))
    if _is_size(limit) and isinstance(value, int):
        return _size(value)
    return f"{value:g}" if isinstance(value, float) else inert(str(value))


def _is_size(limit: Limit) -> bool:
    return limit.key.endswith(("_bytes", "_bytes_per_s"))


def _size(count: int) -> str:
    """Exact, so that reading and writing it changes nothing: "2GiB", "1536MiB", "1000"."""
    unit, factor = next(((unit, factor) for unit, factor in _UNITS if count and count % factor == 0), ("", 1))
    return f"{count // factor}{unit}"
