"""The icon in the tray: what this machine lends, switched on, off or paused by a click. A client of the local API."""
