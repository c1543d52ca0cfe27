"""Where the icon is shown: a StatusNotifierItem of our own, or one of pystray's icons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from peerllm_tray.menu import Face


@dataclass(frozen=True)
class Notice:
    """Something that the owner should see even without looking at the icon."""

    title: str
    text: str
    urgent: bool = False


class Surface(Protocol):
    """Shows a `Face` and passes on what is clicked. All but `run` may be called from any thread, also before it."""

    @property
    def has_menu(self) -> bool: ...

    def run(self) -> None:
        """Show it until closed, or until the place where it is shown is gone for good; on the main thread."""
        ...

    def show(self, face: Face) -> None: ...

    def notify(self, notice: Notice) -> None:
        """Show it in a bubble, where there is something that shows bubbles."""
        ...

    def close(self) -> None: ...
