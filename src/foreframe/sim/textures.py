"""Procedural textures for simulated rooms: numpy arrays painted from a seeded stream, encoded as PNG in memory."""

from __future__ import annotations

import colorsys
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

Colour = tuple[float, float, float]
Image = npt.NDArray[np.float64]


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """An RGB colour in [0, 1]; the hue wraps."""
    return colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))


def encode_png(image: Image) -> bytes:
    """PNG bytes of an (H, W, 3) picture with values in [0, 1]."""
    pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1).tobytes()

    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def value_noise(rng: np.random.Generator, height: int, width: int, cells_y: int, cells_x: int) -> Image:
    """Smooth tileable noise in [0, 1]: a random grid, cosine-interpolated."""
    grid = rng.random((cells_y, cells_x))
    y, x = np.arange(height) * cells_y / height, np.arange(width) * cells_x / width
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = (1 - np.cos((y - y0) * np.pi)) / 2, (1 - np.cos((x - x0) * np.pi)) / 2
    y1, x1 = (y0 + 1) % cells_y, (x0 + 1) % cells_x
    top = grid[np.ix_(y0, x0)] * (1 - fx) + grid[np.ix_(y0, x1)] * fx
    bottom = grid[np.ix_(y1, x0)] * (1 - fx) + grid[np.ix_(y1, x1)] * fx
    return top * (1 - fy)[:, None] + bottom * fy[:, None]


def _shade(colour: Colour, gain: Image) -> Image:
    return np.asarray(colour) * gain[..., None]


