"""Choices that need no desktop: which icon, which terminal, what to tell, how to start at login, what is drawn."""

from __future__ import annotations

import plistlib
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from peerllm.errors import NoTerminal
from peerllm.local.schema import ContributionStatus, LifecycleState, MembershipStatus
from peerllm_tray.autostart import DesktopEntry, LaunchAgent, RunKey, autostart
from peerllm_tray.backend import Backend, Probe, choose, moved, why_none
from peerllm_tray.icons import COLOURS, SIZES, argb, icon
from peerllm_tray.moment import Look
from peerllm_tray.notices import Told, notices
from peerllm_tray.state import Picture
from peerllm_tray.terminal import terminal_command
from tests.tray.test_menu import GUEST, STATUS

LINUX = Probe("linux", dbus=True, pystray=True)
COMMAND = ("/opt/my apps/peerllm", "tray", "--wait", "60", "$100%")


@pytest.mark.parametrize(
    ("probe", "backend"),
    [
        (replace(LINUX, sni_host=True), "sni"),
        (replace(LINUX, sni_host=True, xembed_host=True, gtk=True), "sni"),
        (replace(LINUX, sni_host=True, pystray=False), "sni"),
        (replace(LINUX, xembed_host=True, gtk=True), "gtk"),
        (replace(LINUX, xembed_host=True), "xorg"),
        (replace(LINUX, xembed_host=True, gtk=True, pystray=False), None),
        (LINUX, None),
        (replace(LINUX, gtk=True), None),
        (Probe("win32", pystray=True), "win32"),
        (Probe("darwin", pystray=True), "darwin"),
        (Probe("win32"), None),
    ],
)
def test_which_icon(probe: Probe, backend: Backend | None) -> None:
    assert choose(probe) == backend


def test_the_icon_does_not_wait_for_what_it_does_not_need() -> None:
    slow = {"torch", "hivemind", "numpy", "httpx", "PIL", "dbus_fast", "pystray", "Xlib", "textual"}
    program = f"import sys, peerllm_tray.app, peerllm_tray.hosting; print(*sorted({slow!r} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_why_there_is_none_says_what_to_do() -> None:
    assert "gnome-shell-extension-appindicator" in why_none(LINUX)
    assert "pip install 'peerllm[desktop]'" in why_none(replace(LINUX, xembed_host=True, pystray=False))


@pytest.mark.parametrize(
    ("before", "now", "again"),
    [
        (replace(LINUX, sni_host=True), LINUX, False),
        (replace(LINUX, sni_host=True), replace(LINUX, xembed_host=True), True),
        (replace(LINUX, xembed_host=True), replace(LINUX, xembed_host=True), False),
    ],
    ids=["gone", "another kind", "the same"],
)
def test_when_the_icon_is_shown_anew(before: Probe, now: Probe, again: bool) -> None:
    assert moved(before, now) == again


@pytest.mark.parametrize(
    ("platform", "installed", "opened"),
    [
        ("linux", {"xterm", "konsole"}, ["konsole", "-e", *COMMAND]),
        ("linux", {"gnome-terminal"}, ["gnome-terminal", "--", *COMMAND]),
        ("linux", {"x-terminal-emulator", "xterm"}, ["x-terminal-emulator", "-e", *COMMAND]),
        ("win32", {"wt"}, ["wt", *COMMAND]),
        ("win32", set(), ["cmd", "/c", "start", "peerllm", *COMMAND]),
    ],
)
def test_which_terminal(platform: str, installed: set[str], opened: list[str]) -> None:
    assert terminal_command(platform, COMMAND, lambda name: name if name in installed else None) == opened


def test_terminal_of_macos_is_told_what_to_type() -> None:
    program, flag, script = terminal_command("darwin", ('/a "b"/peerllm', "chat"))
    assert (program, flag) == ("osascript", "-e")
    assert 'do script "\'/a \\"b\\"/peerllm\' chat"' in script


def test_no_terminal_says_what_to_type() -> None:
    with pytest.raises(NoTerminal, match="peerllm chat"):
        terminal_command("linux", ("peerllm", "chat"), lambda _: None)


def test_desktop_entry_is_written_valid_and_removed(tmp_path: Path) -> None:
    entry = DesktopEntry(tmp_path / "autostart" / "peerllm.desktop")
    assert not entry.enabled()
    entry.enable(COMMAND)
    assert entry.enabled()
    assert 'Exec="/opt/my apps/peerllm" tray --wait 60 "\\\\$100%%"\n' in entry.file.read_text()
    if shutil.which("desktop-file-validate"):
        checked = subprocess.run(["desktop-file-validate", str(entry.file)], capture_output=True, text=True)
        assert checked.stdout + checked.stderr == ""
    entry.disable()
    assert not entry.enabled()
    assert not entry.file.exists()


