"""Painting of surfaces: tubes with shading and folds, and the patterns on them.

Every solid thing, in people and in scenery, is a tube: an axis with a radius that changes along it. Coordinates are
body heights on the screen, x right and y down. A body turned by `yaw` faces the camera at 0, the right side at pi/2.
"""

from collections import namedtuple
from dataclasses import dataclass
from math import cos, hypot, pi, sin

import numpy as np

from .looks import Cloth, Rng, channels

Point = tuple[float, float]

NOISE_SIZE = 512  # side of the periodic noise fields, a power of two so that an index wraps with `&`
HALO, HALO_DEPTH = 0.025, 0.22  # reach in body heights and strength of the shadow around a tube
ROUND = np.float32(0.8)  # at 1 a tube's edge faces fully sideways; less looks like cloth
SHARES = np.linspace(0, 1, 64)  # of an axis, where radii are tabulated
AMBIENT = 0.52  # light that reaches every surface; the rest comes from one direction


# Periodic noise fields of mean 0 and deviation 1, (NOISE_SIZE, NOISE_SIZE): broad and pixel-fine.
Noise = namedtuple("Noise", "soft fine")
# Places of pixels (h, w) on a tube: body heights along its axis, the same as a share of its length, position across
# (-1..1 from edge to edge), and how far the surface faces the camera (0..1).
Patch = namedtuple("Patch", "along share across out")


@dataclass(frozen=True)
class Canvas:
    """Pixels (3, H, W) in 0..1, the body coordinates of their centres, xs (W,) and ys (H,), and light and noise."""

    pixels: np.ndarray
    xs: np.ndarray
    ys: np.ndarray
    light: tuple[float, float, float]  # direction to the light: right, down, to the camera
    noise: Noise


@dataclass(frozen=True)
class Part:
    """A tube on the screen; parts of smaller `depth` are painted first."""

    depth: float
    p: Point
    q: Point
    radii: tuple[float, ...]
    cloth: Cloth
    cap: float = 1.0  # length of the rounded ends, as a share of the radius
    cover: float = np.inf  # length along the axis at which the cloth ends and `bare` begins
    bare: Cloth | None = None
    strap: Cloth | None = None
    dim: float = 1.0  # factor on the brightness: a part under another lies in its shadow
    yaw: float = 0.0


def make_noise(rng: Rng) -> Noise:
    """Draw the two noise fields from which all pictures of a call take their unevenness."""
    spectrum = np.fft.rfft2(rng.standard_normal((NOISE_SIZE, NOISE_SIZE)))
    frequency = np.hypot(np.fft.fftfreq(NOISE_SIZE)[:, None], np.fft.rfftfreq(NOISE_SIZE)[None]) * NOISE_SIZE
    fields = []
    for cutoff in (14.0, 160.0):
        field = np.fft.irfft2(spectrum * np.exp(-((frequency / cutoff) ** 2)) * (frequency > 1.5))
        fields.append((field / field.std()).astype(np.float32))
    return Noise(*fields)


