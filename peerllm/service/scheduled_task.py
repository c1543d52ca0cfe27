"""The XML of the Windows task (Task Scheduler schema 1.2), which starts the daemon inside WSL2."""

from __future__ import annotations

from collections.abc import Sequence
from subprocess import list2cmdline
from xml.etree.ElementTree import Element, SubElement, indent, tostring

NAME = "peerllm"
NAMESPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"
WSL = ("wsl.exe", "-d", "Debian", "--", "peerllm")
"""The daemon's libp2p is a Linux and macOS program, so on Windows it runs in WSL2."""

_SETTINGS = {
    "MultipleInstancesPolicy": "IgnoreNew",
    # on battery the governor decides, which knows what the owner wants
    "DisallowStartIfOnBatteries": "false",
    "StopIfGoingOnBatteries": "false",
    "StartWhenAvailable": "true",
    "ExecutionTimeLimit": "PT0S",
    "Priority": "8",
}


def scheduled_task(command: Sequence[str] = WSL, *, user: str) -> bytes:
    """The task that runs `command serve` when that user logs in; UTF-16, as schtasks wants it.

    Args:
        user: DOMAIN\\name, as in USERDOMAIN and USERNAME.
    """
    task = Element("Task", {"version": "1.2", "xmlns": NAMESPACE})
    SubElement(SubElement(task, "RegistrationInfo"), "Description").text = "The peerllm daemon, inside WSL2"
    trigger = SubElement(SubElement(task, "Triggers"), "LogonTrigger")
    SubElement(trigger, "Enabled").text = "true"
    SubElement(trigger, "UserId").text = user
    principal = SubElement(SubElement(task, "Principals"), "Principal", {"id": "Owner"})
    SubElement(principal, "UserId").text = user
    SubElement(principal, "LogonType").text = "InteractiveToken"
    SubElement(principal, "RunLevel").text = "LeastPrivilege"
    settings = SubElement(task, "Settings")
    for name, value in _SETTINGS.items():
        SubElement(settings, name).text = value
    again = SubElement(settings, "RestartOnFailure")
    SubElement(again, "Interval").text = "PT1M"
    SubElement(again, "Count").text = "5"
    action = SubElement(SubElement(task, "Actions", {"Context": "Owner"}), "Exec")
    SubElement(action, "Command").text = command[0]
    SubElement(action, "Arguments").text = list2cmdline([*command[1:], "serve", "--quiet"])
    indent(task)
    return tostring(task, encoding="utf-16", xml_declaration=True)
