"""The Debian package: what is in it, and that its programs run from where it is unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

import peerllm
from tests.installers.conftest import PROJECT

LINUX = PROJECT / "installers" / "linux"
SYSTEM_PYTHON = Path("/usr/bin/python3")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    _need("dpkg-deb", "dpkg")
    old = "import sys; raise SystemExit(sys.version_info < (3, 11))"
    if not SYSTEM_PYTHON.exists() or subprocess.run([SYSTEM_PYTHON, "-c", old]).returncode:
        pytest.skip("the system's own Python is older than 3.11")
    env = {**os.environ, "PYTHON": sys.executable, "WHEEL": str(wheel), "COMPRESSION": "none"}
    return Path(_run([LINUX / "build_deb.sh", tmp_path_factory.mktemp("deb")], env).split()[-1])


@pytest.fixture(scope="module")
def unpacked(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    _run(["dpkg", "-x", deb, folder])
    return folder


def test_control_file_binds_the_package_to_its_python(deb: Path) -> None:
    fields = dict(line.split(": ", 1) for line in _run(["dpkg-deb", "-f", deb]).splitlines() if ": " in line[:24])
    minor = int(_run([SYSTEM_PYTHON, "-c", "import sys; print(sys.version_info.minor)"]))
    assert fields["Package"] == "peerllm"
    assert fields["Version"] == f"{peerllm.__version__}-1"
    assert f"python3 (>= 3.{minor}), python3 (<< 3.{minor + 1}), python3-venv" in fields["Depends"]
    assert "postinst" in _run(["dpkg-deb", "-I", deb])


def test_package_has_all_its_parts_and_nothing_outside_usr(deb: Path, unpacked: Path) -> None:
    names = [line.split(maxsplit=5)[5] for line in _run(["dpkg-deb", "-c", deb]).splitlines()]
    assert all(name.startswith("./usr/") or name in ("./", "./usr/") for name in names)
    for part in (
        "bin/peerllm",
        f"lib/peerllm/wheel/peerllm-{peerllm.__version__}-py3-none-any.whl",
        "lib/peerllm/peerllm/constraints.txt",
        "lib/systemd/user/peerllm.service",
        "share/applications/peerllm.desktop",
        "share/peerllm/autostart/peerllm.desktop",
        "share/man/man1/peerllm.1.gz",
        "share/bash-completion/completions/peerllm",
        "share/zsh/vendor-completions/_peerllm",
        "share/fish/vendor_completions.d/peerllm.fish",
        "share/doc/peerllm/copyright",
        "share/icons/hicolor/scalable/apps/peerllm.svg",
    ):
        assert (unpacked / "usr" / part).stat().st_size, part
    for heavy in ("torch", "hivemind", "numpy"):
        assert not (unpacked / "usr" / "lib" / "peerllm" / heavy).exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["version"], 0, peerllm.__version__),
        (["status"], 3, "peerllm up"),
        (["chat"], 4, "no terminal"),
        (["tray"], 4, "tray"),
        (["list"], 1, "peerllm setup"),
        (["--help"], 0, "verbs"),
    ],
)
def test_unpacked_launcher_runs(unpacked: Path, tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT / "tests")}
    command = [unpacked / "usr" / "bin" / "peerllm", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr


def test_desktop_entries_are_valid(unpacked: Path) -> None:
    _need("desktop-file-validate", "desktop-file-utils")
    for entry in ("applications", "peerllm/autostart"):
        _run(["desktop-file-validate", unpacked / "usr" / "share" / entry / "peerllm.desktop"])


def test_manual_renders_without_a_warning(unpacked: Path) -> None:
    _need("man", "man-db")
    page = unpacked / "usr" / "share" / "man" / "man1" / "peerllm.1.gz"
    done = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True, env=_plain())
    if "minimized" in done.stdout:
        pytest.skip("this system is minimized: its man shows nothing")
    assert (done.returncode, done.stderr) == (0, "")
    for section in ("EXIT STATUS", "FILES", "serve"):
        assert section in done.stdout


def test_completions_complete(unpacked: Path) -> None:
    completions = unpacked / "usr" / "share" / "bash-completion" / "completions" / "peerllm"
    ask = f'source {completions}; COMP_WORDS=(peerllm serv); COMP_CWORD=1; _shtab_peerllm; echo "${{COMPREPLY[@]}}"'
    assert {"serve", "service"} <= set(_run(["bash", "-c", ask]).split())
    for shell, file in (("zsh", "zsh/vendor-completions/_peerllm"), ("fish", "fish/vendor_completions.d/peerllm.fish")):
        if shutil.which(shell):
            _run([shell, "-n", unpacked / "usr" / "share" / file])


def test_icon_is_there_in_every_size(unpacked: Path) -> None:
    icons = unpacked / "usr" / "share" / "icons" / "hicolor"
    assert ElementTree.parse(icons / "scalable" / "apps" / "peerllm.svg").getroot().tag.endswith("svg")
    for size in (16, 22, 24, 32, 48, 64, 128, 256):
        with Image.open(icons / f"{size}x{size}" / "apps" / "peerllm.png") as picture:
            assert picture.size == (size, size)


def test_every_bundled_library_has_its_licence_named(unpacked: Path) -> None:
    text = (unpacked / "usr" / "share" / "doc" / "peerllm" / "copyright").read_text()
    assert "LGPL" in text[text.index("pystray") :]
    bundled = [path.name for path in (unpacked / "usr" / "lib" / "peerllm").glob("*.dist-info")]
    assert all(name in text for name in bundled if not name.startswith("peerllm-"))


def test_package_lives_in_a_bare_debian(deb: Path, tmp_path: Path) -> None:
    if os.environ.get("PEERLLM_TRY_CHROOT") != "1":
        pytest.skip("takes 10 minutes, a gigabyte and root: PEERLLM_TRY_CHROOT=1")
    _need("debootstrap", "debootstrap")
    done = subprocess.run([LINUX / "try_in_chroot.sh", tmp_path / "system", deb, deb], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]


def _need(program: str, package: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (apt install {package})")


def _plain() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "HOME": "/nonexistent"}


def _run(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