def plaster(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """Painted wall: broad stains and fine grain."""
    gain = 0.94 + 0.08 * value_noise(rng, size, size, 3, 3) + 0.05 * value_noise(rng, size, size, 32, 32)
    return _shade(colour, gain)


def stripes(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """Wallpaper with vertical bands."""
    count = int(rng.integers(3, 7))
    phase = np.arange(size) * count / size % 1.0
    band = np.where(phase < rng.uniform(0.25, 0.6), 1.0, rng.uniform(0.84, 0.93))
    return _shade(colour, band[None, :] * (0.97 + 0.05 * value_noise(rng, size, size, 24, 24)))


def dots(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """Wallpaper with a regular small motif."""
    count = int(rng.integers(3, 6))
    y, x = np.mgrid[0:size, 0:size] * count / size
    shift = np.floor(y) % 2 * 0.5
    distance = np.abs(((x + shift) % 1) - 0.5) ** rng.choice([1, 2]) + np.abs((y % 1) - 0.5) ** 2
    return _shade(colour, np.where(distance < 0.09, rng.uniform(0.78, 0.9), 1.0))


def bricks(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """Running-bond bricks, 4 x 8 to the tile, each of its own shade."""
    y, x = np.mgrid[0:size, 0:size] / size
    row = np.floor(y * 8).astype(int)
    across = x * 4 + (row % 2) * 0.5
    shade = 0.8 + 0.3 * rng.random((8, 4))
    gain = shade[row, np.floor(across).astype(int) % 4]
    joint = (y * 8 % 1 < 0.1) | (across % 1 < 0.05)
    return np.where(joint[..., None], 0.72, _shade(colour, gain * (0.9 + 0.15 * value_noise(rng, size, size, 32, 32))))


def tiles(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """Square tiles with joints, 4 x 4, some of a second shade."""
    y, x = np.mgrid[0:size, 0:size] * 4 / size
    shade = np.where(rng.random((4, 4)) < rng.uniform(0.0, 0.4), rng.uniform(0.72, 0.9), 1.0)
    shade = shade * rng.uniform(0.95, 1.03, (4, 4))
    gain = shade[np.floor(y).astype(int), np.floor(x).astype(int)] * (
        0.95 + 0.08 * value_noise(rng, size, size, 12, 12)
    )
    joint = (y % 1 < 0.05) | (x % 1 < 0.05)
    return np.where(joint[..., None], np.asarray(colour) * 0.62 + 0.12, _shade(colour, gain))


def wood(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """Grain that runs along x."""
    warp = value_noise(rng, size, size, 4, 3)
    grain = value_noise(rng, size, size, 48, 3) * 0.6 + value_noise(rng, size, size, 24, 6) * 0.4
    rings = 0.5 + 0.5 * np.sin((warp * 6 + np.linspace(0, 14, size)[:, None]) * 2)
    return _shade(colour, 0.78 + 0.2 * grain + 0.1 * rings)


def planks(rng: np.random.Generator, colour: Colour, size: int = 256) -> Image:
    """Floor boards: eight rows of grain, each of its own shade, with dark joints."""
    image = wood(rng, colour, size)
    row = np.arange(size) * 8 // size
    image *= (0.82 + 0.3 * rng.random(8))[row][:, None, None]
    start = rng.integers(0, size, 8)[row]
    joint = (np.arange(size)[None, :] - start[:, None]) % size < 2
    joint |= (np.arange(size) % (size // 8) < 1)[:, None]
    return np.where(joint[..., None], image * 0.55, image)


def carpet(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """Short pile."""
    gain = 0.82 + 0.2 * value_noise(rng, size, size, 64, 64) + 0.12 * value_noise(rng, size, size, 6, 6)
    return _shade(colour, gain)


def rug(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """Concentric borders and a woven motif."""
    y, x = np.abs(np.mgrid[0:size, 0:size] / size - 0.5) * 2
    edge = np.maximum(x, y)
    hue = colorsys.rgb_to_hsv(*colour)[0]
    inks = np.array([hsv(hue + rng.normal(0, 0.08), rng.uniform(0.1, 0.4), rng.uniform(0.3, 0.8)) for _ in range(5)])
    ring = np.minimum((edge * 9).astype(int), 8)
    image = inks[rng.integers(0, 5, 9)[ring]]
    motif = (np.sin(x * 26) * np.sin(y * 26) > 0.45) & (edge < 0.66)
    image = np.where(motif[..., None], inks[0], image)
    return image * (0.88 + 0.18 * value_noise(rng, size, size, 64, 64))[..., None]


def speckle(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """Stone worktop."""
    return _shade(colour, 0.8 + 0.3 * value_noise(rng, size, size, 56, 56) * value_noise(rng, size, size, 20, 20) + 0.1)


def fabric(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """Weave."""
    y, x = np.mgrid[0:size, 0:size]
    weave = 0.5 + 0.25 * (np.sin(x * 0.8) + np.sin(y * 0.8))
    return _shade(colour, 0.82 + 0.14 * weave + 0.1 * value_noise(rng, size, size, 5, 5))


def books(rng: np.random.Generator, _colour: Colour, size: int = 128) -> Image:
    """A row of spines."""
    image = np.full((size, size, 3), 0.1)
    x = 0
    while x < size:
        width = int(rng.integers(5, 15))
        top = int(rng.integers(0, size // 3))
        spine = np.asarray(hsv(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.85)))
        across = np.clip(1 - np.abs(np.linspace(-1, 1, width)) ** 3 * 0.45, 0, 1)
        piece = image[top:, x : x + width]
        piece[:] = (spine * across[:, None])[: piece.shape[1]]
        for _ in range(int(rng.integers(0, 3))):
            at = int(rng.integers(0, max(1, len(piece) - 12)))
            piece[at : at + int(rng.integers(3, 12)), 1:-1] *= rng.uniform(0.6, 1.5)
        x += width
    return np.clip(image, 0, 1)


def painting(rng: np.random.Generator, colour: Colour, size: int = 96) -> Image:
    """A framed picture: a landscape, blocks of colour, or a poster with lines of text."""
    y, x = np.mgrid[0:size, 0:size] / size
    hue = rng.random()
    ink = [np.asarray(hsv(hue + rng.normal(0, 0.15), rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.9))) for _ in range(6)]
    kind = rng.integers(3)
    image = ink[0] * (1 - y[..., None] * 0.4)
    if kind == 0:
        for layer in range(1, 4):
            line = 0.35 + 0.17 * layer + 0.1 * value_noise(rng, 1, size, 1, 5)[0]
            image = np.where((y > line[None, :])[..., None], ink[layer] * (1 - 0.3 * y[..., None]), image)
    elif kind == 1:
        for _ in range(9):
            x0, y0, w, h = rng.uniform(0, 0.8), rng.uniform(0, 0.8), rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.5)
            if rng.random() < 0.5:
                inside = (x > x0) & (x < x0 + w) & (y > y0) & (y < y0 + h)
            else:
                inside = (x - x0) ** 2 + (y - y0) ** 2 < (w / 2) ** 2
            image = np.where(inside[..., None], ink[rng.integers(6)], image)
    else:
        image = np.full((size, size, 3), rng.uniform(0.75, 0.95))
        image[size // 10 : size // 2, size // 8 : -size // 8] = ink[1]
        for row in range(size // 2 + 6, size - 8, 7):
            image[row : row + 3, size // 8 : size // 8 + int(rng.integers(size // 3, size * 3 // 4))] = ink[2] * 0.5
    frame = np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) > 0.455
    return np.where(frame[..., None], np.asarray(colour), image)


def outdoors(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """What a window shows: bright sky, far houses or hills, and glazing bars."""
    y, x = np.mgrid[0:size, 0:size] / size
    sky = np.asarray(hsv(0.57, rng.uniform(0.05, 0.3), 1.0))
    image = sky * (0.85 + 0.15 * (1 - y))[..., None] + 0.1 * value_noise(rng, size, size, 4, 3)[..., None]
    hills = 0.5 + 0.15 * value_noise(rng, 1, size, 1, 6)[0]
    green = np.asarray(hsv(rng.uniform(0.2, 0.4), 0.28, rng.uniform(0.45, 0.65)))
    image = np.where(
        (y > hills[None, :])[..., None], green * (0.8 + 0.4 * value_noise(rng, size, size, 20, 20))[..., None], image
    )
    for _ in range(int(rng.integers(0, 4))):
        x0, width, top = rng.uniform(0, 0.9), rng.uniform(0.1, 0.3), rng.uniform(0.25, 0.55)
        house = (x > x0) & (x < x0 + width) & (y > top)
        panes = house & ((x * 22 % 1) > 0.5) & ((y * 16 % 1) > 0.5)
        wall = np.asarray(hsv(rng.random(), 0.12, rng.uniform(0.5, 0.8)))
        image = np.where(house[..., None], wall, image)
        image = np.where(panes[..., None], 0.35, image)
    bars = (np.abs(x - 0.5) < 0.02) | (np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) > 0.46)
    if rng.random() < 0.5:
        bars |= np.abs(y - rng.choice([0.4, 0.5])) < 0.018
    return np.where(bars[..., None], np.asarray(colour), image)


def screen(rng: np.random.Generator, _colour: Colour, size: int = 96) -> Image:
    """A monitor with windows and lines of text, or a dark one."""
    image = np.full((size, size, 3), 0.06)
    if rng.random() < 0.75:
        image[3:-3, 3:-3] = hsv(rng.random(), 0.25, rng.uniform(0.2, 0.6))
        for _ in range(int(rng.integers(1, 4))):
            x0, y0 = rng.integers(6, size // 2, 2)
            x1, y1 = rng.integers(size // 2, size - 6, 2)
            image[y0:y1, x0:x1] = rng.uniform(0.75, 0.95)
            for row in range(y0 + 4, y1 - 3, 5):
                image[row : row + 2, x0 + 3 : x0 + 3 + int(rng.integers(4, max(5, x1 - x0 - 5)))] = 0.35
    return image


def doorleaf(rng: np.random.Generator, colour: Colour, size: int = 96) -> Image:
    """Two or four recessed panels."""
    y, x = np.mgrid[0:size, 0:size] / size
    columns = int(rng.integers(1, 3))
    u, v = x * columns % 1, y * 2 % 1
    border = np.minimum(np.minimum(u, 1 - u) / columns, np.minimum(v, 1 - v) / 2)
    gain = np.where(border < 0.06, 1.0, np.where(border < 0.08, 0.72, 0.94))
    return _shade(colour, gain * (0.96 + 0.06 * value_noise(rng, size, size, 30, 4)))


def label(rng: np.random.Generator, colour: Colour, size: int = 64) -> Image:
    """A carton or a tin: two bands, a patch, some print."""
    image = np.broadcast_to(np.asarray(colour), (size, size, 3)).copy()
    hue = colorsys.rgb_to_hsv(*colour)[0]
    top = int(rng.integers(4, size // 2))
    image[top : top + int(rng.integers(6, 26))] = hsv(
        hue + rng.uniform(0.2, 0.8), rng.uniform(0.05, 0.4), rng.uniform(0.5, 0.95)
    )
    x0, y0 = rng.integers(4, size // 2, 2)
    image[y0 : y0 + 16, x0 : x0 + 22] = rng.uniform(0.7, 0.95)
    for row in range(y0 + 3, min(y0 + 15, size), 4):
        image[row : row + 1, x0 + 3 : x0 + int(rng.integers(8, 20))] = 0.2
    return image * (0.95 + 0.07 * value_noise(rng, size, size, 16, 16))[..., None]


def hexagons(rng: np.random.Generator, colour: Colour, size: int = 128) -> Image:
    """Offset rounded cells; kept for the test split."""
    y, x = np.mgrid[0:size, 0:size] * 4 / size
    u = (x + (np.floor(y) % 2) * 0.5) % 1 - 0.5
    distance = np.maximum(np.abs(u), np.abs(y % 1 - 0.5) * 0.9 + np.abs(u) * 0.3)
    return _shade(colour, np.where(distance > 0.44, 0.72, 0.95 + 0.07 * value_noise(rng, size, size, 9, 9)))


PAINTERS: dict[str, Callable[..., Image]] = {
    painter.__name__: painter
    for painter in (
        plaster, stripes, dots, bricks, tiles, wood, planks, carpet, rug, speckle, fabric, books, painting, outdoors,
        screen, doorleaf, label, hexagons,
    )
}  # fmt: skip
