"""In which terminal to open the chat. Pure but for the question which programs are installed."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Sequence

from peerllm.errors import NoTerminal

_LINUX = {
    "x-terminal-emulator": ("-e",),
    "gnome-terminal": ("--",),
    "konsole": ("-e",),
    "xfce4-terminal": ("-x",),
    "kitty": (),
    "alacritty": ("-e",),
    "foot": (),
    "xterm": ("-e",),
}
"""Terminals and what stands between them and a command, the one that its owner chose first."""

_APPLE = 'tell application "Terminal"\nactivate\ndo script "{}"\nend tell'


def terminal_command(
    platform: str, command: Sequence[str], which: Callable[[str], str | None] = shutil.which
) -> list[str]:
    """What opens a terminal that runs the command; raises `NoTerminal`.

    Args:
        which: the path of a program, None if it is not installed.
    """
    if platform == "darwin":
        typed = shlex.join(command).replace("\\", "\\\\").replace('"', '\\"')
        return ["osascript", "-e", _APPLE.format(typed)]
    if platform == "win32":
        windows_terminal = which("wt")
        return [windows_terminal, *command] if windows_terminal else ["cmd", "/c", "start", "peerllm", *command]
    for name, before in _LINUX.items():
        if found := which(name):
            return [found, *before, *command]
    raise NoTerminal(f"no terminal is installed that could be opened; type `{shlex.join(command)}` in one")
