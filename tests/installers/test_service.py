"""The daemon as a service: the texts by the programs that read them, the doing with a systemctl of our own."""

from __future__ import annotations

import json
import os
import plistlib
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from peerllm.cli import main
from peerllm.errors import NoServiceManager
from peerllm.locations import Locations
from peerllm.service.chosen import service_manager
from peerllm.service.launch_agent import launch_agent
from peerllm.service.launchd import Launchd
from peerllm.service.scheduled_task import NAMESPACE, scheduled_task
from peerllm.service.systemd import Systemd
from peerllm.service.systemd_unit import systemd_unit
from peerllm.service.task_scheduler import TaskScheduler

COMMAND = ("/bin/sh", "-P", "-m", "peerllm")
SYSTEMCTL = """\
#!/bin/sh
echo "$*" >>"$SYSTEMCTL_LOG"
case $2 in show) printf 'UnitFileState=enabled\\nActiveState=active\\nSubState=running\\n' ;; esac
"""
SILENT = "#!/bin/sh\necho 'Failed to connect to bus: No medium found' >&2\nexit 1\n"


@pytest.mark.parametrize("home", ["", "/home/an owner/100%/$x"])
def test_systemd_takes_the_unit_without_a_word(tmp_path: Path, home: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "peerllm.service"
    unit.write_text(systemd_unit(COMMAND, home=home))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert (verified.returncode, verified.stderr) == (0, "")


def test_unit_is_a_good_guest_and_quotes_what_it_is_given() -> None:
    unit = systemd_unit(("/opt/a b/python", "-P", "-m", "peerllm"), home="/home/100%")
    assert 'ExecStart="/opt/a b/python" -P -m peerllm serve --quiet\n' in unit
    assert "Environment=PEERLLM_HOME=/home/100%%\n" in unit
    for line in ("CPUWeight=idle", "NoNewPrivileges=yes", "RestartPreventExitStatus=2", "WantedBy=default.target"):
        assert f"\n{line}\n" in unit


def test_launch_agent_is_a_property_list() -> None:
    agent = plistlib.loads(launch_agent(COMMAND, log_dir=Path("/logs"), home="/h"))
    assert agent["ProgramArguments"] == [*COMMAND, "serve", "--quiet"]
    assert agent["ProcessType"] == "Background"
    assert agent["EnvironmentVariables"] == {"PEERLLM_HOME": "/h"}


def test_task_is_xml_of_the_schema_that_schtasks_reads() -> None:
    content = scheduled_task(user="DESK\\O'Neil & <Co>")
    assert content.startswith((b"\xff\xfe", b"\xfe\xff"))
    task = ElementTree.fromstring(content)
    names = {"t": NAMESPACE}
    assert [child.tag.rpartition("}")[2] for child in task] == [
        "RegistrationInfo",
        "Triggers",
        "Principals",
        "Settings",
        "Actions",
    ]
    assert task.findtext("t:Triggers/t:LogonTrigger/t:UserId", namespaces=names) == "DESK\\O'Neil & <Co>"
    assert task.findtext("t:Actions/t:Exec/t:Command", namespaces=names) == "wsl.exe"
    assert task.findtext("t:Actions/t:Exec/t:Arguments", namespaces=names) == "-d Debian -- peerllm serve --quiet"


def test_every_platform_has_its_manager(tmp_path: Path) -> None:
    home = Locations.of({"PEERLLM_HOME": str(tmp_path)})
    env = {"PEERLLM_HOME": str(tmp_path), "USERDOMAIN": "DESK", "USERNAME": "owner"}
    linux = service_manager("linux", COMMAND, home, env, tmp_path)
    assert linux == Systemd(tmp_path / ".config" / "systemd" / "user", COMMAND, str(tmp_path))
    mac = service_manager("darwin", COMMAND, home, {}, tmp_path)
    assert mac == Launchd(tmp_path / "Library" / "LaunchAgents", COMMAND, home.log_dir)
    assert service_manager("win32", COMMAND, home, env, tmp_path) == TaskScheduler(home.state_dir, "DESK\\owner")


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of a systemctl that agrees to everything; the home it is called from is a fresh one."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("SYSTEMCTL_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PEERLLM_HOME", str(tmp_path / "home"))
    return tmp_path / "log"


def test_service_is_installed_told_and_deleted(systemctl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unit = systemctl.parent / "config" / "systemd" / "user" / "peerllm.service"
    assert main(["service", "install"]) == 0
    assert f"PEERLLM_HOME={systemctl.parent / 'home'}" in unit.read_text()
    assert systemctl.read_text().splitlines() == [
        "--user show-environment",
        "--user daemon-reload",
        "--user enable --now peerllm.service",
    ]
    capsys.readouterr()
    assert main(["service", "status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["definition"], told["reachable"], told["enabled"]) == ("as installed", True, "enabled")
    assert told["state"] == "active (running)"
    unit.write_text("[Unit]\n")
    main(["service", "status", "--json"])
    assert json.loads(capsys.readouterr().out)["definition"] == "changed by hand"
    assert main(["service", "uninstall"]) == 0
    assert not unit.exists()
    assert "disable --now" in systemctl.read_text()


def test_without_systemd_nothing_is_written_and_the_way_out_is_told(
    systemctl: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (systemctl.parent / "bin" / "systemctl").write_text(SILENT)
    assert main(["service", "install"]) == 1
    assert "peerllm up" in capsys.readouterr().err
    assert not (systemctl.parent / "config").exists()
    assert main(["service", "status"]) == 0
    said = capsys.readouterr().out
    assert "absent" in said
    assert "No medium found" in said


def test_uninstall_without_systemd_deletes_the_files(systemctl: Path) -> None:
    main(["service", "install"])
    units = systemctl.parent / "config" / "systemd" / "user"
    (units / "default.target.wants").mkdir()
    (units / "default.target.wants" / "peerllm.service").symlink_to(units / "peerllm.service")
    (systemctl.parent / "bin" / "systemctl").write_text(SILENT)
    assert main(["service", "uninstall"]) == 0
    assert [path.name for path in units.rglob("*")] == ["default.target.wants"]


def test_missing_program_is_a_typed_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoServiceManager, match="systemctl is not here"):
        Systemd(tmp_path, COMMAND).install(start=True)
