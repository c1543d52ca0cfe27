"""Frozen dataclasses to JSON objects and back, checked against their annotations."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from peerllm.errors import BadAnswer

T = TypeVar("T")

MAX_WHOLE = 2**53
"""The largest whole number that stands for a float; JSON's have no end."""


def to_json(value: Any) -> dict[str, Any]:
    return asdict(value)


def from_json(kind: type[T], data: object) -> T:
    """Build `kind` from a decoded JSON object; unknown fields are skipped, wrong types raise `BadAnswer`."""
    if not isinstance(data, dict):
        raise BadAnswer(f"expected an object for {kind.__name__}, got {type(data).__name__}")
    given = cast("dict[str, object]", data)
    hints = _hints(kind)
    values = {
        item.name: _read(hints[item.name], given[item.name], f"{kind.__name__}.{item.name}")
        for item in fields(cast(Any, kind))
        if item.name in given
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise BadAnswer(f"{kind.__name__}: {error}") from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, value: object, where: str) -> object:
    if kind is Any:
        return value
    kind = getattr(kind, "__supertype__", kind)  # of a NewType
    origin = get_origin(kind)
    if origin is UnionType:
        return None if value is None else _read(next(k for k in get_args(kind) if k is not NoneType), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(get_args(kind)[0], item, where) for item in cast("list[object]", value))
    if is_dataclass(kind):
        return from_json(cast("type[Any]", kind), value)
    expected = origin or kind
    if expected is float and type(value) is int and abs(value) <= MAX_WHOLE:
        return float(value)
    if type(value) is not expected:
        raise BadAnswer(f"{where} should be {getattr(expected, '__name__', expected)}, not {type(value).__name__}")
    return value
