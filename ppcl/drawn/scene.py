"""Surroundings of a drawn person, and the camera: backgrounds, occluders, light, colour, blur and noise.

Coordinates are those of the figure, in body heights; pixels are float32 sRGB (3, H, W) in 0..1.
"""

import io
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageFilter

from .looks import Cloth, Colour, Rng, channels, draw_looks, near_grey, vary
from .paint import NOISE_SIZE, Canvas, Noise, Part, Point, paint

# METHOD.md §7: 60 % grey (road, wall), else grass or earth.
GROUNDS: tuple[Colour, ...] = ((0.50, 0.50, 0.50), (0.36, 0.40, 0.27), (0.50, 0.41, 0.31))
GROUND_SHARES = (0.60, 0.20, 0.20)
WALLS: tuple[Colour, ...] = (
    (0.93, 0.93, 0.94), (0.88, 0.88, 0.92), (0.95, 0.95, 0.93), (0.62, 0.61, 0.60),
    (0.42, 0.43, 0.46), (0.80, 0.82, 0.86), (0.46, 0.30, 0.24), (0.25, 0.28, 0.24),
)  # fmt: skip
CLUTTER = 2.2  # mean number of things behind the person
MILD = 0.4  # METHOD.md §7: camera deviations, relative to the strong ones of the first trial


def make_camera(rng: Rng, mild: float = 1.0) -> SimpleNamespace:
    """Draw a camera's gain per channel, gamma, black level, blur in output pixels, and deviation of noise.

    `mild`: how far colours depart from the scene's, in proportion to a surveillance camera's.
    """
    gain = np.exp(rng.normal(0, 0.25 * MILD) + rng.normal(0, 0.12 * MILD, 3)) ** mild
    gamma = float(np.exp(rng.normal(0, 0.3 * MILD))) ** mild
    black, blur, noise = rng.uniform((0.0, 0.25, 0.003), (0.06, 0.8, 0.015))
    return SimpleNamespace(gain=gain, gamma=gamma, black=black * mild, blur=blur, noise=noise)


def crop_noise(field: np.ndarray, rng: Rng, shape: tuple[int, int], stretch: Point = (1, 1)) -> np.ndarray:
    """A random piece (H, W) of a noise field, stretched down and across."""
    i, j = rng.integers(NOISE_SIZE, size=2)
    rows = (np.arange(shape[0]) / stretch[0]).astype(np.intp) + i
    cols = (np.arange(shape[1]) / stretch[1]).astype(np.intp) + j
    return field.take(rows % NOISE_SIZE, 0).take(cols % NOISE_SIZE, 1)


def draw_background(canvas: Canvas, rng: Rng) -> None:
    """Fill the canvas: ground, often a wall above it, bands, unevenness, clutter, and the person's shadow."""
    pixels, noise, shape = canvas.pixels, canvas.noise, canvas.pixels.shape[1:]
    pixels[:] = channels(vary(rng, GROUNDS[int(rng.choice(len(GROUNDS), p=GROUND_SHARES))], 0.25, 0.015))
    floor = rng.uniform(-0.3, 0.92)
    wall = canvas.ys < floor
    if wall.any():
        pixels[:, wall] = channels(vary(rng, WALLS[int(rng.integers(len(WALLS)))], 0.2, 0.02))
        if rng.random() < 0.4:
            pixels[:, np.abs(canvas.ys - floor) < rng.uniform(0.005, 0.02)] *= rng.uniform(0.4, 0.9)
    for rows in (~wall, wall):  # seams of tiles, planks or bricks
        if rows.any() and rng.random() < 0.35:
            period, strength, slant = rng.uniform(0.05, 0.3), rng.uniform(0.04, 0.25), rng.normal(0, 0.4)
            grid = canvas.ys[rows, None] + np.float32(slant) * canvas.xs
            if rng.random() < 0.4:
                grid = canvas.xs + np.float32(slant) * canvas.ys[rows, None]
            seam = (grid / np.float32(period)) % 1 < rng.uniform(0.06, 0.5)
            pixels[:, rows] *= 1 - np.float32(strength) * seam
    height, width = shape
    slope = rng.normal(0, 0.14) * np.linspace(-1, 1, height)[:, None] + rng.normal(0, 0.10) * np.linspace(-1, 1, width)
    rough = rng.uniform(0.02, 0.07) * crop_noise(noise.soft, rng, shape, tuple(rng.uniform(0.6, 3.0, 2)))
    rough += rng.uniform(0.01, 0.05) * crop_noise(noise.fine, rng, shape, (1.0, rng.uniform(1, 3)))
    pixels *= (1 + slope + rough).astype(np.float32)
    for _ in range(rng.poisson(CLUTTER)):
        _clutter(canvas, rng, floor)
    x, wide, strength = rng.normal(0, 0.05), rng.uniform(0.10, 0.22), rng.uniform(0.1, 0.5)
    reach = ((canvas.xs - x) / wide) ** 2 + ((canvas.ys[:, None] - 0.985) / rng.uniform(0.02, 0.05)) ** 2
    pixels *= (1 - strength * np.exp(-reach)).astype(np.float32)