def test_entry_of_a_package_is_overruled_and_not_touched(tmp_path: Path) -> None:
    packaged = tmp_path / "etc" / "autostart" / "peerllm.desktop"
    packaged.parent.mkdir(parents=True)
    packaged.write_text("[Desktop Entry]\nType=Application\nName=peerllm\nExec=peerllm tray\n")
    entry = autostart("linux", {"XDG_CONFIG_HOME": str(tmp_path / "own"), "XDG_CONFIG_DIRS": str(tmp_path / "etc")})
    assert entry.enabled()
    entry.disable()
    assert not entry.enabled()
    assert packaged.exists()
    entry.enable(COMMAND)
    assert entry.enabled()


def test_launch_agent_is_a_property_list(tmp_path: Path) -> None:
    agent = autostart("darwin", {"HOME": str(tmp_path)})
    assert isinstance(agent, LaunchAgent)
    assert not agent.enabled()
    agent.enable(COMMAND)
    assert agent.enabled()
    assert plistlib.loads(agent.file.read_bytes())["ProgramArguments"] == list(COMMAND)
    agent.disable()
    agent.disable()
    assert not agent.enabled()


class Registry:
    """What `RunKey` uses of winreg."""

    HKEY_CURRENT_USER, REG_SZ = 1, 1

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    @contextmanager
    def CreateKey(self, root: int, path: str) -> Any:
        assert (root, path.endswith(r"CurrentVersion\Run")) == (1, True)
        yield self.values

    def QueryValueEx(self, key: dict[str, str], name: str) -> tuple[str, int]:
        if name not in key:
            raise FileNotFoundError(name)
        return key[name], self.REG_SZ

    def SetValueEx(self, key: dict[str, str], name: str, reserved: int, kind: int, value: str) -> None:
        key[name] = value

    def DeleteValue(self, key: dict[str, str], name: str) -> None:
        if key.pop(name, None) is None:
            raise FileNotFoundError(name)


def test_run_key_holds_a_command_line() -> None:
    registry = Registry()
    key = RunKey(registry)
    assert not key.enabled()
    key.enable(("C:\\My apps\\peerllm.exe", "tray"))
    assert registry.values == {"peerllm": '"C:\\My apps\\peerllm.exe" tray'}
    assert key.enabled()
    key.disable()
    key.disable()
    assert not key.enabled()


def test_first_share_is_told_once_and_never_again() -> None:
    look = Look(STATUS, GUEST)
    told, found = notices(Told(), look)
    assert [notice.title for notice in found] == ["This computer is lent"]
    assert told.shared
    assert notices(told, look)[1] == []
    assert notices(Told(shared=True), look)[1] == []
    idle = Look(replace(STATUS, contribution=ContributionStatus(True)), GUEST)
    assert notices(Told(), idle)[1] == []


def test_another_swarm_is_told_but_the_first_is_no_news() -> None:
    told, found = notices(Told(shared=True), Look(STATUS, GUEST))
    assert found == []
    told, found = notices(told, Look(replace(STATUS, swarm="friends"), GUEST))
    assert "friends" in found[0].text
    assert notices(told, Look(replace(STATUS, swarm="friends"), GUEST))[1] == []


def test_each_problem_is_told_once() -> None:
    expired = replace(STATUS, membership=MembershipStatus(problem="the certificate has expired"))
    told, found = notices(Told(shared=True), Look(expired, GUEST))
    assert [(notice.urgent, notice.text) for notice in found] == [(True, "the certificate has expired")]
    told, found = notices(told, Look(replace(expired, lifecycle=LifecycleState("error", 0, reason="disk full")), GUEST))
    assert [notice.text for notice in found] == ["disk full"]
    assert notices(told, Look(STATUS, GUEST))[1] == []
    assert notices(told, Look(expired, GUEST))[1] == []


def test_pictures_differ_by_shape_as_well_as_by_colour() -> None:
    pytest.importorskip("PIL")
    signs = {picture: icon(picture, 22).convert("LA").tobytes() for picture in Picture}
    assert len(set(signs.values())) == len(Picture)
    outlines = {
        icon(picture, 22).getchannel("A").tobytes() for picture in (Picture.OFF, Picture.SHARING, Picture.TROUBLE)
    }
    assert len(outlines) == 3
    for picture in Picture:
        colours = [colour for _, colour in icon(picture, 48).getcolors(48 * 48) or []]
        assert (*COLOURS[picture], 255) in colours


def test_pixels_are_in_network_byte_order() -> None:
    pytest.importorskip("PIL")
    for size in SIZES:
        assert len(argb(Picture.SHARING, size)) == 4 * size * size
    right_of_the_middle = 4 * (24 * 48 + 41)
    assert argb(Picture.BUSY, 48)[right_of_the_middle : right_of_the_middle + 4] == bytes((255, *COLOURS[Picture.BUSY]))
