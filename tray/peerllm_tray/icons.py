"""The pictures of the icon, drawn: outline, sign and colour all differ from state to state.

The colours are of middle brightness, so that they read on dark and on light panels. Three bars, the blocks of a
model, are the sign of peerllm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from peerllm_tray.state import Picture

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SIZES = (16, 22, 24, 32, 48)

_FINE = 8
"""Drawn so many times larger: Pillow's shapes have no smooth edges of their own."""

COLOURS = {
    Picture.OFF: (139, 146, 156),
    Picture.PREPARING: (38, 162, 94),
    Picture.SHARING: (38, 162, 94),
    Picture.BUSY: (245, 166, 35),
    Picture.ANSWERING: (45, 120, 235),
    Picture.TROUBLE: (220, 50, 47),
}
_WHITE, _BLACK = (255, 255, 255), (56, 36, 0)
_RING = 0.11
"""Width of an outline, in parts of the icon."""

Colour = tuple[int, int, int]


@cache
def icon(picture: Picture, size: int) -> Image:
    """The picture as RGBA, `size` pixels square."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGBA", (size * _FINE, size * _FINE), (0, 0, 0, 0))
    _PAINTERS[picture](_Pen(ImageDraw.Draw(canvas), size * _FINE), COLOURS[picture])
    return canvas.resize((size, size), Image.Resampling.LANCZOS)


@cache
def argb(picture: Picture, size: int) -> bytes:
    """Its pixels in network byte order, as StatusNotifierItem takes them."""
    from PIL import Image

    red, green, blue, alpha = icon(picture, size).split()
    return Image.merge("RGBA", (alpha, red, green, blue)).tobytes()


@dataclass(frozen=True)
class _Pen:
    """Draws in parts of the icon: 0 is left and top, 1 is right and bottom."""

    draw: ImageDraw
    pixels: int

    def disc(self, colour: Colour) -> None:
        self.draw.ellipse(self._box(0.02, 0.02, 0.98, 0.98), fill=colour)

    def ring(self, colour: Colour) -> None:
        self.draw.ellipse(self._box(0.03, 0.03, 0.97, 0.97), outline=colour, width=round(_RING * self.pixels))

    def bar(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        box = self._box(left, top, right, bottom)
        self.draw.rounded_rectangle(box, radius=min(box[2] - box[0], box[3] - box[1]) / 3, fill=colour)

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.draw.ellipse(self._box(x - radius, y - radius, x + radius, y + radius), fill=colour)

    def shape(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon([(x * self.pixels, y * self.pixels) for x, y in points], fill=colour)

    def _box(self, left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        return left * self.pixels, top * self.pixels, right * self.pixels, bottom * self.pixels


def _off(pen: _Pen, colour: Colour) -> None:
    pen.ring(colour)
    _blocks(pen, colour)


def _preparing(pen: _Pen, colour: Colour) -> None:
    pen.ring(colour)
    for x in (0.29, 0.5, 0.71):
        pen.dot(x, 0.5, 0.075, colour)


def _sharing(pen: _Pen, colour: Colour) -> None:
    pen.disc(colour)
    _blocks(pen, _WHITE)


def _busy(pen: _Pen, colour: Colour) -> None:
    pen.disc(colour)
    for left in (0.30, 0.56):
        pen.bar(left, 0.26, left + 0.14, 0.74, _BLACK)


def _answering(pen: _Pen, colour: Colour) -> None:
    """One arrow up, one down."""
    pen.disc(colour)
    pen.bar(0.29, 0.36, 0.39, 0.74, _WHITE)
    pen.shape([(0.34, 0.19), (0.19, 0.43), (0.49, 0.43)], _WHITE)
    pen.bar(0.61, 0.26, 0.71, 0.64, _WHITE)
    pen.shape([(0.66, 0.81), (0.51, 0.57), (0.81, 0.57)], _WHITE)


def _trouble(pen: _Pen, colour: Colour) -> None:
    """A triangle with round corners: lines between discs, filled."""
    corners = [(0.5, 0.11), (0.09, 0.87), (0.91, 0.87)]
    for x, y in corners:
        pen.dot(x, y, 0.09, colour)
    pen.shape([(0.42, 0.07), (0.58, 0.07), (0.99, 0.83), (0.91, 0.96), (0.09, 0.96), (0.01, 0.83)], colour)
    pen.bar(0.44, 0.32, 0.56, 0.64, _WHITE)
    pen.dot(0.5, 0.78, 0.075, _WHITE)


def _blocks(pen: _Pen, colour: Colour) -> None:
    for left, top in ((0.30, 0.27), (0.22, 0.44), (0.30, 0.61)):
        pen.bar(left, top, 1 - left, top + 0.12, colour)


_PAINTERS: dict[Picture, Callable[[_Pen, Colour], None]] = {
    Picture.OFF: _off,
    Picture.PREPARING: _preparing,
    Picture.SHARING: _sharing,
    Picture.BUSY: _busy,
    Picture.ANSWERING: _answering,
    Picture.TROUBLE: _trouble,
}