def _clutter(canvas: Canvas, rng: Rng, floor: float) -> None:
    """One object behind the person: a pole, a box, a panel, or another person further away."""
    side = float(rng.choice([-1, 1]))
    x = side * rng.uniform(0.08, 0.30)
    cloth = Cloth(near_grey(rng, 0.12, 0.8, 0.05), folds=0.05, weave=0.03)
    kind = rng.random()
    foot = max(floor, 0.1) + rng.uniform(-0.1, 0.25)
    if kind < 0.35:
        width = rng.uniform(0.008, 0.03)
        paint(canvas, Part(0, (x, -0.2), (x + rng.normal(0, 0.02), foot), (width, width), cloth, cap=0.1))
    elif kind < 0.75:
        width = rng.uniform(0.05, 0.16)
        paint(canvas, Part(0, (x, foot - rng.uniform(0.1, 0.6)), (x, foot), (width, width), cloth, cap=0.06))
    else:
        _bystander(canvas, rng, (x, foot - 0.7), rng.uniform(0.5, 0.8))


def _bystander(canvas: Canvas, rng: Rng, top: Point, size: float) -> None:
    """Another person, in five tubes, `size` body heights tall, with the top of the head at `top`."""
    other, (x, y) = draw_looks(rng), top

    def limb(x0, y0, x1, y1, radii: tuple[float, ...], cloth: Cloth, cap: float = 0.5) -> None:
        start, end = (x + size * x0, y + size * y0), (x + size * x1, y + size * y1)
        paint(canvas, Part(0, start, end, tuple(r * size for r in radii), cloth, cap))

    for sign in (-1, 1):
        limb(sign * 0.05, 0.5, sign * rng.uniform(0.03, 0.1), 0.97, (0.065, 0.04), other.lower.cloth)
        limb(sign * 0.11, 0.2, sign * 0.15, 0.5, (0.04, 0.028), other.upper.cloth)
    limb(0, 0.16, 0, 0.55, (0.06, 0.12, 0.11, 0.11), other.upper.cloth, 0.2)
    limb(0, 0.03, 0, 0.11, (0.045, 0.048, 0.035), other.hair_cloth if rng.random() < 0.5 else other.skin)


