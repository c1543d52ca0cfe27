"""What a newcomer's machine still has to do before it can answer, in words. Pure."""

from __future__ import annotations

from peerllm.local.inert_text import inert
from peerllm.local.schema import LifecycleState, Status

HINT = "Ask something. Enter sends, Ctrl+J or Shift+Enter breaks the line, Ctrl+P has every command."
NO_DAEMON = (
    "The daemon is what talks to the other machines; these screens only show it. None runs for you now. "
    "Started from here it stays when you leave; `peerllm down` stops it."
)
ALONE = (
    "No other machine is in view yet. On a machine of the swarm that you want to be in, `peerllm invite` makes an "
    "invitation, which you can paste here; here, it invites others to your own."
)

_BAR_CELLS = 24
_PREPARING = ("downloading", "loading", "warming")


def is_alone(status: Status) -> bool:
    """Whether the owner may want to bring this machine into a swarm, or others into this one."""
    return not status.peers and status.lifecycle.name not in ("discovering", "error")


def preparation(state: LifecycleState) -> str:
    """What is fetched or loaded with how far it is, "" if nothing is."""
    if state.name not in _PREPARING:
        return ""
    what = f"{state.name}{': ' + inert(state.reason) if state.reason else ''}"
    return what if state.progress is None else f"{what}\n{bar(state.progress)} {state.progress:.0%}"


def bar(fraction: float, cells: int = _BAR_CELLS) -> str:
    filled = round(max(0.0, min(1.0, fraction)) * cells)
    return "█" * filled + "░" * (cells - filled)
