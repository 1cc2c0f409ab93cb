"""Painting of a face: pose, expression and light of one picture, the parts on a sheet, and its projection.

A face is painted frontally on a sheet with the coordinates of `face_looks`: one unit is the side of an aligned picture,
and depth points to the camera in the same unit. All shapes stay axis-aligned and cheap; for every pixel of the picture,
`_turn` looks up the visible point of the sheet under the head's pose.
"""

from math import cos, hypot, sin
from types import SimpleNamespace

import numpy as np

from .looks import Colour, Rng, channels, near_grey
from .paint import Noise
from .scene import crop_noise

GRID = 120  # pixels of the sheet to a unit
LEFT, TOP, WIDE, HIGH = 0.62, 0.70, 149, 144  # the sheet reaches this far left and up; pixels across and down
MIDDLE = (0.5, 0.62)  # where the origin lies in an aligned picture
FRAME = (0.66, 0.80)  # width and height of the frame fixed to the face, upright: the cheeks, and brow to chin
DOME = 0.26  # depth of the head from its edge to its middle
EYES_DEPTH = 0.235  # mean depth of eyes, nose and mouth, which moves the frame as the head turns
AXIS = 0.6  # depth of the axis of rotation as a share of EYES_DEPTH: aligners hold the features nearly in place
X = ((np.arange(WIDE, dtype=np.float32) + 0.5) / GRID - LEFT)[None]  # coordinates of the sheet's pixels
Y = ((np.arange(HIGH, dtype=np.float32) + 0.5) / GRID - TOP)[:, None]


def draw_mood(rng: Rng) -> SimpleNamespace:
    """Draw pose, expression and light of one picture.

    The spreads are choices, after the variation left in aligned photographs. Angles are in radians, lengths in sides of
    the picture.
    """
    side = rng.normal(0, 0.4)
    return SimpleNamespace(
        yaw=float(np.clip(rng.normal(0, 0.19), -0.44, 0.44)),  # positive: the nose moves to the right
        pitch=float(np.clip(rng.normal(0, 0.10), -0.25, 0.25)),  # positive: down
        roll=rng.normal(0, 0.087),
        shift=(rng.normal(0, 0.03), rng.normal(-0.03, 0.04)),
        scale=float(np.exp(rng.normal(0.14, 0.11))),  # aligned sets differ in how much of the head they keep
        smile=float(rng.choice([rng.uniform(-0.4, 0.2), rng.uniform(0.2, 1.0)])),
        gape=max(0.0, rng.uniform(-0.05, 0.045)),  # how far the mouth is open
        raised=rng.normal(0, 0.008),  # brows, up
        open=float(np.clip(rng.normal(1.0, 0.18), 0.5, 1.3)) if rng.random() > 0.04 else 0.1,  # eyes, 1 as usual
        gaze=(rng.normal(0, 0.012), rng.normal(0, 0.003)),
        light=(side, rng.normal(-0.45, 0.3), 0.9),  # direction to it: right, down, to the camera
        ambient=rng.uniform(0.5, 0.8),  # share of the light that has no direction
        tint=tuple(np.exp(rng.normal(0, 0.008, 3)).tolist()),  # the light's colour
        tousled=rng.uniform(0.85, 1.15),  # factor on how far the hair stands out
        hat=str(rng.choice(["none", "cap", "shades"], p=[0.95, 0.03, 0.02])),
    )


def frame_of(mood: SimpleNamespace) -> tuple[float, float, float, float]:
    """Centre, width and height, in shares of the picture, of the frame that moves with the face."""
    near = EYES_DEPTH * (1 - AXIS)
    x, y = near * sin(mood.yaw), near * sin(mood.pitch)
    x, y = cos(mood.roll) * x - sin(mood.roll) * y, sin(mood.roll) * x + cos(mood.roll) * y
    centre = (MIDDLE[0] + mood.shift[0] + mood.scale * x, MIDDLE[1] + mood.shift[1] + mood.scale * y)
    return (*centre, FRAME[0] * mood.scale * cos(mood.yaw), FRAME[1] * mood.scale * cos(mood.pitch))