def draw_occluder(canvas: Canvas, rng: Rng, cover: float) -> None:
    """An occluder that hides about `cover` (0..1) of the canvas: a car, a bin, a pole, or a passer-by."""
    left, right, top, bottom = canvas.xs[0], canvas.xs[-1], canvas.ys[0], canvas.ys[-1]
    wide, high, side = right - left, bottom - top, float(rng.choice([-1, 1]))
    cloth = Cloth(near_grey(rng, 0.08, 0.75, 0.08), folds=0.06, weave=0.02)
    kind = rng.choice(["car", "bin", "pole", "person"], p=[0.3, 0.25, 0.2, 0.25])
    edge = right if side > 0 else left
    if kind == "car":
        x, y = left + wide / 2 + rng.normal(0, 0.3) * wide, bottom - cover * high
        pane, lamp = (Cloth(colour, folds=0.1) for colour in ((0.10, 0.12, 0.14), (0.75, 0.72, 0.65)))
        paint(canvas, Part(0, (x - wide * 1.3, y + 0.25), (x + wide * 1.3, y + 0.25), (0.25, 0.25), cloth, cap=0.3))
        paint(canvas, Part(0, (x - wide * 0.5, y + 0.05), (x + wide * 0.6, y + 0.05), (0.022, 0.026), pane))
        x += wide * rng.uniform(-0.5, 0.5)
        paint(canvas, Part(0, (x, y + 0.13), (x + 0.05, y + 0.13), (0.014, 0.014), lamp))
    elif kind == "bin":
        half = wide * min(0.95, max(cover * 1.3, cover**0.5)) / 2
        tall = cover * wide * high / (2 * half)
        x = edge - side * half * 0.96
        paint(canvas, Part(0, (x, bottom - tall), (x, bottom + 0.1), (half, half * 0.95), cloth, cap=0.12))
    elif kind == "pole":
        x, half = rng.uniform(left + wide * 0.15, right - wide * 0.15), cover * wide / 2
        paint(canvas, Part(0, (x, top - 0.1), (x, bottom + 0.1), (half, half), cloth, cap=0.1))
    else:
        head = (edge - side * (cover * wide - 0.13), top + rng.uniform(-0.05, 0.2))
        _bystander(canvas, rng, head, rng.uniform(1.0, 1.2))


def develop(pixels: np.ndarray, camera: SimpleNamespace, blur: float, grain: np.ndarray, grey=False) -> Image.Image:
    """Picture of pixels (3, H, W): gain, gamma and black level of a camera, blur in pixels, grain (H, W, 1 or 3)."""
    tone = np.clip(pixels * channels(camera.gain), 0.001, 1) ** np.float32(camera.gamma)
    tone = camera.black + (1 - camera.black) * tone
    image = Image.fromarray((tone * 255).astype(np.uint8).transpose(1, 2, 0))
    image = image.convert("L").convert("RGB") if grey else image
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(float(blur))))
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def record(canvas: Canvas, camera: SimpleNamespace, rng: Rng) -> Image.Image:
    """Record the canvas as a camera does: uneven light, halved in size, recoloured, blurred, noisy."""
    pixels = canvas.pixels
    height, width = pixels.shape[1:]
    slope = rng.normal(0, 0.09) * np.linspace(-1, 1, height)[:, None] + rng.normal(0, 0.09) * np.linspace(-1, 1, width)
    pixels *= (rng.uniform(0.88, 1.10) + slope).astype(np.float32)
    halved = 0.5 * (pixels[:, ::2] + pixels[:, 1::2])
    blur = camera.blur * height / 256 * rng.uniform(0.7, 1.3)
    grain = rng.standard_normal((height // 2, width // 2, 3), dtype=np.float32) * np.float32(camera.noise * 255)
    return develop(0.5 * (halved[..., ::2] + halved[..., 1::2]), camera, blur, 0.6 * grain + 0.6 * grain[..., :1])


def jpeg(image: Image.Image, rng: Rng, lowest: int) -> bytes:
    """Bytes of a JPEG of a random quality from `lowest` to 95."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(lowest, 96)))
    return buffer.getvalue()


def make_canvas(frame: tuple[float, float, float, float], size: tuple[int, int], noise: Noise, rng: Rng) -> Canvas:
    """An empty canvas at twice `size` = (W, H) pixels that shows `frame` = (left, top, width, height), body heights.

    The light comes from above, in front and one side.
    """
    (left, top, wide, high), (width, height) = frame, np.multiply(size, 2)
    xs = left + (np.arange(width, dtype=np.float32) + 0.5) * np.float32(wide / width)
    ys = top + (np.arange(height, dtype=np.float32) + 0.5) * np.float32(high / height)
    pixels = np.empty((3, height, width), np.float32)
    return Canvas(pixels, xs.astype(np.float32), ys.astype(np.float32), (rng.uniform(-0.75, 0.75), -0.35, 0.75), noise)
