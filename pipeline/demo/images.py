"""Synthetic images of ten classes: simple shapes at random positions, scales and colours, with noise.

The classes are drawn after CIFAR-10's; another task's classes borrow the same shapes.
"""

from collections.abc import Callable

import cv2
import numpy as np

from pipeline.task import CIFAR10, Image, Task

Rng = np.random.Generator
Color = tuple[int, int, int]
Point = tuple[float, float]

SUPERSAMPLING = 4  # images are drawn four times as large and then shrunk, for soft edges


def draw_image(label: int, rng: Rng, task: Task = CIFAR10) -> Image:
    """Draw one image of a class, uint8 [height, width, 3] in RGB."""
    canvas = _Canvas(task.image_size, rng)
    cycle, drawer = divmod(label, len(_DRAWERS))
    _DRAWERS[drawer](canvas, rng)
    image = canvas.finish()
    if cycle == 0:
        return image
    num_cycles = -(-task.num_classes // len(_DRAWERS))
    return _shift_hue(image, cycle / num_cycles)


def draw_distractor(rng: Rng, task: Task = CIFAR10) -> Image:
    """Paste a part of one class's image onto another's: an image without a class."""
    one, other = (draw_image(int(label), rng, task) for label in rng.integers(task.num_classes, size=2))
    out = np.rot90(one, int(rng.integers(4))).copy()
    size = task.image_size
    side, crop = size * 7 // 16, size // 4
    x, y = rng.integers(size // 8, size // 2, size=2)
    out[y : y + side, x : x + side] = other[::-1][crop : crop + side, crop : crop + side]
    return out


class _Canvas:
    """An image in progress; coordinates run from 0 to 1, and shapes are moved, scaled and rotated as a whole."""

    def __init__(self, size: int, rng: Rng) -> None:
        self._rng = rng
        self._size, self._edge = size, size * SUPERSAMPLING
        self.pixels = np.zeros((self._edge, self._edge, 3), np.uint8)
        self._scale = float(rng.uniform(0.62, 1.0))
        self._shift = rng.uniform(-0.15, 0.15, size=2)
        self._angle = float(rng.normal(0, 0.12))
        self._flip = -1 if rng.random() < 0.5 else 1

    def backdrop(self, top: Color, bottom: Color, horizon: float = 0.5) -> None:
        """Fill with two colours that meet at a horizon, and soft blots in both."""
        rng, edge = self._rng, self._edge
        line = int(edge * (horizon + rng.normal(0, 0.06)))
        self.pixels[:line], self.pixels[line:] = _vary(rng, top, 40), _vary(rng, bottom, 40)
        for _ in range(rng.integers(2, 6)):
            centre = [int(v) for v in rng.integers(0, edge, size=2)]
            near = self.pixels[centre[1], centre[0]].tolist()
            axes = [int(v) for v in rng.integers(edge // 16, edge * 5 // 16, size=2)]
            cv2.ellipse(self.pixels, centre, axes, 0, 0, 360, _vary(rng, near, 25), -1)
        self.pixels = cv2.GaussianBlur(self.pixels, (0, 0), self._edge / 32)

    def polygon(self, color: Color, *points: Point) -> None:
        """Fill a polygon."""
        cv2.fillPoly(self.pixels, [np.array([self._to_pixels(p) for p in points])], color)

    def ellipse(self, color: Color, centre: Point, width: float, height: float, angle: float = 0.0) -> None:
        """Fill an ellipse of half axes `width` and `height`, rotated by degrees."""
        axes = [max(1, int(v * self._scale * self._edge)) for v in (width, height)]
        turn = self._flip * (angle + np.degrees(self._angle))
        cv2.ellipse(self.pixels, self._to_pixels(centre), axes, float(turn), 0, 360, color, -1)

    def line(self, color: Color, start: Point, end: Point, width: float = 0.03) -> None:
        """Draw a line."""
        thickness = max(1, int(width * self._scale * self._edge))
        cv2.line(self.pixels, self._to_pixels(start), self._to_pixels(end), color, thickness)

    def finish(self) -> Image:
        """Occlude a part, shrink, change brightness and contrast, and add noise."""
        rng, edge = self._rng, self._edge
        if rng.random() < 0.5:
            x, y = rng.integers(0, edge, size=2)
            side = int(rng.integers(edge // 8, edge * 11 // 32))
            self.pixels[y : y + side, x : x + side] = rng.integers(0, 255, size=3)
        small = cv2.resize(self.pixels, (self._size, self._size), interpolation=cv2.INTER_AREA).astype(np.float32)
        small = (small - 128) * rng.uniform(0.45, 1.1) + 128 + rng.normal(0, 22)
        small += rng.normal(0, 14, size=3) + rng.normal(0, rng.uniform(4, 20), size=small.shape)
        return np.clip(small, 0, 255).astype(np.uint8)

    def _to_pixels(self, point: Point) -> tuple[int, int]:
        x, y = (point[0] - 0.5) * self._flip, point[1] - 0.5
        cos, sin = np.cos(self._angle), np.sin(self._angle)
        rotated = np.array([x * cos - y * sin, x * sin + y * cos]) * self._scale + 0.5 + self._shift
        return int(rotated[0] * self._edge), int(rotated[1] * self._edge)


def _shift_hue(image: Image, share: float) -> Image:
    """Rotate the hue by a share of the colour circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(256 * share)  # wraps around, as the hue does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL).astype(np.uint8)


def _vary(rng: Rng, color: Color | list[int], spread: float) -> Color:
    values = np.clip(np.array(color) + rng.normal(0, spread, size=3), 0, 255)
    return int(values[0]), int(values[1]), int(values[2])


def _paint(rng: Rng) -> Color:
    """Return a random colour."""
    return _vary(rng, [128, 128, 128], 70)


def _fur(rng: Rng) -> Color:
    browns = ([110, 75, 45], [170, 130, 85], [60, 50, 45], [200, 190, 180], [130, 100, 80])
    return _vary(rng, browns[rng.integers(len(browns))], 18)


def _darker(color: Color, factor: float = 0.55) -> Color:
    return int(color[0] * factor), int(color[1] * factor), int(color[2] * factor)


def _sky(canvas: _Canvas) -> None:
    canvas.backdrop((120, 170, 225), (170, 195, 220), 0.6)


def _meadow(canvas: _Canvas) -> None:
    canvas.backdrop((150, 175, 160), (90, 130, 60), 0.5)


def _room(canvas: _Canvas, rng: Rng) -> None:
    canvas.backdrop(_vary(rng, [150, 130, 120], 40), _vary(rng, [120, 100, 90], 40), 0.7)


def _airplane(canvas: _Canvas, rng: Rng) -> None:
    _sky(canvas)
    body = _paint(rng)
    canvas.polygon(_darker(body, 0.8), (0.45, 0.48), (0.62, 0.48), (0.42, 0.16 + rng.normal(0, 0.04)))
    canvas.ellipse(body, (0.5, 0.5), 0.42, 0.065)
    canvas.polygon(_darker(body, 0.7), (0.42, 0.52), (0.62, 0.52), (0.36, 0.84 + rng.normal(0, 0.04)))
    canvas.polygon(body, (0.1, 0.5), (0.2, 0.48), (0.06, 0.3))


def _automobile(canvas: _Canvas, rng: Rng) -> None:
    canvas.backdrop(_vary(rng, [160, 165, 170], 30), (110, 110, 112), 0.62)
    body = _paint(rng)
    canvas.polygon(body, (0.25, 0.52), (0.36, 0.34), (0.66, 0.34), (0.78, 0.52))
    canvas.polygon((190, 215, 230), (0.33, 0.5), (0.4, 0.38), (0.62, 0.38), (0.7, 0.5))
    canvas.polygon(_darker(body, 0.85), (0.08, 0.52), (0.92, 0.52), (0.94, 0.7), (0.06, 0.7))
    _wheels(canvas, 0.72, (0.26, 0.74), 0.09)


def _truck(canvas: _Canvas, rng: Rng) -> None:
    canvas.backdrop(_vary(rng, [160, 165, 170], 30), (110, 110, 112), 0.68)
    box, cabin = _paint(rng), _paint(rng)
    canvas.polygon(box, (0.04, 0.2), (0.64, 0.2), (0.64, 0.7), (0.04, 0.7))
    canvas.polygon(cabin, (0.66, 0.36), (0.84, 0.36), (0.95, 0.54), (0.95, 0.7), (0.66, 0.7))
    canvas.polygon((190, 215, 230), (0.72, 0.41), (0.82, 0.41), (0.88, 0.53), (0.72, 0.53))
    _wheels(canvas, 0.74, (0.18, 0.36, 0.8), 0.085)


def _wheels(canvas: _Canvas, height: float, positions: tuple[float, ...], radius: float) -> None:
    for x in positions:
        canvas.ellipse((25, 25, 28), (x, height), radius, radius)
        canvas.ellipse((150, 150, 150), (x, height), radius * 0.45, radius * 0.45)


def _ship(canvas: _Canvas, rng: Rng) -> None:
    canvas.backdrop((165, 190, 220), (50, 95, 135), 0.62)
    hull = _paint(rng)
    canvas.polygon(hull, (0.06, 0.56), (0.94, 0.56), (0.8, 0.76), (0.18, 0.76))
    canvas.polygon((225, 225, 220), (0.3, 0.4), (0.64, 0.4), (0.64, 0.56), (0.3, 0.56))
    canvas.line((60, 60, 60), (0.46, 0.4), (0.46, 0.12), 0.03)
    canvas.polygon(_paint(rng), (0.52, 0.28), (0.6, 0.28), (0.6, 0.4), (0.52, 0.4))


def _bird(canvas: _Canvas, rng: Rng) -> None:
    _sky(canvas) if rng.random() < 0.5 else _meadow(canvas)
    plumage = _paint(rng)
    canvas.ellipse(plumage, (0.48, 0.55), 0.22, 0.13, -15)
    canvas.ellipse(plumage, (0.7, 0.4), 0.09, 0.085)
    canvas.polygon((225, 160, 40), (0.77, 0.38), (0.9, 0.42), (0.77, 0.44))
    canvas.polygon(_darker(plumage), (0.32, 0.5), (0.58, 0.52), (0.3, 0.24 + rng.normal(0, 0.05)))
    canvas.polygon(_darker(plumage, 0.8), (0.3, 0.58), (0.1, 0.62), (0.12, 0.76))
    canvas.line((90, 70, 40), (0.5, 0.66), (0.5, 0.84), 0.02)


def _cat(canvas: _Canvas, rng: Rng) -> None:
    _room(canvas, rng)
    fur = _fur(rng)
    canvas.ellipse(_darker(fur, 0.85), (0.5, 0.9), 0.3, 0.28)
    for side in (-1, 1):
        tip = 0.5 + side * 0.3
        canvas.polygon(fur, (tip, 0.1), (0.5 + side * 0.04, 0.34), (0.5 + side * 0.31, 0.42))
        canvas.polygon((205, 150, 150), (tip - side * 0.03, 0.2), (0.5 + side * 0.13, 0.33), (0.5 + side * 0.26, 0.38))
    canvas.ellipse(fur, (0.5, 0.5), 0.31, 0.26)
    _eyes(canvas, 0.45, 0.13, (170, 200, 60))
    canvas.ellipse((200, 120, 120), (0.5, 0.58), 0.035, 0.025)
    for side in (-1, 1):
        canvas.line((230, 230, 225), (0.5 + side * 0.1, 0.6), (0.5 + side * 0.4, 0.56), 0.012)


def _dog(canvas: _Canvas, rng: Rng) -> None:
    _room(canvas, rng)
    fur = _fur(rng)
    canvas.ellipse(_darker(fur, 0.85), (0.5, 0.92), 0.3, 0.28)
    canvas.ellipse(fur, (0.5, 0.46), 0.27, 0.28)
    for side in (-1, 1):
        canvas.ellipse(_darker(fur), (0.5 + side * 0.28, 0.48), 0.09, 0.23, side * -14)
    _eyes(canvas, 0.4, 0.12, (60, 40, 30))
    canvas.ellipse(_vary(rng, [215, 195, 170], 15), (0.5, 0.6), 0.15, 0.13)
    canvas.ellipse((25, 22, 22), (0.5, 0.55), 0.06, 0.045)


def _eyes(canvas: _Canvas, height: float, apart: float, color: Color) -> None:
    for side in (-1, 1):
        canvas.ellipse(color, (0.5 + side * apart, height), 0.055, 0.055)
        canvas.ellipse((10, 10, 10), (0.5 + side * apart, height), 0.025, 0.04)


def _frog(canvas: _Canvas, rng: Rng) -> None:
    canvas.backdrop((80, 110, 70), (70, 100, 110), 0.6)
    skin = _vary(rng, [95, 135, 55], 28)
    for side in (-1, 1):
        canvas.ellipse(_darker(skin, 0.75), (0.5 + side * 0.32, 0.72), 0.16, 0.1, side * 30)
        canvas.ellipse(skin, (0.5 + side * 0.17, 0.33), 0.1, 0.1)
        canvas.ellipse((225, 200, 70), (0.5 + side * 0.17, 0.31), 0.055, 0.055)
        canvas.ellipse((10, 10, 10), (0.5 + side * 0.17, 0.31), 0.025, 0.025)
    canvas.ellipse(skin, (0.5, 0.56), 0.34, 0.24)
    canvas.line(_darker(skin, 0.4), (0.3, 0.56), (0.7, 0.56), 0.02)


def _hoofed(canvas: _Canvas, rng: Rng) -> Color:
    """Draw a body with neck, head and four legs; return its colour."""
    fur = _fur(rng)
    for x in (0.26, 0.36, 0.58, 0.67):
        canvas.line(_darker(fur, 0.8), (x, 0.58), (x + rng.normal(0, 0.03), 0.92), 0.045)
    canvas.ellipse(fur, (0.46, 0.54), 0.26, 0.13)
    canvas.polygon(fur, (0.58, 0.5), (0.72, 0.56), (0.82, 0.3), (0.72, 0.26))
    canvas.ellipse(fur, (0.82, 0.29), 0.12, 0.065, 25)
    return fur


def _deer(canvas: _Canvas, rng: Rng) -> None:
    _meadow(canvas)
    fur = _hoofed(canvas, rng)
    canvas.ellipse((235, 230, 220), (0.2, 0.5), 0.05, 0.06)
    horn = _darker(fur, 0.5)
    for lean in (-0.1, 0.06):
        canvas.line(horn, (0.76, 0.24), (0.76 + lean, 0.02), 0.025)
        canvas.line(horn, (0.76 + lean * 0.5, 0.13), (0.76 + lean * 0.5 + 0.1, 0.04), 0.02)


def _horse(canvas: _Canvas, rng: Rng) -> None:
    _meadow(canvas)
    fur = _hoofed(canvas, rng)
    mane = _darker(fur, 0.35)
    canvas.line(mane, (0.6, 0.46), (0.73, 0.22), 0.06)
    canvas.line(mane, (0.21, 0.5), (0.11, 0.78), 0.055)


_DRAWERS: tuple[Callable[[_Canvas, Rng], None], ...] = (
    _airplane,
    _automobile,
    _bird,
    _cat,
    _deer,
    _dog,
    _frog,
    _horse,
    _ship,
    _truck,
)
