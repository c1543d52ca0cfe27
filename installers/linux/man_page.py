"""``python installers/linux/man_page.py``: peerllm(1) as troff, from the parser that reads the command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import peerllm
from peerllm.cli.parser import build_parser

_EXIT_CODES = (
    ("0", "ok"),
    ("1", "failed"),
    ("2", "wrong usage or configuration, or a second daemon for the same home"),
    ("3", "no daemon is running"),
    ("4", "no terminal or tray"),
    ("5", "no peers serve the model now"),
    ("130", "interrupted"),
)
_ENVIRONMENT = (
    ("PEERLLM_HOME", "puts all files under one folder: several daemons on one machine"),
    ("PEERLLM_SECTION_FIELD", "overrides the field of that name in config.toml"),
    ("PEERLLM_TORCH_INDEX", "package index with CPU builds of torch, for peerllm setup"),
    ("PEERLLM_DEBUG", "1 shows tracebacks"),
    ("NO_COLOR", "no colour"),
)
_FILES = (
    ("~/.config/peerllm/config.toml", "settings; peerllm config --explain is the reference"),
    ("~/.local/state/peerllm", "keys, tokens, conversations and logs of this user"),
    ("~/.local/share/peerllm/venv", "what peerllm setup has fetched"),
    ("~/.cache/peerllm/models", "weights"),
)


def man_page() -> str:
    """The whole page; every verb with its flags."""
    parser = build_parser()
    lines = [
        f'.TH PEERLLM 1 "" "peerllm {peerllm.__version__}" "User Commands"',
        ".SH NAME",
        "peerllm \\- run a language model that none of your machines could hold alone",
        ".SH SYNOPSIS",
        ".B peerllm",
        ".I VERB",
        "[\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        "One daemon per user does the work; every other verb is a client of it. "
        "Peers lend memory for some of a model's blocks, and any of them answers.",
        ".SH VERBS",
    ]
    for name, verb, about in _verbs(parser):
        lines += _described(name, verb, about)
    lines += [".SH EXIT STATUS", *_list(_EXIT_CODES)]
    lines += [".SH ENVIRONMENT", *_list(_ENVIRONMENT)]
    lines += [".SH FILES", *_list(_FILES)]
    lines += [".SH SEE ALSO", ".BR systemctl (1)"]
    return "\n".join(lines) + "\n"


def _verbs(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Every verb and every verb of a verb, with its one line of help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            about = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, verb in action.choices.items():
                yield f"{prefix}{name}", verb, about.get(name, "")
                yield from _verbs(verb, f"{prefix}{name} ")


def _described(name: str, verb: argparse.ArgumentParser, about: str) -> list[str]:
    usage = verb.format_usage().removeprefix(f"usage: {verb.prog}").split()
    usage = [word for word in usage if word != "[-h]"]
    if len(usage) > 12:  # the flags follow
        usage = ["[OPTIONS]", *(action.metavar or action.dest for action in _positional(verb))]
    title = " ".join([name, *map(str, usage)])
    lines = [f".SS {_text(title)}", _text(verb.description or about)]
    for action in verb._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        words = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        value = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
        lines += [".TP", f".B {_text(words + value)}", _text((action.help or "") % {**vars(action), "prog": verb.prog})]
    return lines


def _positional(verb: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in verb._actions if not action.option_strings]


def _list(items: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for name, about in items:
        yield from (".TP", f".B {_text(name)}", _text(about))


def _text(words: str) -> str:
    """Harmless to troff: hyphens stay hyphens, and no line begins with a request."""
    escaped = re.sub(r"\s+", " ", words).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped or "\\&"


if __name__ == "__main__":
    print(man_page(), end="")