def _sample(field: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Values of a periodic noise field at coordinates that wrap round; fractions are cut off."""
    rows, cols = down.astype(np.int32) & (NOISE_SIZE - 1), across.astype(np.int32) & (NOISE_SIZE - 1)
    return field.take(rows * NOISE_SIZE + cols)


def _band(distance: np.ndarray, width: float, soft: float = 0.15) -> np.ndarray:
    """1 where |distance| is under `width`, falling to 0 over `soft` times it."""
    return np.clip((width - np.abs(distance)) / (soft * width + 1e-6) + 0.5, 0, 1)


def _stripes(x: np.ndarray, period: float) -> np.ndarray:
    """Soft-edged stripes, half on, half off."""
    return np.clip(2.5 * np.sin(x * np.float32(2 * pi / period)) + 0.5, 0, 1)


def pattern_mask(cloth: Cloth, patch: Patch, yaw: float, noise: Noise) -> np.ndarray:
    """Mask 0..1 of the second colour on a patch; 0 for plain cloth.

    The patterns lie on the body, not on the screen: `front` is the share by which a point of the surface faces the
    person's front, `left` the person's left, so a print vanishes from behind and an opening wanders to the side.
    """
    if cloth.pattern == "plain":
        return np.float32(0)
    front = patch.across * np.float32(sin(yaw)) + patch.out * np.float32(cos(yaw))
    left = patch.across * np.float32(cos(yaw)) - patch.out * np.float32(sin(yaw))
    along, share, period = patch.along, patch.share, cloth.period
    if cloth.pattern == "print":
        blot = _sample(noise.soft, along * 900 + 4096 * cloth.phase, left * 90) > -0.5
        return _band(left, period) * _band(share - 0.38, 0.17) * (front > 0) * blot
    if cloth.pattern == "head":  # hair down to a share of its height, behind to the nape; and the eyes
        edge = period + 0.62 * np.clip((0.35 - front) * 2.2, 0, 1) * (period > 0)
        eyes = 0.5 * _band(share - 0.52, 0.05) * _band(np.abs(left) - 0.38, 0.22) * (front > 0.4)
        return np.maximum(np.clip((edge - share) * 12 + 0.5, 0, 1), eyes)
    masks = {
        "hoops": lambda: _stripes(along, period),
        "bars": lambda: _stripes(left, period * 6),
        "checks": lambda: 0.5 * (_stripes(along, period) + _stripes(left, period * 8)),
        "jacket": lambda: _band(left, period * (0.75 + 0.5 * share)) * (front > 0),
        "yoke": lambda: np.clip((0.33 - share) * 40, 0, 1),
        "seam": lambda: _band(np.abs(left) - 1, 0.35),
        "straps": lambda: _band(np.abs(left) - 0.55, 0.16) * (front > 0) * (share < 0.55),
        "sling": lambda: _band(left + 0.85 - 1.6 * share, 0.12),
        "streaks": lambda: np.clip(0.4 + 0.5 * _sample(noise.soft, along * 90, patch.across * 75), 0, 1),
    }
    return masks[cloth.pattern]()


def _surface(canvas: Canvas, patch: Patch, part: Part, cloth: Cloth) -> np.ndarray:
    """Colours (3, h, w) of a patch of cloth: pattern times light times folds."""
    ax, ay = part.q[0] - part.p[0], part.q[1] - part.p[1]
    sideways = (ay * canvas.light[0] - ax * canvas.light[1]) / (hypot(ax, ay) + 1e-6)
    light = patch.across * np.float32(sideways) + patch.out * np.float32(canvas.light[2])
    down = patch.along * np.float32(260) + np.float32(cloth.phase * 4096)
    aside = patch.across * np.float32(max(part.radii) * 800) + down * np.float32(0.33)
    folds = _sample(canvas.noise.soft, down, aside) * np.float32(cloth.folds)
    if cloth.weave:
        folds += _sample(canvas.noise.fine, down * 2, aside) * np.float32(cloth.weave)
    light = np.float32(AMBIENT) + np.float32(1.02 - AMBIENT) * np.maximum(light, 0)
    light *= 1 + folds
    light *= np.float32(part.dim)
    colour, mask = channels(cloth.colour), pattern_mask(cloth, patch, part.yaw, canvas.noise)
    return (colour + mask.astype(np.float32) * (channels(cloth.second) - colour)) * light


def paint(canvas: Canvas, part: Part) -> None:
    """Paint one part over the canvas: the shadow on what lies beneath, then its surface."""
    (px, py), (qx, qy), radii, cap = part.p, part.q, part.radii, part.cap
    length, pixel = hypot(qx - px, qy - py) + 1e-6, canvas.ys[1] - canvas.ys[0]
    ax, ay = (qx - px) / length, (qy - py) / length
    spans = []  # on each axis of the canvas: where the shadow begins, the surface begins, it ends, the shadow ends
    for centres, p, q, down, aside in ((canvas.xs, px, qx, ax, ay), (canvas.ys, py, qy, ay, ax)):
        wide = [max(radii) + margin for margin in (HALO, pixel / 2)]
        most = max(radii) * max(1.0, cap) + HALO
        halo, edge = (min(most, hypot(cap * down * w, aside * w) + 1e-5) for w in wide)  # the caps are half ellipses
        ends = (min(p, q) - halo, min(p, q) - edge, max(p, q) + edge, max(p, q) + halo)
        spans.append(np.searchsorted(centres, ends))
    (left, c0, c1, right), (top, r0, r1, bottom) = spans
    if left >= right or top >= bottom:
        return
    x, y = canvas.xs[None, left:right] - np.float32(px), canvas.ys[top:bottom, None] - np.float32(py)
    along, aside = x * np.float32(ax) + y * np.float32(ay), x * np.float32(ay) - y * np.float32(ax)
    inside = along.clip(0, np.float32(length))
    share = inside * np.float32(1 / length)
    if len(radii) == 2:
        radius = np.float32(radii[0]) + np.float32(radii[1] - radii[0]) * share
    else:
        table = np.interp(SHARES, np.linspace(0, 1, len(radii)), radii).astype(np.float32)
        radius = table.take((share * 63).astype(np.intp))
    over = (along - inside) * np.float32(1 / cap)
    depth = radius - np.sqrt(aside * aside + over * over)
    halo = (depth * np.float32(1 / HALO) + 1).clip(0, 1) * np.minimum(share * 3, 1)  # none where limbs join
    canvas.pixels[:, top:bottom, left:right] *= 1 - HALO_DEPTH * halo

    inner = np.s_[r0 - top : r1 - top, c0 - left : c1 - left]
    across = (aside[inner] / radius[inner]).clip(-1, 1)
    patch = Patch(along[inner], share[inner], across, np.sqrt(1 - ROUND * across * across))
    colour = _surface(canvas, patch, part, part.cloth)
    if part.bare is not None and part.cover < hypot(qx - px, qy - py) + radii[-1]:
        bare = _surface(canvas, patch, part, part.bare)
        colour += ((patch.along - part.cover) * 200).clip(0, 1) * (bare - colour)
    if part.strap is not None:
        mask = pattern_mask(part.strap, patch, part.yaw, canvas.noise)
        colour += mask * (channels(part.strap.colour) - colour)
    under = canvas.pixels[:, r0:r1, c0:c1]
    colour -= under
    colour *= (depth[inner] / pixel + np.float32(0.5)).clip(0, 1)
    under += colour
