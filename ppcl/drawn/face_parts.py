"""Parts of a drawn face, painted on the frontal sheet: eyes, brows, nose, mouth, beard, glasses and caps."""

from types import SimpleNamespace

import numpy as np

from .face_pose import GRID, HIGH, LEFT, TOP, WIDE
from .looks import Colour, Rng, channels, near_grey
from .paint import Noise
from .scene import crop_noise

X = ((np.arange(WIDE, dtype=np.float32) + 0.5) / GRID - LEFT)[None]  # coordinates of the sheet's pixels
Y = ((np.arange(HIGH, dtype=np.float32) + 0.5) / GRID - TOP)[:, None]


def blob(x: float, y: float, wide: float, high: float) -> np.ndarray:
    """A bell (HIGH, WIDE) of height 1 about a point, with these deviations."""
    return np.exp(-0.5 * ((Y - y) / high) ** 2) * np.exp(-0.5 * ((X - x) / wide) ** 2)


def pair(x: float, y: float, wide: float, high: float) -> np.ndarray:
    """Two such bells, left and right."""
    across = np.exp(-0.5 * ((X - x) / wide) ** 2) + np.exp(-0.5 * ((X + x) / wide) ** 2)
    return np.exp(-0.5 * ((Y - y) / high) ** 2) * across


def edge(distance: np.ndarray, soft: float = 1.0) -> np.ndarray:
    """Covered share of a pixel, 0..1, from its signed distance to the edge, softened over `soft` pixels."""
    return (distance * np.float32(GRID / soft) + np.float32(0.5)).clip(0, 1)


class Sheet:
    """The frontal sheet: colours (3, HIGH, WIDE), cover 0..1 and heights for shading (HIGH, WIDE)."""

    def __init__(self, noise: Noise, rng: Rng):
        self.colour = np.zeros((3, HIGH, WIDE), np.float32)
        self.cover = np.zeros((HIGH, WIDE), np.float32)
        self.relief = np.zeros((HIGH, WIDE), np.float32)
        strands = crop_noise(noise.fine, rng, (HIGH, WIDE), (4.0, 1.0)) * np.float32(0.08)
        self.strands = 1 + strands + crop_noise(noise.soft, rng, (HIGH, WIDE), (3.0, 0.7)) * np.float32(0.08)
        rough = crop_noise(noise.fine, rng, (1, WIDE), (1, 2.0))[0]
        self.ragged = np.convolve(rough, (0.25, 0.5, 0.25), "same").astype(np.float32)

    def lay(self, mask: np.ndarray, colour: Colour | np.ndarray, at: tuple[slice, slice] = np.s_[:, :]) -> None:
        """Paint a colour, or pixels, by a mask 0..1; on the whole sheet the mask also adds to the cover."""
        if at == np.s_[:, :]:
            self.cover += mask * (1 - self.cover)
        under = self.colour[:, *at]
        under += mask * ((channels(colour) if np.ndim(colour) == 1 else np.asarray(colour, np.float32)) - under)

    def cut(self, x: float, y: float, wide: float, high: float) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """The part of the sheet within `wide` and `high` of a point, and coordinates about that point."""
        rows = slice(max(0, int((y - high + TOP) * GRID)), max(0, int((y + high + TOP) * GRID) + 1))
        cols = slice(max(0, int((x - wide + LEFT) * GRID)), max(0, int((x + wide + LEFT) * GRID) + 1))
        return (rows, cols), X[:, cols] - np.float32(x), Y[rows] - np.float32(y)


