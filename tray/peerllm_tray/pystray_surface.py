"""The tray as an icon of pystray: on X trays, Windows and macOS."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from peerllm.errors import NoTerminal
from peerllm_tray.actions import Action
from peerllm_tray.backend import Backend
from peerllm_tray.icons import icon
from peerllm_tray.menu import Face, Menu
from peerllm_tray.menu_entry import Entry, Kind
from peerllm_tray.state import NAME
from peerllm_tray.surface import Notice

if TYPE_CHECKING:
    from pystray import MenuItem

_LOG = logging.getLogger(__name__)

_PIXELS = 64
_TOOLTIP_CHARS = 127
"""What Windows shows of one; it refuses more."""


class PystraySurface:
    """Menus are built anew only when something in them that is no line to read has changed: on some hosts an update
    closes the open menu.
    """

    def __init__(
        self, backend: Backend, face: Face, chosen: Callable[[Action], None], shown: Callable[[], None]
    ) -> None:
        """Raises `NoTerminal` if pystray cannot show an icon here, although something looked as if it could."""
        self._backend = backend
        self._pystray, icon_class = _load(backend)
        self._chosen = chosen
        self._face = face
        self._lock = threading.Lock()
        self._visible = threading.Event()
        self._shown = shown
        self._icon = icon_class(NAME, icon(face.state.picture, _PIXELS), _title(face), self._menu_of(face))

    @property
    def has_menu(self) -> bool:
        return bool(self._icon.HAS_MENU)

    def run(self) -> None:
        """Raises `NoTerminal`."""
        try:
            self._icon.run(setup=self._appear)
        except Exception as error:  # GLib's, Xlib's or Windows' own, by backend
            raise NoTerminal(f"the tray icon {self._backend} cannot be shown here: {error}") from error

    def show(self, face: Face) -> None:
        with self._lock:
            before, self._face = self._face, face
            if self._visible.is_set():
                self._update(before, face)

    def notify(self, notice: Notice) -> None:
        if self._icon.HAS_NOTIFICATION and self._visible.is_set():
            with _logged("notification"):
                self._icon.notify(notice.text, notice.title)

    def close(self) -> None:
        self._visible.wait(timeout=5)  # one that has not begun to run cannot be stopped
        self._icon.stop()

    def _appear(self, _: Any) -> None:
        """Called on a thread of its own once the icon can be shown."""
        self._icon.visible = True
        with self._lock:
            self._visible.set()
            self._icon.icon = icon(self._face.state.picture, _PIXELS)
            self._icon.title = _title(self._face)
            self._icon.menu = self._menu_of(self._face)
        self._shown()

    def _update(self, before: Face, face: Face) -> None:
        with _logged("update"):
            if face.state.picture is not before.state.picture:
                self._icon.icon = icon(face.state.picture, _PIXELS)
            if face.state.tooltip != before.state.tooltip:
                self._icon.title = _title(face)
            if _choices(face.menu) != _choices(before.menu):
                self._icon.menu = self._menu_of(face)

    def _menu_of(self, face: Face) -> Any:
        return self._pystray.Menu(self._default(), *map(self._item, face.menu))

    def _default(self) -> MenuItem:
        """What a click on the icon does, where the system tells of clicks; not to be seen in the menu."""
        return self._pystray.MenuItem(NAME, self._clicked, default=True, visible=False)

    def _clicked(self) -> None:
        if self._face.click is not None:
            self._chosen(self._face.click)

    def _item(self, entry: Entry) -> Any:
        if entry.kind is Kind.SEPARATOR:
            return self._separator(entry)
        action: Any = self._pystray.Menu(*map(self._item, entry.children)) if entry.children else self._deed(entry)
        return self._pystray.MenuItem(
            entry.label,
            action,
            checked=None if entry.kind is Kind.ITEM else lambda _: entry.checked,
            radio=entry.kind is Kind.RADIO,
            enabled=entry.enabled,
            visible=entry.visible,
        )

    def _separator(self, entry: Entry) -> Any:
        return self._pystray.Menu.SEPARATOR if entry.visible else self._pystray.MenuItem("", None, visible=False)

    def _deed(self, entry: Entry) -> Callable[[], None]:
        def choose() -> None:
            if entry.action is not None:
                self._chosen(entry.action)

        return choose


def _load(backend: Backend) -> tuple[Any, Any]:
    """pystray and the class of that icon. What pystray would choose by itself can fail or show nothing (desktops
    without a tray), so its own choice is never asked for.
    """
    os.environ["PYSTRAY_BACKEND"] = backend
    if backend == "gtk":
        os.environ["GDK_BACKEND"] = "x11"  # only there are trays of this kind
    try:
        pystray = importlib.import_module("pystray")
        icon_class = importlib.import_module(f"pystray._{backend}").Icon
    except Exception as error:  # ImportError, ValueError of gi or an error of Xlib, by what is missing
        raise NoTerminal(f"the tray icon {backend} cannot be shown here: {error}") from error
    return pystray, _mended(icon_class) if backend == "xorg" else icon_class


def _mended(icon_class: Any) -> Any:
    """pystray's icon on X does not ask for the clicks that it then waits for (pystray issue 151), draws what should
    shine through in full colour, and is never seen again when its tray has ended.
    """
    from PIL import Image
    from Xlib import X

    class MendedIcon(icon_class):  # type: ignore[misc]
        def _create_window(self) -> Any:
            window = super()._create_window()
            window.change_attributes(event_mask=X.ExposureMask | X.StructureNotifyMask | X.ButtonPressMask)
            return window

        def _on_destroy_notify(self, event: Any) -> None:
            if self._systray_manager is not None and event.window.id == self._systray_manager.id:
                self._stop()  # its owner shows it anew where there is a tray; pystray would wait for none

        def _assert_icon_data(self, width: int, height: int) -> None:
            if self._icon_data is None or self._icon_data.size != (width, height):
                drawn = self._icon.resize((width, height), Image.Resampling.LANCZOS)
                self._icon_data = Image.new("RGB", (width, height))
                self._icon_data.paste(drawn, mask=drawn)

    return MendedIcon


def _choices(menu: Menu) -> list[Any]:
    """What of a menu makes a difference to who chooses: all but the lines to read."""
    return [
        (entry.key, entry.label, entry.checked, entry.visible, _choices(entry.children))
        for entry in menu
        if entry.enabled
    ]


def _title(face: Face) -> str:
    """X names windows in Latin-1; what is no letter of that is replaced everywhere, for it is never needed."""
    return (
        f"{NAME}: {face.state.tooltip}"[:_TOOLTIP_CHARS]
        .replace("…", "...")
        .encode("latin-1", "replace")
        .decode("latin-1")
    )


@contextlib.contextmanager
def _logged(what: str):
    """pystray talks to the system in many ways; an icon that fails to change is no reason to end."""
    try:
        yield
    except Exception:
        _LOG.warning("the icon's %s failed", what, exc_info=True)
