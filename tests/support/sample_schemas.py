"""Schemas and tools of the kinds that programs send, and what each of them is there for."""

from __future__ import annotations

from typing import Any

CITY = {"type": "string", "maxLength": 12}

SCHEMAS: dict[str, Any] = {
    "nested": {
        "type": "object",
        "properties": {
            "who": {
                "type": "object",
                "properties": {"name": CITY, "old": {"type": "boolean"}},
                "required": ["name", "old"],
                "additionalProperties": False,
            },
            "note": {"anyOf": [{"const": "none"}, {"type": "null"}]},
        },
        "required": ["who", "note"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": -3, "maximum": 3}, "b": {"type": "null"}},
        "additionalProperties": False,
    },
    "enum": {"enum": ["red", "green", 7, None, {"x": [1]}]},
    "array": {
        "type": "array",
        "items": {"type": "number", "minimum": 0.5, "exclusiveMaximum": 20},
        "minItems": 2,
        "maxItems": 4,
    },
    "tuple": {"type": "array", "prefixItems": [{"type": "integer", "multipleOf": 7}, CITY], "items": False},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"},
    "date": {"type": "string", "format": "date"},
    "union": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "is": {"type": of}},
                "required": ["kind", "is"],
                "additionalProperties": False,
            }
            for kind, of in (("truth", "boolean"), ("void", "null"))
        ]
    },
    "intersection": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 11}]},
    "tree": {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"of": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}},
                "required": ["of"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/tree",
    },
    "unicode": {
        "type": "object",
        "properties": {"größe ｜ 大きさ": {"enum": ["klein 🐁", "groß 🐘"]}, 'quote " \\ \n': {"type": "null"}},
        "required": ["größe ｜ 大きさ", 'quote " \\ \n'],
        "additionalProperties": False,
    },
    "map": {
        "type": "object",
        "patternProperties": {"^k[0-9]$": {"type": "boolean"}},
        "additionalProperties": False,
        "maxProperties": 2,
    },
}


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": CITY, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "weather_now",
            "parameters": {"type": "object", "properties": {"unit": {"enum": ["°C", "°F"]}}, "required": ["unit"]}
            | {"additionalProperties": False},
        },
    },
    {"type": "function", "function": {"name": "clock"}},
]