def _blob(x: float, y: float, wide: float, high: float, mirrored: bool = False) -> np.ndarray:
    """Gaussian bell (HIGH, WIDE) of height 1 about a point, and one about its mirror image, by standard deviations."""
    across = sum(np.exp(-0.5 * ((X - at) / wide) ** 2) for at in ((x, -x) if mirrored else (x,)))
    return np.exp(-0.5 * ((Y - y) / high) ** 2) * across


def _line(distance: np.ndarray, width: float, power: int = 2) -> np.ndarray:
    """A soft line: 1 where the distance is 0, 1/e at `width`."""
    return np.exp(-((distance / width) ** power))


def _edge(distance: np.ndarray, soft: float = 1.0) -> np.ndarray:
    """Covered share of a pixel, 0..1, from its signed distance to the edge, softened over `soft` pixels."""
    return (distance * np.float32(GRID / soft) + np.float32(0.5)).clip(0, 1)


class _Sheet:
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


def _paint_eye(sheet: _Sheet, face: SimpleNamespace, mood: SimpleNamespace, side: int) -> None:
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
    inside = _edge(np.minimum(dy - top, bottom - dy), 1.3) * (np.abs(dx) < half)
    crease = _line(dy - top * 1.05 + 0.014, 0.006) * _edge(half * 1.1 - np.abs(dx), 4)
    sheet.lay(crease * np.float32(0.15 + 0.40 * upper.lid), skin * 0.55, at)
    sheet.lay(inside, (0.80, 0.77, 0.74), at)
    far = np.hypot(dx - mood.gaze[0], dy + 0.10 * tall - mood.gaze[1])
    sheet.lay(inside * _edge(upper.radius - far), np.multiply(upper.iris, 0.65), at)
    sheet.lay(inside * _edge(upper.radius * 0.78 - far, 2), upper.iris, at)
    sheet.lay(inside * _edge(upper.radius * 0.40 - far), (0.03, 0.03, 0.03), at)
    spark = np.hypot(dx - mood.gaze[0] - 0.008 * np.sign(mood.light[0]), dy + 0.35 * tall)
    sheet.lay(inside * _edge(0.005 - spark) * 0.8, (0.95, 0.95, 0.95), at)
    sheet.lay(inside * _line(dy - top, 0.010) * 0.5, skin * 0.3, at)
    sheet.lay(
        _line(dy - top, 0.0055) * _edge(half * 1.04 - np.abs(dx), 2) * 0.85, np.minimum(skin * 0.25, upper.hair), at
    )
    sheet.lay(_line(dy - bottom, 0.004) * _edge(half - np.abs(dx), 3) * 0.35, skin * 0.45, at)
    lift, length, thick = upper.brow
    run = (out + 0.50 * length) / length  # 0 at the inner end, 1 at the outer
    bow = -lift - mood.raised - upper.arch * np.sin(np.clip(run, 0, 1) * 2.2) + upper.angle * out + upper.tilt * out
    body = thick * np.clip(1.15 - 0.75 * run, 0.1, 1) + 0.002 * sheet.ragged[at[1]]
    brow = _edge(body - np.abs(dy - bow), 2.2) * np.clip(run * 7 + 0.5, 0, 1) * np.clip((1.12 - run) * 8, 0, 1)
    sheet.lay(brow * np.float32(upper.bushy), np.multiply(upper.hair, 0.75) * 0.8 + skin * 0.06, at)


def _paint_nose(sheet: _Sheet, face: SimpleNamespace) -> None:
    """Nostrils, the wings' edges and the shadow under the nose."""
    (tip, wing, _), skin = face.nose, np.array(face.skin, np.float32)
    at, dx, dy = sheet.cut(face.bend * 1.5, tip + 0.02, 0.12, 0.07)
    under = np.exp(-((dx / (0.9 * wing)) ** 2) - ((dy - 0.012) / 0.012) ** 2)
    sheet.lay(under * 0.28, skin * 0.55, at)
    nostril = _edge((1 - np.hypot((np.abs(dx) - 0.48 * wing) / (0.30 * wing), (dy - 0.006) / 0.009)) * 0.012, 2)
    sheet.lay(nostril * 0.75, skin * 0.28, at)
    rim = np.hypot((np.abs(dx) - 0.66 * wing) / (0.36 * wing), (dy + 0.008) / 0.026)
    rim = _line(rim - 1, 0.20) * np.clip((np.abs(dx) / wing - 0.7) * 5, 0, 1)
    sheet.lay(rim * 0.28, skin * 0.55, at)


