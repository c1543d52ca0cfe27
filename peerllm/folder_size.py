"""How far a download is that another program makes."""

from __future__ import annotations

import os
from pathlib import Path


def largest_file_bytes(folder: Path) -> int:
    """Size of the largest file in it: while pip fetches, the one that is being fetched."""
    largest = 0
    for inside, _, files in os.walk(folder):
        for file in files:
            try:
                largest = max(largest, os.stat(os.path.join(inside, file)).st_size)
            except FileNotFoundError:
                continue  # moved by pip meanwhile
    return largest
