"""``python installers/icon.py FOLDER``: the icon, three connected blocks, as SVG, as PNGs of usual sizes and as ICO."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw

SIZES = (16, 22, 24, 32, 48, 64, 128, 256)
_GRID = 64
_BLOCKS = (((6, 6), "#2e9e5b"), ((36, 21), "#2f6fbf"), ((6, 36), "#2e9e5b"))
_BLOCK_SIZE = 22
_CORNER = 5
_LINK = "#5b6770"
_LINK_WIDTH = 5
_SMOOTHING = 8


def svg() -> str:
    """The drawing as a file for people and desktops."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_GRID} {_GRID}" width="{_GRID}" height="{_GRID}">',
        f'  <g stroke="{_LINK}" stroke-width="{_LINK_WIDTH}" stroke-linecap="round">',
        *(f'    <path d="M{x1} {y1}L{x2} {y2}"/>' for (x1, y1), (x2, y2) in _links()),
        "  </g>",
        *(
            f'  <rect x="{x}" y="{y}" width="{_BLOCK_SIZE}" height="{_BLOCK_SIZE}" rx="{_CORNER}" fill="{colour}"/>'
            for (x, y), colour in _BLOCKS
        ),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def picture(size: int) -> Image.Image:
    """The same drawing, `size` pixels wide and high."""
    scale = size * _SMOOTHING / _GRID
    large = Image.new("RGBA", (size * _SMOOTHING, size * _SMOOTHING))
    draw = ImageDraw.Draw(large)
    for link in _links():
        draw.line([(x * scale, y * scale) for x, y in link], fill=_LINK, width=round(_LINK_WIDTH * scale))
    for (x, y), colour in _BLOCKS:
        box = [edge * scale for edge in (x, y, x + _BLOCK_SIZE, y + _BLOCK_SIZE)]
        draw.rounded_rectangle(box, radius=_CORNER * scale, fill=colour)
    return large.resize((size, size), Image.Resampling.LANCZOS)


def write(folder: Path) -> None:
    """`peerllm.svg`, `peerllm-SIZE.png` and `peerllm.ico`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peerllm.svg").write_text(svg(), encoding="utf-8")
    for size in SIZES:
        picture(size).save(folder / f"peerllm-{size}.png", optimize=True)
    picture(256).save(folder / "peerllm.ico", sizes=[(size, size) for size in (16, 32, 48, 256)])


def _links() -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """From the middle of each block to the middle of the next."""
    half = _BLOCK_SIZE // 2
    middles = [(x + half, y + half) for (x, y), _ in _BLOCKS]
    return list(pairwise(middles))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
