"""Where peerllm keeps its files on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

_APP = "peerllm"


@dataclass(frozen=True)
class Locations:
    """The four folders of one daemon and the files of fixed name in them.

    `PEERLLM_HOME` puts all four under one folder: several daemons on one machine, tests.
    """

    config_dir: Path
    state_dir: Path  # mode 0700: keys and tokens
    cache_dir: Path
    log_dir: Path

    @classmethod
    def of(cls, env: Mapping[str, str] = os.environ) -> Locations:
        """The folders that this environment asks for, else the platform's own; nothing is created."""
        home = env.get("PEERLLM_HOME")
        if home:
            root = Path(home).expanduser().absolute()
            return cls(root, root / "state", root / "cache", root / "logs")
        dirs = platformdirs.PlatformDirs(_APP, appauthor=False)
        return cls(dirs.user_config_path, dirs.user_state_path, dirs.user_cache_path, dirs.user_log_path)

    @property
    def config_file(self) -> Path:
        return self.config_dir / "config.toml"

    @property
    def identity_file(self) -> Path:
        return self.state_dir / "identity.key"

    @property
    def token_file(self) -> Path:
        return self.state_dir / "control.token"

    @property
    def daemon_file(self) -> Path:
        return self.state_dir / "daemon.json"

    @property
    def page_file(self) -> Path:
        """Leads a browser to the page with a code, which on a command line every user here could read."""
        return self.state_dir / "page.html"

    @property
    def lock_file(self) -> Path:
        return self.state_dir / "daemon.lock"

    @property
    def tray_lock_file(self) -> Path:
        return self.state_dir / "tray.lock"

    @property
    def first_share_file(self) -> Path:
        """There once the tray has told of the first share."""
        return self.state_dir / "first-share"

    @property
    def findings_file(self) -> Path:
        """What spot checks have found against peers."""
        return self.state_dir / "findings.json"

    @property
    def choices_file(self) -> Path:
        """What the owner chose in tray, TUI and command line."""
        return self.state_dir / "choices.json"

    @property
    def ledger_file(self) -> Path:
        """What this machine gave and used, and the receipts for it."""
        return self.state_dir / "ledger.sqlite"

    @property
    def responses_dir(self) -> Path:
        """What `/v1/responses` was asked to store."""
        return self.state_dir / "responses"

    @property
    def conversations_file(self) -> Path:
        """What `peerllm chat` keeps."""
        return self.state_dir / "conversations.sqlite"

    @property
    def asked_file(self) -> Path:
        """There once the screens have asked their owner whether to lend this machine, whatever the answer was."""
        return self.state_dir / "consent.asked"

    @property
    def models_dir(self) -> Path:
        return self.cache_dir / "models"

    @property
    def log_file(self) -> Path:
        return self.log_dir / "daemon.log"

    @property
    def output_file(self) -> Path:
        """What a detached daemon writes to stdout and stderr, when even logging fails."""
        return self.log_dir / "daemon.out"

    def create(self) -> None:
        """Make the folders; the state folder is readable by its owner alone."""
        for folder in (self.config_dir, self.cache_dir, self.log_dir, self.state_dir):
            folder.mkdir(parents=True, exist_ok=True)
        self.state_dir.chmod(0o700)
