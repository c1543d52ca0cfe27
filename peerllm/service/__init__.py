"""The daemon as a service of this user's session: systemd, launchd or the task scheduler start it at login."""
