"""org.kde.StatusNotifierItem: the icon on the session bus, for every panel that has a StatusNotifierWatcher.

Neither GTK nor X is needed, so it works under Wayland and from any virtual environment.

Annotations are D-Bus types, which dbus-fast reads: they must not be put off to strings.
"""

import html
from collections.abc import Callable
from typing import Annotated, Any

from dbus_fast import PropertyAccess
from dbus_fast.annotations import DBusBool, DBusInt32, DBusObjectPath, DBusSignature, DBusStr, DBusUInt32
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

from peerllm_tray import dbus_menu
from peerllm_tray.icons import SIZES, argb
from peerllm_tray.state import NAME, Picture, TrayState

PATH = "/StatusNotifierItem"

Pixmaps = Annotated[list[list[Any]], DBusSignature("a(iiay)")]
Tip = Annotated[list[Any], DBusSignature("(sa(iiay)ss)")]


class StatusNotifierItem(ServiceInterface):
    """Shows a `TrayState`; `clicked` is called when the icon itself is."""

    def __init__(self, state: TrayState, clicked: Callable[[], None]) -> None:
        super().__init__("org.kde.StatusNotifierItem")
        self._state = state
        self._clicked = clicked

    def show(self, state: TrayState) -> None:
        before, self._state = self._state, state
        if state.picture != before.picture:
            self.NewIcon()
            self.NewStatus(self._status())
        if state != before:
            self.NewToolTip()

    def _status(self) -> str:
        return "NeedsAttention" if self._state.picture is Picture.TROUBLE else "Active"

    def _pixmaps(self) -> list[list[Any]]:
        return [[size, size, argb(self._state.picture, size)] for size in SIZES]

    @dbus_method()
    def Activate(self, x: DBusInt32, y: DBusInt32) -> None:
        self._clicked()

    @dbus_method()
    def SecondaryActivate(self, x: DBusInt32, y: DBusInt32) -> None:
        pass

    @dbus_method()
    def ContextMenu(self, x: DBusInt32, y: DBusInt32) -> None:
        """The host shows the menu that `Menu` names."""

    @dbus_method()
    def Scroll(self, delta: DBusInt32, orientation: DBusStr) -> None:
        pass

    @dbus_signal()
    def NewIcon(self) -> None: ...

    @dbus_signal()
    def NewToolTip(self) -> None: ...

    @dbus_signal()
    def NewStatus(self, status: str) -> DBusStr:
        return status

    @dbus_property(access=PropertyAccess.READ)
    def Category(self) -> DBusStr:
        return "ApplicationStatus"

    @dbus_property(access=PropertyAccess.READ)
    def Id(self) -> DBusStr:
        return NAME

    @dbus_property(access=PropertyAccess.READ)
    def Title(self) -> DBusStr:
        return NAME

    @dbus_property(access=PropertyAccess.READ)
    def Status(self) -> DBusStr:
        return self._status()

    @dbus_property(access=PropertyAccess.READ)
    def WindowId(self) -> DBusUInt32:
        return 0

    @dbus_property(access=PropertyAccess.READ)
    def IconName(self) -> DBusStr:
        return ""

    @dbus_property(access=PropertyAccess.READ)
    def IconPixmap(self) -> Pixmaps:
        return self._pixmaps()

    @dbus_property(access=PropertyAccess.READ)
    def AttentionIconName(self) -> DBusStr:
        return ""

    @dbus_property(access=PropertyAccess.READ)
    def AttentionIconPixmap(self) -> Pixmaps:
        return self._pixmaps()

    @dbus_property(access=PropertyAccess.READ)
    def OverlayIconName(self) -> DBusStr:
        return ""

    @dbus_property(access=PropertyAccess.READ)
    def OverlayIconPixmap(self) -> Pixmaps:
        return []

    @dbus_property(access=PropertyAccess.READ)
    def ToolTip(self) -> Tip:
        """Hosts read markup in it."""
        return ["", [], f"{NAME}: {html.escape(self._state.headline)}", html.escape(self._state.why)]

    @dbus_property(access=PropertyAccess.READ)
    def ItemIsMenu(self) -> DBusBool:
        return False

    @dbus_property(access=PropertyAccess.READ)
    def Menu(self) -> DBusObjectPath:
        return dbus_menu.PATH