def _paint_mouth(sheet: _Sheet, face: SimpleNamespace, mood: SimpleNamespace) -> None:
    """Lips, and teeth where they part."""
    lower, skin, smile = face.lower, np.array(face.skin, np.float32), mood.smile
    half = lower.wide * (1 + 0.20 * smile)
    at, dx, dy = sheet.cut(0, lower.mouth, 0.18, 0.13)
    far = dx / half
    arc = np.maximum(1 - far**2, 0)
    line = (lower.sag - 0.022 * smile) * far**2 + 0.010 * smile
    thin = 1 - 0.25 * max(0.0, smile)
    notch = 1 - lower.bow * _line(far, 0.14)
    gape = (mood.gape + 0.012 * max(0.0, smile - 0.3)) * arc
    above = line - gape * 0.35 - lower.lips[0] * thin * arc**0.7 * notch
    below = line + gape * 0.65 + lower.lips[1] * thin * arc**0.6
    inside = _edge(np.minimum(dy - above, below - dy), 1.8) * (arc > 0)
    lip = np.array(lower.lip, np.float32)
    tone = np.where(dy < line, 0.86, 1.04 - 0.10 * (dy - line) / lower.lips[1])
    sheet.lay(inside * 0.9, channels(lip) * tone, at)
    hole = _edge(np.minimum(dy - line + gape * 0.35, line + gape * 0.65 - dy), 1.5) * (gape > 0.004)
    sheet.lay(hole, (0.22, 0.09, 0.08), at)
    sheet.lay(hole * _edge(line - gape * 0.35 + np.minimum(0.022, 0.8 * gape) - dy, 2), (0.84, 0.81, 0.76), at)
    seam = _line(dy - line, 0.005) * (gape < 0.008) * _edge(half * 1.03 - np.abs(dx), 3)
    sheet.lay(seam * 0.7, lip * 0.35, at)
    sheet.lay(_line(dy - below - 0.016, 0.012) * _line(far, 0.7, 4) * 0.25, skin * 0.6, at)
    corner = np.exp(-(((np.abs(dx) - half * 1.02) / 0.010) ** 2) - ((dy - line) / 0.010) ** 2)
    sheet.lay(corner * 0.35, skin * 0.5, at)


def _paint_beard(sheet: _Sheet, face: SimpleNamespace, level: np.ndarray) -> None:
    """Moustache, chin beard, full beard or stubble."""
    lower, tip = face.lower, face.nose[0]
    if lower.beard == "none":
        return
    droop = (tip + lower.mouth) / 2 + 0.016 + 0.035 * (X / lower.wide) ** 2
    lip = np.exp(-((X / (lower.wide * 1.05)) ** 4) - ((Y - droop) / 0.026) ** 4)
    chin = _line(X, 0.085, 4) * _edge(Y - lower.mouth - 0.045, 8)
    cheek = _edge(Y - 0.13 + 7 * np.maximum(np.abs(X) - 0.13, 0) ** 2 + 0.01 * sheet.ragged, 14)
    mouth = np.hypot(X / (lower.wide * 1.05), (Y - lower.mouth - 0.004) / 0.036)
    full = np.maximum(lip, cheek * np.clip((mouth - 1) * 3, 0, 1))
    shape = {"moustache": lip, "goatee": np.maximum(lip, chin)}.get(lower.beard, full)
    shape = shape * _edge((1.02 - level) * face.width, 3)
    thick = 0.28 if lower.beard == "stubble" else 0.85
    sheet.lay(shape * np.float32(thick * lower.dense), channels(lower.whiskers) * sheet.strands)


