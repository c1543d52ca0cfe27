"""The text of the systemd user unit."""

from __future__ import annotations

from collections.abc import Sequence

NAME = "peerllm.service"

_UNIT = """\
[Unit]
Description=peerllm: answers questions, and lends this machine as its owner allows
Documentation=man:peerllm(1)
# a unit of a program that was removed meanwhile is no error
ConditionPathExists={program}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=exec
ExecStart={command}
{environment}Restart=on-failure
RestartSec=10
# wrong configuration, or a daemon that somebody has started already
RestartPreventExitStatus=2
# answers under way need p2pd until they end
KillMode=mixed
TimeoutStopSec=60

# whatever the owner runs comes first
CPUWeight=idle
Nice=10
IOSchedulingClass=idle
OOMScoreAdjust=500

# No ProtectSystem= and the like: in user units they need user namespaces, which some systems forbid.
# No MemoryDenyWriteExecute=: numba and torch compile.
NoNewPrivileges=yes
UMask=0077
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


def systemd_unit(command: Sequence[str], *, home: str = "") -> str:
    """The unit that runs `command serve`.

    Args:
        command: how this program is started; its last path has to be there for the unit to start.
        home: value of PEERLLM_HOME, "" for the platform's folders.
    """
    program = next(word for word in reversed(command) if word.startswith("/"))
    environment = f"Environment={_quoted(f'PEERLLM_HOME={home}')}\n" if home else ""
    return _UNIT.format(
        program=program.replace("%", "%%"),
        command=" ".join(map(_word, (*command, "serve", "--quiet"))),
        environment=environment,
    )


def _word(text: str) -> str:
    """One word of ExecStart=, where `$` begins a variable (systemd.service(5))."""
    return _quoted(text.replace("$", "$$"))


def _quoted(text: str) -> str:
    """Quoted if need be; `%` begins a specifier, and a line may not break (systemd.syntax(7))."""
    text = text.replace("%", "%%")
    if text and not any(character in " \t\n\"'\\;" for character in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
