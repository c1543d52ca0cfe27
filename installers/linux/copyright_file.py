"""``python installers/linux/copyright_file.py FOLDER``: Debian's copyright file, with what is bundled there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

_HEAD = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: peerllm
Comment: The libraries below are bundled as their authors published them on PyPI; each one's licence is in its
 .dist-info folder under /usr/lib/peerllm. They are separate modules that may be replaced by other versions.

Files: *
Copyright: 2026 the peerllm authors
License: Apache-2.0
 On Debian systems, the full text of the Apache License version 2.0 is in /usr/share/common-licenses/Apache-2.0.
"""


def copyright_file(folder: Path) -> str:
    """One paragraph for this program, and one for every bundled library."""
    bundled = sorted(distributions(path=[str(folder)]), key=lambda item: item.name.lower())
    return "\n".join([_HEAD, *(_paragraph(item) for item in bundled if item.name != "peerllm")])


def _paragraph(item: Distribution) -> str:
    files = "\n ".join(f"usr/lib/peerllm/{name}" for name in _top_names(item))
    authors = item.metadata["Author"] or item.metadata["Author-email"] or f"the authors of {item.name}"
    short = (_licence(item).split() or ["unknown"])[0].strip("()")
    licence = f"{short}-of-{item.name}\n {item.name} {item.version}: {_licence(item)}"
    return f"Files: {files}\nCopyright: {authors}\nLicense: {licence}\n"


def _top_names(item: Distribution) -> list[str]:
    tops = {Path(str(file)).parts[0] for file in item.files or () if ".." not in Path(str(file)).parts}
    return [f"{name}/*" if "." not in name or name.endswith(".dist-info") else name for name in sorted(tops - {"bin"})]


def _licence(item: Distribution) -> str:
    """As the library says it itself: an SPDX expression, a line, or the classifiers of PyPI."""
    said = item.metadata["License-Expression"] or item.metadata["License"] or ""
    if said and "\n" not in said and len(said) < 100:
        return said
    return ", ".join(_classified(item)) or "see its licence file"


def _classified(item: Distribution) -> Iterator[str]:
    for classifier in item.metadata.get_all("Classifier") or ():
        if classifier.startswith("License ::"):
            yield classifier.rpartition(" :: ")[2]


if __name__ == "__main__":
    print(copyright_file(Path(sys.argv[1])), end="")