def _paint_worn(sheet: _Sheet, face: SimpleNamespace, mood: SimpleNamespace, rng: Rng) -> None:
    """Glasses that belong to the face, and sometimes sunglasses or a cap."""
    upper, shades = face.upper, mood.hat == "shades"
    wide, high, thick = upper.frame
    if upper.glasses != "none" or shades:
        rim = upper.rim if not shades else (0.06, 0.06, 0.06)
        thick = thick * (0.55 if upper.glasses == "thin" and not shades else 1.0)
        dx, dy = np.abs(X) - upper.eye[0] - 0.004, Y - upper.eye[1] - 0.006
        ring = ((np.abs(dx) / wide) ** 3.2 + (np.abs(dy) / high) ** 3.2) ** (1 / 3.2) - 1
        dark, glass = (0.93, (0.05, 0.05, 0.06)) if shades else (0.06, (0.9, 0.92, 0.95))
        sheet.lay(_edge(-ring * high, 1.5) * dark, glass)
        bars = np.maximum(upper.eye[0] - wide - np.abs(X), np.abs(X) - upper.eye[0] - wide) > 0
        bars = bars * _edge(thick - np.abs(dy + 0.025), 1.5) * (np.abs(X) < face.width)
        sheet.lay(np.maximum(_edge(thick - np.abs(ring) * high, 1.5), bars) * 0.9, rim)
    if mood.hat == "cap":
        brim = -0.35 + 0.6 * X * X
        cap = _edge(brim - Y, 2) * _edge((1 - np.hypot(X / (face.width + 0.06), (Y + 0.2) / 0.5)) * face.width, 2)
        sheet.lay(cap, channels(near_grey(rng, 0.08, 0.7, 0.08, 0.15)) * np.where(Y > brim - 0.05, 0.7, 1.0))


def _outline(face: SimpleNamespace, mood: SimpleNamespace) -> np.ndarray:
    """(HIGH, WIDE): 0 in the middle of the head, 1 on its outline; an ellipse above, a squarer jaw below."""
    lower, middle = face.lower, -0.08
    drop = lower.chin + 0.6 * mood.gape - middle
    below = int((middle + TOP) * GRID)
    t = np.maximum(Y[below:] - middle, 0) / drop
    narrow = np.abs(X) / (face.width * (1 - lower.taper * np.minimum(t, 1.2) ** 2))
    skull = ((np.abs(X) / face.width) ** 2.4 + (np.abs(Y[:below] - middle) / 0.57) ** 2.4) ** np.float32(1 / 2.4)
    return np.concatenate([skull, (narrow**lower.jaw + t**lower.jaw) ** (1 / lower.jaw)])


def _paint_hair(sheet: _Sheet, face: SimpleNamespace, mood: SimpleNamespace, front: bool) -> None:
    """Hair behind the head, or in front of it."""
    style, width = face.upper.style, face.width
    reach = width + style.volume * mood.tousled
    mass = np.hypot(X / reach, (Y + 0.08) / (0.56 + style.volume))
    flare = np.abs(X) / (reach * (1 + 0.12 * np.maximum(Y, 0)))
    mass = np.where(Y < -0.08, mass, flare)
    rough = sheet.ragged * np.float32(0.03 if style.jag > 0.04 else 0.008)
    inside = _edge((1 + rough - mass) * width, 2) * _edge(style.end + 2 * rough - Y, 6)
    if front:
        run = np.clip((np.abs(X) / width - style.temple) / (1.02 - style.temple), 0, 1)
        line = style.line + (style.end - style.line) * run**1.5 + face.upper.slant * X + style.jag * sheet.ragged
        line = line - style.part * np.exp(-0.5 * ((X - face.upper.parting) / 0.07) ** 2) + 0.10 * X * X
        inside = inside * _edge(line - Y, 6) * np.float32(style.thick)
    sheet.lay(inside, channels(face.upper.hair) * (sheet.strands * (1.0 if front else 0.72)))


def _paint_behind(sheet: _Sheet, face: SimpleNamespace, rng: Rng) -> None:
    """Clothes, neck and ears, in the head's shadow."""
    skin = np.array(face.skin, np.float32)
    neck = _edge(0.62 * face.width - np.abs(X) + 0.15 * np.maximum(Y - 0.4, 0), 2) * _edge(Y, 2)
    sheet.lay(neck, skin * 0.72)
    sheet.lay(_edge(Y - 0.46 + 0.25 * np.abs(np.abs(X) - 0.16), 2), near_grey(rng, 0.08, 0.85, 0.08))
    ears = np.hypot((np.abs(X) - face.width - 0.2 * face.ear) / (0.02 + face.ear), (Y + 0.10) / 0.085)
    ear = _edge((1 - ears) * 0.04, 1.5) * (1.0 if face.upper.style.end < 0.1 else 0.0)
    sheet.lay(ear, skin * np.array((0.93, 0.84, 0.82), np.float32))
    sheet.lay(ear * _line(ears, 0.55, 4) * 0.5, skin * 0.6)