def paint_eye(sheet: Sheet, face: SimpleNamespace, mood: SimpleNamespace, side: int) -> None:
    """One eye with its lids and lashes, and the brow over it; `side` is 1 on the picture's right."""
    upper = face.upper
    (eye_x, eye_y), (half, tall) = upper.eye, upper.size
    skin = np.array(face.skin, np.float32)
    at, dx, dy = sheet.cut(side * eye_x, eye_y, 0.15, 0.16)
    out = dx * side
    dy = dy - upper.tilt * out
    arc = np.maximum(1 - (dx / half) ** 2, -0.5)
    squint = mood.open * (1 - 0.22 * max(0.0, mood.smile))
    top = -tall * squint * arc * (1 - 0.25 * out / half)
    bottom = 0.72 * tall * (0.55 + 0.45 * squint) * arc * (1 + 0.2 * out / half) - 0.2 * tall * (1 - squint)
    inside = edge(np.minimum(dy - top, bottom - dy), 1.3) * (np.abs(dx) < half)
    crease = np.exp(-(((dy - top * 1.05 + 0.014) / 0.006) ** 2)) * edge(half * 1.1 - np.abs(dx), 4)
    sheet.lay(crease * np.float32(0.15 + 0.40 * upper.lid), skin * 0.55, at)
    sheet.lay(inside, (0.80, 0.77, 0.74), at)
    far = np.hypot(dx - mood.gaze[0], dy + 0.10 * tall - mood.gaze[1])
    sheet.lay(inside * edge(upper.radius - far), np.multiply(upper.iris, 0.65), at)
    sheet.lay(inside * edge(upper.radius * 0.78 - far, 2), upper.iris, at)
    sheet.lay(inside * edge(upper.radius * 0.40 - far), (0.03, 0.03, 0.03), at)
    spark = np.hypot(dx - mood.gaze[0] - 0.008 * np.sign(mood.light[0]), dy + 0.35 * tall)
    sheet.lay(inside * edge(0.005 - spark) * 0.8, (0.95, 0.95, 0.95), at)
    sheet.lay(inside * np.exp(-(((dy - top) / 0.010) ** 2)) * 0.5, skin * 0.3, at)
    lash = np.exp(-(((dy - top) / 0.0055) ** 2)) * edge(half * 1.04 - np.abs(dx), 2)
    sheet.lay(lash * 0.85, np.minimum(skin * 0.25, upper.hair), at)
    lid = np.exp(-(((dy - bottom) / 0.004) ** 2)) * edge(half - np.abs(dx), 3)
    sheet.lay(lid * 0.35, skin * 0.45, at)
    lift, length, thick = upper.brow
    run = (out + 0.50 * length) / length  # 0 at the inner end, 1 at the outer
    bow = -lift - mood.raised - upper.arch * np.sin(np.clip(run, 0, 1) * 2.2) + upper.angle * out + upper.tilt * out
    body = thick * np.clip(1.15 - 0.75 * run, 0.1, 1) + 0.002 * sheet.ragged[at[1]]
    brow = edge(body - np.abs(dy - bow), 2.2) * np.clip(run * 7 + 0.5, 0, 1) * np.clip((1.12 - run) * 8, 0, 1)
    sheet.lay(brow * np.float32(upper.bushy), np.multiply(upper.hair, 0.75) * 0.8 + skin * 0.06, at)


def paint_nose(sheet: Sheet, face: SimpleNamespace) -> None:
    """Nostrils, the wings' edges and the shadow under the nose."""
    (tip, wing, _), skin = face.nose, np.array(face.skin, np.float32)
    at, dx, dy = sheet.cut(face.bend * 1.5, tip + 0.02, 0.12, 0.07)
    under = np.exp(-((dx / (0.9 * wing)) ** 2) - ((dy - 0.012) / 0.012) ** 2)
    sheet.lay(under * 0.28, skin * 0.55, at)
    nostril = edge((1 - np.hypot((np.abs(dx) - 0.48 * wing) / (0.30 * wing), (dy - 0.006) / 0.009)) * 0.012, 2)
    sheet.lay(nostril * 0.75, skin * 0.28, at)
    rim = np.hypot((np.abs(dx) - 0.66 * wing) / (0.36 * wing), (dy + 0.008) / 0.026)
    rim = np.exp(-(((rim - 1) / 0.20) ** 2)) * np.clip((np.abs(dx) / wing - 0.7) * 5, 0, 1)
    sheet.lay(rim * 0.28, skin * 0.55, at)


