"""Files that are cut out of a model: written once, kept beside it, and checked before a process first uses them."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peerllm.atomic_write import draft_of, write_atomically
from peerllm.errors import PullFailed
from peerllm.model.digests import file_sha256
from peerllm.model.file_lock import locked
from peerllm.model.progress import Meter

if TYPE_CHECKING:
    from peerllm.model.progress import Progress

log = logging.getLogger(__name__)

_checked: dict[Path, tuple[int, int]] = {}  # size and time of files that this process has written or hashed


def cached(
    path: Path, write: Callable[[Path, Callable[[int], None]], str], what: str, size: int, progress: Progress | None
) -> Path:
    """`path` as it was once written, or written anew; of several processes one writes and the others wait.

    Args:
        write: writes the file, tells how many bytes it has written, returns its sha256.
        what, size: for the progress.
    """
    if _intact(path, progress):
        return path
    with locked(path.with_name(f"{path.name}.lock"), what, progress):
        if not _intact(path, progress):
            meter = Meter(what, size, progress, fetching=False)
            with _disk_errors(path), draft_of(path, durable=True, alone=True) as draft:
                digest = write(draft, meter.add)
            _checked[path] = _state(path)
            write_atomically(_sidecar(path), json.dumps({"sha256": digest}).encode(), alone=True)
    return path


def discard(path: Path) -> None:
    """Have the file written anew when it is needed next; who has it open keeps reading."""
    _sidecar(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PullFailed(f"no space left for {path}; free some or set a cache elsewhere") from error
        raise


def _intact(path: Path, progress: Progress | None) -> bool:
    """Is the file what was written? Its digest is computed once per process, and again when the file was touched."""
    try:
        noted = json.loads(_sidecar(path).read_bytes())["sha256"]
        state = _state(path)
        if _checked.get(path) == state:
            return True
        found = file_sha256(path, progress)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("cut again path=%s reason=%s", path, error)
        return False
    if found != noted:
        log.warning("cut again path=%s reason=it is not what was written", path)
        return False
    _checked[path] = state
    return True


def _state(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256.json")