def _paint_skin(sheet: _Sheet, face: SimpleNamespace, mood: SimpleNamespace, level: np.ndarray, noise: Noise) -> None:
    """The head's skin with its flush, freckles, moles, scar and wrinkles."""
    head = _edge((1 - level) * face.width, 1.5)
    own = np.random.default_rng(face.grain)
    mottle = 1 + 0.022 * crop_noise(noise.soft, own, (HIGH, WIDE)) + 0.012 * crop_noise(noise.fine, own, (HIGH, WIDE))
    tone = channels(face.skin) * mottle
    tip = face.nose[0]
    flush = _blob(0.19, 0.06, 0.07, 0.06, True) + 0.8 * _blob(0, tip, 0.045, 0.04)
    tone *= 1 - flush * (np.float32(0.04 + 0.12 * face.flush) * channels((0.1, 1, 0.9)))
    if face.freckles:
        spots = crop_noise(noise.fine, own, (HIGH, WIDE)) > 1.1
        where = _blob(0.13, 0.0, 0.10, 0.07, True) + _blob(0, -0.02, 0.05, 0.06)
        tone *= 1 - spots * where * np.float32(0.30 * face.freckles)
    for x, y, radius in face.marks:
        at, dx, dy = sheet.cut(x, y, 0.03, 0.03)
        tone[:, *at] *= 1 - 0.6 * _edge(radius - np.hypot(dx, dy), 1.5)
    if face.scar:
        at, dx, dy = sheet.cut(*face.scar[:2], 0.06, 0.06)
        tone[:, *at] *= 1 + 0.25 * _edge(0.004 - np.abs(dx - 0.4 * face.scar[2] * dy), 2) * _edge(0.045 - np.abs(dy), 3)
    age = 0.25 + 0.75 * face.age
    for y in (-0.37, -0.33, -0.29):
        rows = slice(int((y - 0.03 + TOP) * GRID), int((y + 0.05 + TOP) * GRID))  # no effect elsewhere
        crease = _line(Y[rows] - y - 0.10 * X * X, 0.006) * _line(X, 0.15, 4)
        tone[:, rows] *= 1 - crease * np.float32(0.14 * max(0.0, face.age - 0.3) * (1 + 40 * max(0.0, mood.raised)))
    rows = slice(int((tip - 0.09 + TOP) * GRID), int((tip + 0.2 + TOP) * GRID) + 1)
    slope = (np.abs(X) - 0.062 - face.nose[1] * 0.3) - 0.42 * (Y[rows] - tip) - 0.02 * mood.smile
    fold = _line(slope, 0.011) * _line(Y[rows] - tip - 0.055, 0.065, 4)
    tone[:, rows] *= 1 - fold * np.float32((0.10 + 0.12 * max(0.0, mood.smile)) * age)
    tone *= 1 - _blob(face.upper.eye[0], face.upper.eye[1] + 0.045, 0.04, 0.010, True) * np.float32(0.16 * age)
    sheet.lay(head, tone)


def _raise(sheet: _Sheet, face: SimpleNamespace, mood: SimpleNamespace, level: np.ndarray) -> None:
    """Relief for the lighting: dome, eye sockets, brow ridge, nose, cheeks, lips, chin."""
    (tip, wing, ridge), (eye_x, eye_y), lower = face.nose, face.upper.eye, face.lower
    relief = sheet.relief
    relief += np.float32(0.30) * np.sqrt(np.maximum(1 - 0.86 * np.minimum(level, 1) ** 2, 0.02))
    relief -= (0.022 + 0.018 * face.upper.deep) * _blob(eye_x - 0.02, eye_y - 0.005, 0.055, 0.032, True)
    relief += 0.016 * _blob(eye_x, eye_y - 0.085, 0.09, 0.030, True)
    relief += 0.040 * face.tip * _blob(face.bend, tip - 0.09, ridge, 0.080)
    relief += 0.044 * face.tip * _blob(face.bend * 1.5, tip - 0.004, wing * 0.66, 0.032)
    relief += 0.020 * _blob(wing * 0.85, tip + 0.012, 0.018, 0.018, True)
    relief += (0.018 + 0.012 * face.cheek + 0.014 * max(0.0, mood.smile)) * _blob(0.19, 0.03, 0.065, 0.055, True)
    relief += 0.016 * _blob(0, lower.mouth, lower.wide * 0.8, 0.05)
    relief -= 0.012 * _blob(0, lower.mouth + 0.055, 0.07, 0.016)
    relief += 0.020 * _blob(0, lower.chin - 0.06, 0.06, 0.035)
    relief -= 0.012 * lower.cleft * _blob(0, lower.chin - 0.05, 0.012, 0.025)


