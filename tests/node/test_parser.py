from __future__ import annotations

import argparse
import importlib

import pytest

from peerllm.cli.parser import COMMANDS, build_parser


@pytest.mark.parametrize("module", COMMANDS)
def test_each_module_adds_the_verbs_that_the_table_says(module: str) -> None:
    verbs = argparse.ArgumentParser().add_subparsers()
    importlib.import_module(f"peerllm.cli.{module}").add_commands(verbs)
    assert tuple(verbs.choices) == COMMANDS[module]


def test_help_lists_every_verb_and_a_named_verb_parses_alone() -> None:
    whole = build_parser().format_help()
    assert all(verb in whole for verbs in COMMANDS.values() for verb in verbs)
    assert build_parser(["status", "--json"]).parse_args(["status", "--json"]).verb == "status"
    with pytest.raises(SystemExit):
        build_parser(["nonsense"]).parse_args(["nonsense"])
