"""The end of a log, read without reading the rest."""

from __future__ import annotations

from pathlib import Path

_MOST_BYTES = 1 << 20


def last_lines(path: Path, count: int, most_bytes: int = _MOST_BYTES) -> list[str]:
    """Up to `count` whole lines from the last `most_bytes`; none if there is no such file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            begin = max(0, size - most_bytes)
            file.seek(begin)
            lines = file.read(most_bytes).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    return (lines[1:] if begin else lines)[-count:]  # the first of a part is itself a part
