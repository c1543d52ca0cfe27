"""com.canonical.dbusmenu: the menu on the session bus, where the panel shows it.

Annotations are D-Bus types, which dbus-fast reads: they must not be put off to strings.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

from dbus_fast import DBusError, PropertyAccess, Variant
from dbus_fast.annotations import DBusBool, DBusInt32, DBusSignature, DBusStr, DBusUInt32, DBusVariant
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

from peerllm_tray.actions import Action
from peerllm_tray.menu_layout import ROOT, MenuLayout, Properties

PATH = "/MenuBar"

_UNKNOWN_ITEM = "com.canonical.dbusmenu.Error.UnknownId"
_OPEN_AT_MOST_S = 60.0
"""Not every host tells that its menu was closed."""

_SIGNATURES = {str: "s", bool: "b", int: "i"}

Ids = Annotated[list[int], DBusSignature("ai")]
Names = Annotated[list[str], DBusSignature("as")]
Node = list[Any]  # number, properties, children as variants
LayoutReply = Annotated[tuple[int, Node], DBusSignature("u(ia{sv}av)")]
GroupProperties = Annotated[list[Node], DBusSignature("a(ia{sv})")]
Events = Annotated[list[tuple[int, str, Variant, int]], DBusSignature("a(isvu)")]
UpdatedAndUnknown = Annotated[tuple[list[int], list[int]], DBusSignature("aiai")]
PropertiesChange = Annotated[list[Any], DBusSignature("a(ia{sv})a(ias)")]
LayoutChange = Annotated[list[int], DBusSignature("ui")]


class DbusMenu(ServiceInterface):
    """Shows a `MenuLayout`; `chosen` is called with what an entry asks for.

    New labels and marks reach an open menu as they come; a new shape would close it, so it waits until it is closed.
    """

    def __init__(self, chosen: Callable[[Action], None]) -> None:
        super().__init__("com.canonical.dbusmenu")
        self._chosen = chosen
        self._shown = self._wanted = MenuLayout()
        self._revision = 1
        self._open_since: float | None = None

    def show(self, layout: MenuLayout) -> None:
        """Bring the host's menu up to date, an open one as far as that does not close it."""
        self._wanted = layout
        if layout.shape != self._shown.shape and not self._is_open():
            self._reshape()
            return
        now = layout.in_shape_of(self._shown)
        changed = now.changed_since(self._shown)
        self._shown = now
        if changed:
            self._tell(changed)

    def _tell(self, changed: dict[int, Properties]) -> None:
        self.ItemsPropertiesUpdated([[number, _variants(each)] for number, each in changed.items()], [])

    def _reshape(self) -> bool:
        """Take up a new shape, if one waits."""
        if self._wanted.shape == self._shown.shape:
            return False
        self._shown = self._wanted
        self._revision += 1
        self.LayoutUpdated(self._revision, ROOT)
        return True

    def _is_open(self) -> bool:
        return self._open_since is not None and time.monotonic() - self._open_since < _OPEN_AT_MOST_S

    @dbus_method()
    def GetLayout(self, parent: DBusInt32, depth: DBusInt32, names: Names) -> LayoutReply:
        if parent not in self._shown.shape:
            raise DBusError(_UNKNOWN_ITEM, f"no menu entry {parent}")
        return self._revision, self._node(parent, depth, names)

    @dbus_method()
    def GetGroupProperties(self, numbers: Ids, names: Names) -> GroupProperties:
        known = self._shown.properties
        return [[number, _variants(known[number], names)] for number in numbers or known if number in known]

    @dbus_method()
    def GetProperty(self, number: DBusInt32, name: DBusStr) -> DBusVariant:
        value = self._shown.properties.get(number, {}).get(name)
        if value is None:
            raise DBusError(_UNKNOWN_ITEM, f"menu entry {number} has no {name[:40]}")
        return _variant(value)

    @dbus_method()
    def Event(self, number: DBusInt32, kind: DBusStr, data: DBusVariant, at: DBusUInt32) -> None:
        self._event(number, kind)

    @dbus_method()
    def EventGroup(self, events: Events) -> Ids:
        for number, kind, *_ in events:
            self._event(number, kind)
        return [number for number, *_ in events if number not in self._shown.shape]

    @dbus_method()
    def AboutToShow(self, number: DBusInt32) -> DBusBool:
        return self._opening()

    @dbus_method()
    def AboutToShowGroup(self, numbers: Ids) -> UpdatedAndUnknown:
        updated = [ROOT] if self._opening() else []
        return updated, [number for number in numbers if number not in self._shown.shape]

    @dbus_signal()
    def ItemsPropertiesUpdated(self, updated: list[Node], removed: list[Node]) -> PropertiesChange:
        return [updated, removed]

    @dbus_signal()
    def LayoutUpdated(self, revision: int, parent: int) -> LayoutChange:
        return [revision, parent]

    @dbus_property(access=PropertyAccess.READ)
    def Version(self) -> DBusUInt32:
        return 3

    @dbus_property(access=PropertyAccess.READ)
    def TextDirection(self) -> DBusStr:
        return "ltr"

    @dbus_property(access=PropertyAccess.READ)
    def Status(self) -> DBusStr:
        return "normal"

    @dbus_property(access=PropertyAccess.READ)
    def IconThemePath(self) -> Names:
        return []

    def _event(self, number: int, kind: str) -> None:
        if number == ROOT and kind == "opened":
            self._open_since = time.monotonic()
        elif number == ROOT and kind == "closed":
            self._closed()
        elif kind == "clicked" and number in self._shown.actions:
            # hosts turn a mark by themselves; what holds is said by the daemon
            self._tell({number: self._shown.properties[number]})
            self._chosen(self._shown.actions[number])
            self._closed()

    def _opening(self) -> bool:
        """Whether the host has to read the menu anew before it shows it. Xfce tells of no more than this."""
        changed = self._reshape()
        self._open_since = time.monotonic()
        return changed

    def _closed(self) -> None:
        self._open_since = None
        self._reshape()

    def _node(self, number: int, depth: int, names: Sequence[str]) -> Node:
        children = self._shown.shape[number] if depth else ()
        below = [Variant("(ia{sv}av)", self._node(child, depth - 1, names)) for child in children]
        return [number, _variants(self._shown.properties[number], names), below]


def _variants(properties: Properties, names: Iterable[str] = ()) -> dict[str, Variant]:
    wanted = set(names)
    return {name: _variant(value) for name, value in properties.items() if not wanted or name in wanted}


def _variant(value: str | bool | int) -> Variant:
    return Variant(_SIGNATURES[type(value)], value)
