"""Ten kinds of drawn pictures with the competition's class names; their place, scale, colours and noise are random."""

from collections.abc import Callable

import cv2
import numpy as np

from pipeline.task import CLASS_NAMES, Image

Rng = np.random.Generator
Color = tuple[int, int, int]
Point = tuple[float, float]

SIZE = 32
FINE = 4  # pictures are drawn four times as large and then shrunk, for soft edges


def draw_image(kind: int, rng: Rng) -> Image:
    """Draw one picture of a class, uint8 [32, 32, 3] in RGB."""
    sheet = _Sheet(rng)
    _DRAWERS[CLASS_NAMES[kind]](sheet, rng)
    return sheet.finish()


def draw_distractor(rng: Rng) -> Image:
    """Draw pieces of two classes over each other: an image of no class."""
    one, other = (draw_image(int(kind), rng) for kind in rng.integers(len(CLASS_NAMES), size=2))
    out = np.rot90(one, int(rng.integers(4))).copy()
    x, y = rng.integers(4, 16, size=2)
    out[y : y + 14, x : x + 14] = other[::-1][8:22, 8:22]
    return out


class _Sheet:
    """A picture in the making; places run from 0 to 1, and what is drawn is placed, scaled and turned as a whole."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self.pixels = np.zeros((SIZE * FINE, SIZE * FINE, 3), np.uint8)
        self._scale = float(rng.uniform(0.62, 1.0))
        self._shift = rng.uniform(-0.15, 0.15, size=2)
        self._angle = float(rng.normal(0, 0.12))
        self._flip = -1 if rng.random() < 0.5 else 1

    def backdrop(self, top: Color, bottom: Color, horizon: float = 0.5) -> None:
        """Fill with two colours that meet at a horizon, and soft blots in both."""
        rng, height = self._rng, len(self.pixels)
        line = int(height * (horizon + rng.normal(0, 0.06)))
        self.pixels[:line], self.pixels[line:] = _vary(rng, top, 40), _vary(rng, bottom, 40)
        for _ in range(rng.integers(2, 6)):
            centre = [int(v) for v in rng.integers(0, height, size=2)]
            near = self.pixels[centre[1], centre[0]].tolist()
            axes = [int(v) for v in rng.integers(8, 40, size=2)]
            cv2.ellipse(self.pixels, centre, axes, 0, 0, 360, _vary(rng, near, 25), -1)
        self.pixels = cv2.GaussianBlur(self.pixels, (0, 0), 4)

    def polygon(self, color: Color, *points: Point) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.pixels, [np.array([self._place(p) for p in points])], color)

    def ellipse(self, color: Color, centre: Point, width: float, height: float, angle: float = 0.0) -> None:
        """Fill an ellipse of half axes `width` and `height`, turned by degrees."""
        axes = [max(1, int(v * self._scale * SIZE * FINE)) for v in (width, height)]
        turn = self._flip * (angle + np.degrees(self._angle))
        cv2.ellipse(self.pixels, self._place(centre), axes, float(turn), 0, 360, color, -1)

    def line(self, color: Color, start: Point, end: Point, width: float = 0.03) -> None:
        """Draw a line."""
        thickness = max(1, int(width * self._scale * SIZE * FINE))
        cv2.line(self.pixels, self._place(start), self._place(end), color, thickness)

    def finish(self) -> Image:
        """Cover a part, shrink, change the light, and add noise."""
        rng = self._rng
        if rng.random() < 0.5:
            x, y = rng.integers(0, SIZE * FINE, size=2)
            side = int(rng.integers(16, 44))
            self.pixels[y : y + side, x : x + side] = rng.integers(0, 255, size=3)
        small = cv2.resize(self.pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
        small = (small - 128) * rng.uniform(0.45, 1.1) + 128 + rng.normal(0, 22)
        small += rng.normal(0, 14, size=3) + rng.normal(0, rng.uniform(4, 20), size=small.shape)
        return np.clip(small, 0, 255).astype(np.uint8)

    def _place(self, point: Point) -> tuple[int, int]:
        x, y = (point[0] - 0.5) * self._flip, point[1] - 0.5
        cos, sin = np.cos(self._angle), np.sin(self._angle)
        turned = np.array([x * cos - y * sin, x * sin + y * cos]) * self._scale + 0.5 + self._shift
        return int(turned[0] * SIZE * FINE), int(turned[1] * SIZE * FINE)


def _vary(rng: Rng, color: Color | list[int], spread: float) -> Color:
    values = np.clip(np.array(color) + rng.normal(0, spread, size=3), 0, 255)
    return int(values[0]), int(values[1]), int(values[2])


def _paint(rng: Rng) -> Color:
    """Any colour that a made thing may have."""
    return _vary(rng, [128, 128, 128], 70)


def _fur(rng: Rng) -> Color:
    browns = ([110, 75, 45], [170, 130, 85], [60, 50, 45], [200, 190, 180], [130, 100, 80])
    return _vary(rng, browns[rng.integers(len(browns))], 18)


def _darker(color: Color, factor: float = 0.55) -> Color:
    return int(color[0] * factor), int(color[1] * factor), int(color[2] * factor)


def _sky(sheet: _Sheet) -> None:
    sheet.backdrop((120, 170, 225), (170, 195, 220), 0.6)


def _meadow(sheet: _Sheet) -> None:
    sheet.backdrop((150, 175, 160), (90, 130, 60), 0.5)


def _room(sheet: _Sheet, rng: Rng) -> None:
    sheet.backdrop(_vary(rng, [150, 130, 120], 40), _vary(rng, [120, 100, 90], 40), 0.7)


def _airplane(sheet: _Sheet, rng: Rng) -> None:
    _sky(sheet)
    body = _paint(rng)
    sheet.polygon(_darker(body, 0.8), (0.45, 0.48), (0.62, 0.48), (0.42, 0.16 + rng.normal(0, 0.04)))
    sheet.ellipse(body, (0.5, 0.5), 0.42, 0.065)
    sheet.polygon(_darker(body, 0.7), (0.42, 0.52), (0.62, 0.52), (0.36, 0.84 + rng.normal(0, 0.04)))
    sheet.polygon(body, (0.1, 0.5), (0.2, 0.48), (0.06, 0.3))


def _automobile(sheet: _Sheet, rng: Rng) -> None:
    sheet.backdrop(_vary(rng, [160, 165, 170], 30), (110, 110, 112), 0.62)
    body = _paint(rng)
    sheet.polygon(body, (0.25, 0.52), (0.36, 0.34), (0.66, 0.34), (0.78, 0.52))
    sheet.polygon((190, 215, 230), (0.33, 0.5), (0.4, 0.38), (0.62, 0.38), (0.7, 0.5))
    sheet.polygon(_darker(body, 0.85), (0.08, 0.52), (0.92, 0.52), (0.94, 0.7), (0.06, 0.7))
    _wheels(sheet, 0.72, (0.26, 0.74), 0.09)


def _truck(sheet: _Sheet, rng: Rng) -> None:
    sheet.backdrop(_vary(rng, [160, 165, 170], 30), (110, 110, 112), 0.68)
    box, cabin = _paint(rng), _paint(rng)
    sheet.polygon(box, (0.04, 0.2), (0.64, 0.2), (0.64, 0.7), (0.04, 0.7))
    sheet.polygon(cabin, (0.66, 0.36), (0.84, 0.36), (0.95, 0.54), (0.95, 0.7), (0.66, 0.7))
    sheet.polygon((190, 215, 230), (0.72, 0.41), (0.82, 0.41), (0.88, 0.53), (0.72, 0.53))
    _wheels(sheet, 0.74, (0.18, 0.36, 0.8), 0.085)


def _wheels(sheet: _Sheet, height: float, places: tuple[float, ...], radius: float) -> None:
    for place in places:
        sheet.ellipse((25, 25, 28), (place, height), radius, radius)
        sheet.ellipse((150, 150, 150), (place, height), radius * 0.45, radius * 0.45)


def _ship(sheet: _Sheet, rng: Rng) -> None:
    sheet.backdrop((165, 190, 220), (50, 95, 135), 0.62)
    hull = _paint(rng)
    sheet.polygon(hull, (0.06, 0.56), (0.94, 0.56), (0.8, 0.76), (0.18, 0.76))
    sheet.polygon((225, 225, 220), (0.3, 0.4), (0.64, 0.4), (0.64, 0.56), (0.3, 0.56))
    sheet.line((60, 60, 60), (0.46, 0.4), (0.46, 0.12), 0.03)
    sheet.polygon(_paint(rng), (0.52, 0.28), (0.6, 0.28), (0.6, 0.4), (0.52, 0.4))


def _bird(sheet: _Sheet, rng: Rng) -> None:
    _sky(sheet) if rng.random() < 0.5 else _meadow(sheet)
    plumage = _paint(rng)
    sheet.ellipse(plumage, (0.48, 0.55), 0.22, 0.13, -15)
    sheet.ellipse(plumage, (0.7, 0.4), 0.09, 0.085)
    sheet.polygon((225, 160, 40), (0.77, 0.38), (0.9, 0.42), (0.77, 0.44))
    sheet.polygon(_darker(plumage), (0.32, 0.5), (0.58, 0.52), (0.3, 0.24 + rng.normal(0, 0.05)))
    sheet.polygon(_darker(plumage, 0.8), (0.3, 0.58), (0.1, 0.62), (0.12, 0.76))
    sheet.line((90, 70, 40), (0.5, 0.66), (0.5, 0.84), 0.02)


def _cat(sheet: _Sheet, rng: Rng) -> None:
    _room(sheet, rng)
    fur = _fur(rng)
    sheet.ellipse(_darker(fur, 0.85), (0.5, 0.9), 0.3, 0.28)
    for side in (-1, 1):
        tip = 0.5 + side * 0.3
        sheet.polygon(fur, (tip, 0.1), (0.5 + side * 0.04, 0.34), (0.5 + side * 0.31, 0.42))
        sheet.polygon((205, 150, 150), (tip - side * 0.03, 0.2), (0.5 + side * 0.13, 0.33), (0.5 + side * 0.26, 0.38))
    sheet.ellipse(fur, (0.5, 0.5), 0.31, 0.26)
    _eyes(sheet, 0.45, 0.13, (170, 200, 60))
    sheet.ellipse((200, 120, 120), (0.5, 0.58), 0.035, 0.025)
    for side in (-1, 1):
        sheet.line((230, 230, 225), (0.5 + side * 0.1, 0.6), (0.5 + side * 0.4, 0.56), 0.012)


def _dog(sheet: _Sheet, rng: Rng) -> None:
    _room(sheet, rng)
    fur = _fur(rng)
    sheet.ellipse(_darker(fur, 0.85), (0.5, 0.92), 0.3, 0.28)
    sheet.ellipse(fur, (0.5, 0.46), 0.27, 0.28)
    for side in (-1, 1):
        sheet.ellipse(_darker(fur), (0.5 + side * 0.28, 0.48), 0.09, 0.23, side * -14)
    _eyes(sheet, 0.4, 0.12, (60, 40, 30))
    sheet.ellipse(_vary(rng, [215, 195, 170], 15), (0.5, 0.6), 0.15, 0.13)
    sheet.ellipse((25, 22, 22), (0.5, 0.55), 0.06, 0.045)


def _eyes(sheet: _Sheet, height: float, apart: float, color: Color) -> None:
    for side in (-1, 1):
        sheet.ellipse(color, (0.5 + side * apart, height), 0.055, 0.055)
        sheet.ellipse((10, 10, 10), (0.5 + side * apart, height), 0.025, 0.04)


def _frog(sheet: _Sheet, rng: Rng) -> None:
    sheet.backdrop((80, 110, 70), (70, 100, 110), 0.6)
    skin = _vary(rng, [95, 135, 55], 28)
    for side in (-1, 1):
        sheet.ellipse(_darker(skin, 0.75), (0.5 + side * 0.32, 0.72), 0.16, 0.1, side * 30)
        sheet.ellipse(skin, (0.5 + side * 0.17, 0.33), 0.1, 0.1)
        sheet.ellipse((225, 200, 70), (0.5 + side * 0.17, 0.31), 0.055, 0.055)
        sheet.ellipse((10, 10, 10), (0.5 + side * 0.17, 0.31), 0.025, 0.025)
    sheet.ellipse(skin, (0.5, 0.56), 0.34, 0.24)
    sheet.line(_darker(skin, 0.4), (0.3, 0.56), (0.7, 0.56), 0.02)


def _hoofed(sheet: _Sheet, rng: Rng) -> Color:
    """Draw a body with neck, head and four legs; return its colour."""
    fur = _fur(rng)
    for place in (0.26, 0.36, 0.58, 0.67):
        sheet.line(_darker(fur, 0.8), (place, 0.58), (place + rng.normal(0, 0.03), 0.92), 0.045)
    sheet.ellipse(fur, (0.46, 0.54), 0.26, 0.13)
    sheet.polygon(fur, (0.58, 0.5), (0.72, 0.56), (0.82, 0.3), (0.72, 0.26))
    sheet.ellipse(fur, (0.82, 0.29), 0.12, 0.065, 25)
    return fur


def _deer(sheet: _Sheet, rng: Rng) -> None:
    _meadow(sheet)
    fur = _hoofed(sheet, rng)
    sheet.ellipse((235, 230, 220), (0.2, 0.5), 0.05, 0.06)
    horn = _darker(fur, 0.5)
    for lean in (-0.1, 0.06):
        sheet.line(horn, (0.76, 0.24), (0.76 + lean, 0.02), 0.025)
        sheet.line(horn, (0.76 + lean * 0.5, 0.13), (0.76 + lean * 0.5 + 0.1, 0.04), 0.02)


def _horse(sheet: _Sheet, rng: Rng) -> None:
    _meadow(sheet)
    fur = _hoofed(sheet, rng)
    mane = _darker(fur, 0.35)
    sheet.line(mane, (0.6, 0.46), (0.73, 0.22), 0.06)
    sheet.line(mane, (0.21, 0.5), (0.11, 0.78), 0.055)


_DRAWERS: dict[str, Callable[[_Sheet, Rng], None]] = {
    "airplane": _airplane,
    "automobile": _automobile,
    "bird": _bird,
    "cat": _cat,
    "deer": _deer,
    "dog": _dog,
    "frog": _frog,
    "horse": _horse,
    "ship": _ship,
    "truck": _truck,
}
