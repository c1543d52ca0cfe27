"""``peerllm config``: every field, its value and where that comes from; ``config path``, ``config set``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from peerllm.cli.environment import locations, read_config
from peerllm.cli.output import paint, print_json, print_table

if TYPE_CHECKING:
    from peerllm.cli.models import Subparsers
    from peerllm.config_sources import LoadedConfig


def add_commands(verbs: Subparsers) -> None:
    config = verbs.add_parser("config", help="show or change the configuration")
    config.add_argument("--json", action="store_true", help="as JSON")
    config.add_argument("--explain", action="store_true", help="say what each field is for and what it takes")
    config.set_defaults(run=_show)
    actions = config.add_subparsers(metavar="ACTION")
    path = actions.add_parser("path", help="where config.toml is, or would be")
    path.set_defaults(run=_path)
    change = actions.add_parser("set", help="write one field into config.toml")
    change.add_argument("key", help="for example contribution.memory_bytes")
    change.add_argument("value", help="for example 1.5GiB; lists are separated by commas")
    change.set_defaults(run=_set)


def _show(arguments: argparse.Namespace) -> int:
    from peerllm.config import settings

    loaded = _counting()
    rows = [(setting, loaded.value(setting), loaded.sources[setting.key]) for setting in settings()]
    if arguments.json:
        hidden = {key: ("(set)" if value else "") for key, value in ((s.key, v) for s, v, _ in rows if s.secret)}
        print_json({s.key: {"value": hidden.get(s.key, v), "source": source} for s, v, source in rows})
    elif arguments.explain:
        for setting, value, source in rows:
            print(f"{paint(setting.key, 'bold')} = {setting.shown(value)}  ({source})")
            print(f"    {setting.about}\n    takes {setting.rule.allowed}; {setting.variable}")
    else:
        print_table(("FIELD", "VALUE", "FROM"), [(s.key, s.shown(value), source) for s, value, source in rows])
    return 0


def _path(_: argparse.Namespace) -> int:
    print(locations().config_file)
    return 0


def _set(arguments: argparse.Namespace) -> int:
    from peerllm.config_edit import set_in_file
    from peerllm.config_sources import known_setting

    setting = known_setting(arguments.key, "config set")
    value = set_in_file(locations().config_file, arguments.key, arguments.value)
    print(f"{setting.key} = {setting.shown(value)} in {locations().config_file}")
    loaded = _counting()
    if loaded.value(setting) != value:
        print(f"note: {loaded.sources[setting.key]} overrides it")
    print("a running daemon takes it up at its next start")
    return 0


def _counting() -> LoadedConfig:
    """The config with what its owner chose elsewhere."""
    from peerllm.choices import chosen, load_choices

    return chosen(read_config(), load_choices(locations().choices_file))
