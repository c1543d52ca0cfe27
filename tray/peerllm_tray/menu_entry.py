"""One entry of the tray's menu."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from peerllm_tray.actions import Action


class Kind(StrEnum):
    ITEM = "item"
    CHECK = "check"
    RADIO = "radio"
    SEPARATOR = "separator"


@dataclass(frozen=True)
class Entry:
    """`key` names it among its siblings for good; with `children` it is a submenu."""

    key: str
    label: str = ""
    action: Action | None = None
    kind: Kind = Kind.ITEM
    checked: bool = False
    enabled: bool = True
    visible: bool = True
    children: tuple[Entry, ...] = ()


def line(key: str, text: str) -> Entry:
    """Something to read, hidden if there is nothing."""
    return Entry(key, text, enabled=False, visible=bool(text))


def separator(key: str, *, visible: bool = True) -> Entry:
    return Entry(key, kind=Kind.SEPARATOR, visible=visible)


def submenu(key: str, label: str, *children: Entry, visible: bool = True) -> Entry:
    return Entry(key, label, visible=visible, children=children)
