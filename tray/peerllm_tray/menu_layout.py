"""The menu as com.canonical.dbusmenu numbers it, and what of it changed. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from peerllm_tray.actions import Action
from peerllm_tray.menu_entry import Entry, Kind

ROOT = 0

Properties = dict[str, str | bool | int]


class MenuNumbers:
    """A number for every entry by its path, the same for as long as the process lives: hosts remember them."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, ...], int] = {(): ROOT}

    def of(self, path: tuple[str, ...]) -> int:
        return self._numbers.setdefault(path, len(self._numbers))


@dataclass(frozen=True)
class MenuLayout:
    """Entries by number; `shape` says which lie under which."""

    shape: dict[int, tuple[int, ...]] = field(default_factory=lambda: {ROOT: ()})
    properties: dict[int, Properties] = field(default_factory=lambda: {ROOT: {"children-display": "submenu"}})
    actions: dict[int, Action] = field(default_factory=dict)

    def changed_since(self, before: MenuLayout) -> dict[int, Properties]:
        """What is new of each entry that was there before; between layouts of one shape that is all there is."""
        changed: dict[int, Properties] = {}
        for number in self.properties.keys() & before.properties.keys():
            old = before.properties[number]
            new = {name: value for name, value in self.properties[number].items() if old.get(name) != value}
            if new:
                changed[number] = new
        return changed

    def in_shape_of(self, before: MenuLayout) -> MenuLayout:
        """As much of it as can be said without a new shape: entries that come and go wait, and what is above them."""
        properties = {
            number: self.properties[number] if self.shape.get(number) == below else before.properties[number]
            for number, below in before.shape.items()
        }
        return MenuLayout(before.shape, properties, {**before.actions, **self.actions})


def menu_layout(menu: tuple[Entry, ...], numbers: MenuNumbers) -> MenuLayout:
    """Number a menu."""
    layout = MenuLayout()
    for path, entry in _walk((), menu):
        number = numbers.of(path)
        layout.shape[number] = tuple(numbers.of((*path, child.key)) for child in entry.children)
        layout.properties[number] = _properties(entry)
        if entry.action is not None and entry.enabled:
            layout.actions[number] = entry.action
    layout.shape[ROOT] = tuple(numbers.of((entry.key,)) for entry in menu)
    return layout


def _walk(above: tuple[str, ...], menu: tuple[Entry, ...]) -> Iterator[tuple[tuple[str, ...], Entry]]:
    for entry in menu:
        path = (*above, entry.key)
        yield path, entry
        yield from _walk(path, entry.children)


def _properties(entry: Entry) -> Properties:
    if entry.kind is Kind.SEPARATOR:
        return {"type": "separator", "visible": entry.visible}
    properties: Properties = {
        "label": entry.label.replace("_", "__"),  # a single one marks the access key
        "enabled": entry.enabled,
        "visible": entry.visible,
    }
    if entry.kind in (Kind.CHECK, Kind.RADIO):
        properties["toggle-type"] = "checkmark" if entry.kind is Kind.CHECK else "radio"
        properties["toggle-state"] = int(entry.checked)
    if entry.children:
        properties["children-display"] = "submenu"
    return properties
