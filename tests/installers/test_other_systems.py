"""The installers of systems that these tests do not run on, as far as that can be tried."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from peerllm.service.launch_agent import launch_agent
from tests.installers.conftest import PROJECT

WINE = Path("/usr/lib/wine/wine64")
PROGRAM = Path("AppData/Local/Programs/peerllm")
MENU = Path("AppData/Roaming/Microsoft/Windows/Start Menu/Programs/peerllm")
UNINSTALL = r"HKCU\Software\Microsoft\Windows\CurrentVersion\Uninstall\peerllm"
RUN = r"HKCU\Software\Microsoft\Windows\CurrentVersion\Run"


@pytest.fixture(scope="module")
def setup_exe(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("makensis") is None:
        pytest.skip("makensis is not installed (apt install nsis)")
    env = {**os.environ, "PYTHON": sys.executable, "WHEEL": str(wheel)}
    command = [PROJECT / "installers" / "windows" / "build.sh", tmp_path_factory.mktemp("exe")]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_windows_installer_puts_everything_there_and_takes_it_away(setup_exe: Path, tmp_path: Path) -> None:
    if os.environ.get("PEERLLM_TRY_WINE") != "1":
        pytest.skip("takes half a minute: PEERLLM_TRY_WINE=1")
    if not WINE.exists():
        pytest.skip("wine is not installed (apt install wine64)")
    wine = Wine(tmp_path)
    try:
        assert wine.run(setup_exe, "/S").returncode == 0
        home = next(tmp_path.glob("drive_c/users/*/AppData/Local/Programs")).parents[2]
        installed = {path.name for path in (home / PROGRAM).iterdir()}
        assert {"peerllm.cmd", "install-wsl.cmd", "start-hidden.vbs", "uninstall.exe"} < installed
        assert any(name.endswith(".whl") for name in installed)
        assert {path.name for path in (home / MENU).iterdir()} == {"Chat.lnk", "Set up WSL2.lnk", "Uninstall.lnk"}
        assert "start-hidden.vbs" in wine.run("reg", "query", RUN).stdout
        assert "QuietUninstallString" in wine.run("reg", "query", UNINSTALL).stdout
        started = wine.run("cmd", "/c", home / PROGRAM / "peerllm.cmd", "status")
        assert (started.returncode, "needs WSL2" in started.stderr) == (1, True)
        wine.run(home / PROGRAM / "uninstall.exe", "/S")
        _wait_until_gone(home / PROGRAM)
        assert not (home / MENU).exists()
        assert wine.run("reg", "query", UNINSTALL).returncode == 1
        assert "peerllm" not in wine.run("reg", "query", RUN).stdout
    finally:
        wine.close()


def test_windows_installer_is_built_without_a_warning(setup_exe: Path) -> None:
    assert setup_exe.read_bytes()[:2] == b"MZ"


def test_macos_agent_is_the_one_that_the_service_verb_writes() -> None:
    folder = PROJECT / "installers" / "macos"
    packaged = plistlib.loads((folder / "org.peerllm.daemon.plist").read_bytes())
    written = plistlib.loads(launch_agent(["/usr/local/bin/peerllm"], log_dir=Path("/logs")))
    for private in ("StandardOutPath", "StandardErrorPath"):  # of one user
        del written[private]
    assert packaged == written


def test_macos_entitlements_allow_what_compiles_while_it_runs() -> None:
    entitlements = plistlib.loads((PROJECT / "installers" / "macos" / "entitlements.plist").read_bytes())
    assert entitlements["com.apple.security.cs.allow-jit"] is True


def test_shell_scripts_are_shell_scripts() -> None:
    folder = PROJECT / "installers"
    scripts = [*folder.rglob("*.sh"), folder / "linux" / "postinst", folder / "linux" / "prerm"]
    assert len(scripts) >= 6
    for script in scripts:
        assert script.stat().st_mode & 0o111, script
        subprocess.run(["sh", "-n", script], check=True)


class Wine:
    """A Windows of its own under `prefix`, without a screen."""

    def __init__(self, prefix: Path) -> None:
        silent = {"WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml=", "DISPLAY": ""}
        self._env = {**os.environ, **silent, "WINEPREFIX": str(prefix)}

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [WINE, *command], env=self._env, capture_output=True, text=True, errors="replace", timeout=200
        )

    def close(self) -> None:
        """End everything that still runs in it."""
        subprocess.run([WINE, "wineboot", "--kill"], env=self._env, capture_output=True, timeout=60)


def _wait_until_gone(folder: Path) -> None:
    """An uninstaller goes on as a copy of itself, which nobody waits for."""
    deadline = time.monotonic() + 60
    while folder.exists():
        assert time.monotonic() < deadline, [*folder.iterdir()]
        time.sleep(0.05)