def paint_mouth(sheet: Sheet, face: SimpleNamespace, mood: SimpleNamespace) -> None:
    """Lips, and teeth where they part."""
    lower, skin, smile = face.lower, np.array(face.skin, np.float32), mood.smile
    half = lower.wide * (1 + 0.20 * smile)
    at, dx, dy = sheet.cut(0, lower.mouth, 0.18, 0.13)
    far = dx / half
    arc = np.maximum(1 - far**2, 0)
    line = (lower.sag - 0.022 * smile) * far**2 + 0.010 * smile
    thin = 1 - 0.25 * max(0.0, smile)
    notch = 1 - lower.bow * np.exp(-((far / 0.14) ** 2))
    gape = (mood.gape + 0.012 * max(0.0, smile - 0.3)) * arc
    above = line - gape * 0.35 - lower.lips[0] * thin * arc**0.7 * notch
    below = line + gape * 0.65 + lower.lips[1] * thin * arc**0.6
    inside = edge(np.minimum(dy - above, below - dy), 1.8) * (arc > 0)
    lip = np.array(lower.lip, np.float32)
    tone = np.where(dy < line, 0.86, 1.04 - 0.10 * (dy - line) / lower.lips[1])
    sheet.lay(inside * 0.9, channels(lip) * tone, at)
    hole = edge(np.minimum(dy - line + gape * 0.35, line + gape * 0.65 - dy), 1.5) * (gape > 0.004)
    sheet.lay(hole, (0.22, 0.09, 0.08), at)
    teeth = hole * edge(line - gape * 0.35 + np.minimum(0.022, 0.8 * gape) - dy, 2)
    sheet.lay(teeth, (0.84, 0.81, 0.76), at)
    seam = np.exp(-(((dy - line) / 0.005) ** 2)) * (gape < 0.008) * edge(half * 1.03 - np.abs(dx), 3)
    sheet.lay(seam * 0.7, lip * 0.35, at)
    shade = np.exp(-(((dy - below - 0.016) / 0.012) ** 2)) * np.exp(-((far / 0.7) ** 4))
    sheet.lay(shade * 0.25, skin * 0.6, at)
    corner = np.exp(-(((np.abs(dx) - half * 1.02) / 0.010) ** 2) - ((dy - line) / 0.010) ** 2)
    sheet.lay(corner * 0.35, skin * 0.5, at)


def paint_beard(sheet: Sheet, face: SimpleNamespace, level: np.ndarray) -> None:
    """Moustache, chin beard, full beard or stubble."""
    lower, tip = face.lower, face.nose[0]
    if lower.beard == "none":
        return
    droop = (tip + lower.mouth) / 2 + 0.016 + 0.035 * (X / lower.wide) ** 2
    lip = np.exp(-((X / (lower.wide * 1.05)) ** 4) - ((Y - droop) / 0.026) ** 4)
    chin = np.exp(-((X / 0.085) ** 4)) * edge(Y - lower.mouth - 0.045, 8)
    cheek = edge(Y - 0.13 + 7 * np.maximum(np.abs(X) - 0.13, 0) ** 2 + 0.01 * sheet.ragged, 14)
    mouth = np.hypot(X / (lower.wide * 1.05), (Y - lower.mouth - 0.004) / 0.036)
    full = np.maximum(lip, cheek * np.clip((mouth - 1) * 3, 0, 1))
    shape = {"moustache": lip, "goatee": np.maximum(lip, chin)}.get(lower.beard, full)
    shape = shape * edge((1.02 - level) * face.width, 3)
    thick = 0.28 if lower.beard == "stubble" else 0.85
    sheet.lay(shape * np.float32(thick * lower.dense), channels(lower.whiskers) * sheet.strands)


def paint_worn(sheet: Sheet, face: SimpleNamespace, mood: SimpleNamespace, rng: Rng) -> None:
    """Glasses that belong to the face, and sometimes sunglasses or a cap."""
    upper, shades = face.upper, mood.hat == "shades"
    wide, high, thick = upper.frame
    if upper.glasses != "none" or shades:
        rim = upper.rim if not shades else (0.06, 0.06, 0.06)
        thick = thick * (0.55 if upper.glasses == "thin" and not shades else 1.0)
        dx, dy = np.abs(X) - upper.eye[0] - 0.004, Y - upper.eye[1] - 0.006
        ring = ((np.abs(dx) / wide) ** 3.2 + (np.abs(dy) / high) ** 3.2) ** (1 / 3.2) - 1
        dark, glass = (0.93, (0.05, 0.05, 0.06)) if shades else (0.06, (0.9, 0.92, 0.95))
        sheet.lay(edge(-ring * high, 1.5) * dark, glass)
        bars = np.maximum(upper.eye[0] - wide - np.abs(X), np.abs(X) - upper.eye[0] - wide) > 0
        bars = bars * edge(thick - np.abs(dy + 0.025), 1.5) * (np.abs(X) < face.width)
        sheet.lay(np.maximum(edge(thick - np.abs(ring) * high, 1.5), bars) * 0.9, rim)
    if mood.hat == "cap":
        brim = -0.35 + 0.6 * X * X
        cap = edge(brim - Y, 2) * edge((1 - np.hypot(X / (face.width + 0.06), (Y + 0.2) / 0.5)) * face.width, 2)
        sheet.lay(cap, channels(near_grey(rng, 0.08, 0.7, 0.08, 0.15)) * np.where(Y > brim - 0.05, 0.7, 1.0))
