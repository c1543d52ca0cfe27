"""Whatever a model's logits are, an answer that ends by itself follows its grammar."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerllm.errors import GenerationError, UsageError
from peerllm.generation.answer import CallArguments, CallBegins, Content, Reasoning
from peerllm.generation.constraint import MAX_KEPT, Constraint, Constraints
from peerllm.generation.grammar import Grammar, grammar_of
from peerllm.generation.reading import AnswerReader
from peerllm.model.families import Family, ReasoningFormat, ToolFormat, family_of
from peerllm.model.vocabulary import TokenKind
from tests.support.constrained import RandomAnswer, embedded_tokenizer, random_answer, small_tokenizer
from tests.support.sample_schemas import SCHEMAS, TOOLS

SEEDS = st.integers(0, 1 << 32)


PLAIN = Family("plain", ToolFormat("hermes", "<tool_call>\n", "\n</tool_call>"))


FAMILIES = [
    ToolFormat("tagged", "<tool_call>\n", "\n</tool_call>"),
    ToolFormat("bare", "", "", arguments_key="parameters", separator="; ", ignored=("<|python_tag|>",)),
    ToolFormat("list", "[TOOL_CALLS]", "", as_list=True),
    ToolFormat("named", "[TOOL_CALLS]", "", name_end="[ARGS]", separator=""),
    ToolFormat("list in tags", "<|tool_call|>", "<|/tool_call|>", as_list=True),
    ToolFormat("around", "<call>function<sep>", "\n```</call>", name_end="\n```json\n", around=("<calls>", "</calls>")),
    ToolFormat("channel", "<|channel|>commentary to=", "", name_end="<|message|>", separator="<|start|>assistant"),
]


PARAMETERS = {tool["function"]["name"]: tool["function"].get("parameters", {"maxProperties": 0}) for tool in TOOLS}


@pytest.fixture(scope="module")
def constraints() -> Constraints:
    return Constraints(small_tokenizer())


@pytest.fixture(scope="module")
def embedded() -> Constraints:
    return Constraints(embedded_tokenizer())


def started(constraints: Constraints, grammar: Grammar | None, family: Family = PLAIN) -> Constraint:
    assert grammar is not None
    return asyncio.run(asyncio.wait_for(constraints.start(grammar, family), 60))


def schema_grammar(schema: Any, *, strict: bool = True) -> Grammar | None:
    asked = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": strict}}
    return grammar_of(asked, [], None, True)


def answered(constraint: Constraint, seed: int, begin: str = "") -> RandomAnswer:
    return random_answer(constraint, small_tokenizer(), seed, begin=begin)


def check_json(answer: RandomAnswer, schema: Any) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    if answer.ended:
        jsonschema.validate(json.loads(answer.text), schema, format_checker=checker)


@settings(deadline=None)
@given(name=st.sampled_from(sorted(SCHEMAS)), seed=SEEDS)
def test_any_logits_follow_the_schema(constraints: Constraints, name: str, seed: int) -> None:
    check_json(answered(started(constraints, schema_grammar(SCHEMAS[name])), seed), SCHEMAS[name])


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_any_logits_over_a_real_vocabulary_follow_the_schema(embedded: Constraints, name: str) -> None:
    ended = 0
    for seed in range(10):
        constraint = started(embedded, schema_grammar(SCHEMAS[name]))
        answer = random_answer(constraint, embedded_tokenizer(), seed, max_tokens=60)
        check_json(answer, SCHEMAS[name])
        ended += answer.ended
    assert ended


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS)
def test_any_logits_give_an_object(constraints: Constraints, seed: int) -> None:
    answer = answered(started(constraints, grammar_of({"type": "json_object"}, [], None, True)), seed)
    if answer.ended:
        assert isinstance(json.loads(answer.text), dict)


@settings(deadline=None, max_examples=50)
@given(seed=SEEDS, name=st.sampled_from(sorted(SCHEMAS)))
def test_white_space_does_not_run_on(constraints: Constraints, name: str, seed: int) -> None:
    text = answered(started(constraints, schema_grammar(SCHEMAS[name])), seed).text
    assert "\n" not in text.lstrip()
    assert "\t" not in text


def markers(tools: ToolFormat) -> tuple[str, ...]:
    """Those that vocabularies have as one token."""
    texts = (tools.begin, tools.end, tools.name_end, tools.separator, *tools.around, *tools.ignored)
    known = ("[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "<|/tool_call|>", "<calls>", "</calls>", "<call>", "</call>")
    known = (*known, "<|channel|>", "<|message|>", "<|start|>", "<sep>", "<|python_tag|>")
    return tuple(marker for marker in known if any(marker in text for text in texts))


@pytest.mark.parametrize("single", [False, True], ids=["spelled", "one token"])
@pytest.mark.parametrize("reasons", [False, True], ids=["", "reasoning"])
@pytest.mark.parametrize("choice", ["required", "auto"])
@pytest.mark.parametrize("tools", FAMILIES, ids=lambda tools: tools.name)
def test_calls_of_every_family_are_read_back(tools: ToolFormat, choice: str, reasons: bool, single: bool) -> None:
    tokenizer = small_tokenizer(markers(tools) if single else ())
    own = Constraints(tokenizer)
    family = Family(tools.name, tools, ReasoningFormat("<think>", "</think>") if reasons else None)
    begin = "<think>Hm.</think>" if reasons else ""
    if choice == "auto":
        trigger = (tools.around[0] or tools.begin).strip()
        begin += f"Let me see. {trigger}" if trigger else "{"
    called = 0
    for seed in range(6):
        constraint = started(own, grammar_of(None, TOOLS, choice, True), family)
        answer = random_answer(constraint, tokenizer, seed, begin=begin)
        reader = AnswerReader(family, tools=True)
        parts = (*reader.feed(answer.text), *reader.flush())
        if not answer.ended:
            continue
        called += 1
        check_calls(parts)
        content = "".join(part.text for part in parts if isinstance(part, Content)).strip()
        assert content == ("Let me see." if choice == "auto" and tools.begin else "")
        assert "".join(part.text for part in parts if isinstance(part, Reasoning)) == ("Hm." if reasons else "")
    assert called


def check_calls(parts: tuple[object, ...]) -> None:
    calls = {part.index: part.name for part in parts if isinstance(part, CallBegins)}
    assert calls
    for index, name in calls.items():
        written = [part.text for part in parts if isinstance(part, CallArguments) and part.index == index]
        jsonschema.validate(json.loads("".join(written)), PARAMETERS[name])


@settings(deadline=None, max_examples=60)
@given(tools=st.sampled_from(FAMILIES), seed=SEEDS)
def test_any_logits_with_tools_at_will_give_text_or_calls(
    constraints: Constraints, tools: ToolFormat, seed: int
) -> None:
    family = Family(tools.name, tools)
    answer = answered(started(constraints, grammar_of(None, TOOLS, "auto", True), family), seed)
    reader = AnswerReader(family, tools=True)
    parts = (*reader.feed(answer.text), *reader.flush())
    if reader.called and answer.ended:
        check_calls(parts)


def test_one_call_is_all_that_is_allowed_where_several_are_not(constraints: Constraints) -> None:
    grammar = grammar_of(None, TOOLS, "required", False)
    for tools in FAMILIES:
        for seed in range(4):
            answer = answered(started(constraints, grammar, Family(tools.name, tools)), seed)
            reader = AnswerReader(Family(tools.name, tools), tools=True)
            parts = (*reader.feed(answer.text), *reader.flush())
            assert sum(isinstance(part, CallBegins) for part in parts) <= 1


def test_without_a_call_the_format_holds(constraints: Constraints) -> None:
    schema = {"enum": ["yes", "no"]}
    asked = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}
    grammar = grammar_of(asked, TOOLS, "auto", True)
    for begin in ('"', "<tool_call>"):
        ended = [answered(started(constraints, grammar), seed, begin) for seed in range(10)]
        assert all(answer.text in ('"yes"', '"no"') for answer in ended if begin == '"')
        assert any(answer.ended for answer in ended)


def test_prompted_reasoning_ends_before_the_json_begins(constraints: Constraints) -> None:
    family = Family("r", PLAIN.tools, ReasoningFormat("<think>", "</think>", prompted=True))
    grammar = schema_grammar({"const": {"a": 1}})
    answer = answered(started(constraints, grammar, family), 0, begin='So {"b": 2} it is.</think>\n\n')
    assert answer.text.endswith(('{"a":1}', '{"a": 1}'))
    assert answer.ended


def test_control_tokens_and_ends_have_their_places(embedded: Constraints) -> None:
    tokenizer = embedded_tokenizer()
    control = tokenizer.vocabulary.of_kind(TokenKind.CONTROL)
    constraint = started(embedded, schema_grammar({"type": "string"}))
    assert not constraint.mask()[control].any()
    for token in tokenizer.encode('"half', add_bos=False):
        constraint.accept(token)
    assert not constraint.mask()[control].any()
    free = started(embedded, grammar_of(None, TOOLS, "auto", True)).mask()
    assert {token for token in control if free[token]} == tokenizer.eos_ids


def test_a_number_may_end_and_may_go_on(embedded: Constraints) -> None:
    tokenizer = embedded_tokenizer()
    constraint = started(embedded, schema_grammar({"type": "integer"}))
    for token in tokenizer.encode("12", add_bos=False):
        constraint.accept(token)
    allowed = constraint.mask()
    assert all(allowed[token] for token in (*tokenizer.eos_ids, *tokenizer.encode("3", add_bos=False)))
    assert not constraint.is_complete


def test_token_that_is_not_allowed_is_refused(embedded: Constraints) -> None:
    constraint = started(embedded, schema_grammar({"type": "integer"}))
    with pytest.raises(GenerationError, match="grammar cannot be followed"):
        constraint.accept(embedded_tokenizer().encode("x", add_bos=False)[0])


def test_answers_to_one_grammar_do_not_meet(constraints: Constraints) -> None:
    grammar = schema_grammar({"type": "integer", "minimum": 10, "maximum": 99})
    one, other = started(constraints, grammar), started(constraints, grammar)
    one.accept(small_tokenizer().encode("4", add_bos=False)[0])
    assert (other.mask() == started(constraints, grammar).mask()).all()
    assert (one.mask() != other.mask()).any()


def test_compiled_grammars_are_kept_in_bounds() -> None:
    own = Constraints(small_tokenizer())
    for length in range(MAX_KEPT + 5):
        started(own, schema_grammar({"type": "string", "maxLength": length}))
    assert len(own._kept) == MAX_KEPT


def test_what_is_not_strict_leaves_out_what_cannot_be_enforced(constraints: Constraints) -> None:
    schema = {"type": "array", "items": {"enum": [1]}, "minItems": 2, "maxItems": 2, "uniqueItems": True}
    assert answered(started(constraints, schema_grammar(schema, strict=False)), 0).ended


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "#/$defs/none"}, "does not exist"),
        ({"$ref": "#"}, "cannot be enforced"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "Unsatisfiable"),
        ({"type": "text"}, "Invalid type"),
        ({"oneOf": [{"type": "integer", "minimum": 1}, {"type": "integer", "maximum": 5}]}, "oneOf"),
        ({"type": "string", "maxLength": -1}, "maxLength"),
    ],
)
def test_schema_that_cannot_be_compiled_is_refused_by_place(constraints: Constraints, schema: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        started(constraints, schema_grammar(schema))
    assert str(error.value).startswith("response_format.json_schema.schema: ")


def test_tool_that_cannot_be_compiled_is_the_one_that_is_named(constraints: Constraints) -> None:
    bad = {"type": "object", "properties": {"a": {"pattern": "("}}}
    tools = [*TOOLS, {"type": "function", "function": {"name": "bad", "parameters": bad}}]
    with pytest.raises(UsageError, match=r"^tools\[3\]\.function\.parameters: "):
        started(constraints, grammar_of(None, tools, "auto", True))


HOSTILE: dict[str, Any] = {
    "references that double": {
        "$defs": {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)} | {"a40": {}},
        "$ref": "#/$defs/a0",
    },
    "intersections that multiply": {
        "allOf": [
            {"anyOf": [{"properties": {f"{i}{j}": {"type": "null"}}, "required": [f"{i}{j}"]} for j in range(4)]}
            for i in range(20)
        ]
    },
    "steps without a common one": {"allOf": [{"type": "integer", "multipleOf": step} for step in (97, 101, 103, 107)]},
    "patterns without a common text": {
        "allOf": [{"properties": {"p": {"pattern": f"(a|b)*a(a|b){{{n}}}$"}}, "required": ["p"]} for n in range(10, 30)]
    },
    "repetitions of repetitions": {"type": "string", "pattern": "^(((a{1,1000}){1,1000}){1,1000}){1,1000}$"},
    "a million items": {"type": "array", "items": {"type": "object"}, "minItems": 1_000_000},
    "a thousand optional properties": {"type": "object", "properties": {f"p{i}": True for i in range(1000)}},
    "a constant of 100,000 letters": {"const": "x" * 100_000},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_schema_ends_soon(name: str) -> None:
    own = Constraints(embedded_tokenizer())
    constrained = schema_grammar(HOSTILE[name])
    start = time.monotonic()
    with contextlib.suppress(UsageError, GenerationError):
        random_answer(started(own, constrained), embedded_tokenizer(), 0)
    # Not how fast it is: how long something without bounds would at least take.
    assert time.monotonic() - start < 60


def test_the_event_loop_goes_on_while_a_schema_is_compiled(constraints: Constraints) -> None:
    async def main() -> int:
        ticks = 0
        compiling = asyncio.create_task(constraints.start(grammar, PLAIN))
        while not compiling.done():
            await asyncio.sleep(0)
            ticks += 1
        await compiling
        return ticks

    grammar = schema_grammar({"type": "object", "properties": {f"q{i}": {"type": "null"} for i in range(300)}})
    assert grammar is not None
    assert asyncio.run(asyncio.wait_for(main(), 60)) > 2


def test_family_of_any_template_takes_a_grammar(constraints: Constraints) -> None:
    for source in ("", "<|channel|>analysis to=functions.", "<think> <tool_call>", "[TOOL_CALLS] [THINK]", "<|/tool|>"):
        started(constraints, grammar_of(None, TOOLS, "required", True), family_of(source)).mask()