def _turn(sheet: np.ndarray, face: SimpleNamespace, mood: SimpleNamespace, size: int) -> list[np.ndarray]:
    """Picture (3, size, size) of a sheet (HIGH, WIDE, 4) under a pose, and the share of each pixel that it covers."""
    steps = (np.arange(size, dtype=np.float32) + 0.5) / size
    px, py = steps[None] - MIDDLE[0] - mood.shift[0], steps[:, None] - MIDDLE[1] - mood.shift[1]
    c, s = np.float32(cos(mood.roll) / mood.scale), np.float32(sin(mood.roll) / mood.scale)
    sx, sy = c * px + s * py, c * py - s * px
    x, y = sx, sy
    for _ in range(3):  # fixed point: the place on the sheet that this pixel shows; the depth is smooth enough
        dome = np.maximum(DOME * (1 - 0.75 * (x / 0.36) ** 2 - 0.55 * ((y + 0.02) / 0.42) ** 2), -0.12)
        nose = np.exp(-((x / 0.055) ** 2) - ((y - face.nose[0] + 0.03) / 0.07) ** 2)
        depth = dome + 0.065 * np.float32(face.tip) * nose - np.float32(EYES_DEPTH * AXIS)
        x = (sx - depth * np.float32(sin(mood.yaw))) / np.float32(cos(mood.yaw))
        y = (sy - depth * np.float32(sin(mood.pitch))) / np.float32(cos(mood.pitch))
    u = np.clip((x + LEFT) * GRID - 0.5, 0, WIDE - 1.001)
    v = np.clip((y + TOP) * GRID - 0.5, 0, HIGH - 1.001)
    i, j = v.astype(np.intp), u.astype(np.intp)
    fv, fu = (v - i)[..., None].astype(np.float32), (u - j)[..., None].astype(np.float32)
    a, b, c, d = (sheet.reshape(-1, 4).take(i * WIDE + j + step, 0) for step in (0, 1, WIDE, WIDE + 1))
    above, below = a + fu * (b - a), c + fu * (d - c)
    mixed = (above + fv * (below - above)).transpose(2, 0, 1)
    return [mixed[:3], mixed[3]]


def paint_face(face: SimpleNamespace, mood: SimpleNamespace, noise: Noise, rng: Rng, size: int) -> list[np.ndarray]:
    """Picture (3, size, size) of a face in a mood, and the share of each pixel that the face covers."""
    sheet = _Sheet(noise, rng)
    level = _outline(face, mood)
    if face.upper.style.volume:
        _paint_hair(sheet, face, mood, False)
    _paint_behind(sheet, face, rng)
    _paint_skin(sheet, face, mood, level, noise)
    _raise(sheet, face, mood, level)
    _paint_nose(sheet, face)
    _paint_beard(sheet, face, level)
    _paint_mouth(sheet, face, mood)
    for side in (-1, 1):
        _paint_eye(sheet, face, mood, side)
    _paint_hair(sheet, face, mood, True)
    _paint_worn(sheet, face, mood, rng)
    down, across = np.gradient(sheet.relief, np.float32(1 / GRID))
    right, below, near = np.array(mood.light) / hypot(*mood.light)
    facing = np.float32(near) - np.float32(right) * across - np.float32(below) * down
    facing = np.maximum(facing / np.sqrt(1 + across**2 + down**2), 0)
    lit = np.float32(mood.ambient) + np.float32(1.15 * (1 - mood.ambient)) * facing
    gloss = np.float32(0.05) * facing**12 * (level < 1)
    pixels = sheet.colour * (lit * channels(mood.tint)) + gloss
    return _turn(np.concatenate([pixels, sheet.cover[None]]).transpose(1, 2, 0), face, mood, size)
