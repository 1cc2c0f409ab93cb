"""Painting of a face: hair, clothes, skin and parts on a frontal sheet, and the light on its relief."""

from math import hypot
from types import SimpleNamespace

import numpy as np

from .face_parts import Sheet, X, Y, blob, edge, paint_beard, paint_eye, paint_mouth, paint_nose, paint_worn, pair
from .face_pose import GRID, HIGH, TOP, WIDE
from .looks import Rng, channels, near_grey
from .paint import Noise
from .scene import crop_noise


def _outline(face: SimpleNamespace, mood: SimpleNamespace) -> np.ndarray:
    """(HIGH, WIDE): 0 in the middle of the head, 1 on its outline; an ellipse above, a squarer jaw below."""
    lower, middle = face.lower, -0.08
    drop = lower.chin + 0.6 * mood.gape - middle
    below = int((middle + TOP) * GRID)
    t = np.maximum(Y[below:] - middle, 0) / drop
    narrow = np.abs(X) / (face.width * (1 - lower.taper * np.minimum(t, 1.2) ** 2))
    skull = ((np.abs(X) / face.width) ** 2.4 + (np.abs(Y[:below] - middle) / 0.57) ** 2.4) ** np.float32(1 / 2.4)
    return np.concatenate([skull, (narrow**lower.jaw + t**lower.jaw) ** (1 / lower.jaw)])


def _paint_hair(sheet: Sheet, face: SimpleNamespace, mood: SimpleNamespace, front: bool) -> None:
    """Hair behind the head, or in front of it."""
    style, width = face.upper.style, face.width
    reach = width + style.volume * mood.tousled
    mass = np.hypot(X / reach, (Y + 0.08) / (0.56 + style.volume))
    flare = np.abs(X) / (reach * (1 + 0.12 * np.maximum(Y, 0)))
    mass = np.where(Y < -0.08, mass, flare)
    rough = sheet.ragged * np.float32(0.03 if style.jag > 0.04 else 0.008)
    inside = edge((1 + rough - mass) * width, 2) * edge(style.end + 2 * rough - Y, 6)
    if front:
        run = np.clip((np.abs(X) / width - style.temple) / (1.02 - style.temple), 0, 1)
        line = style.line + (style.end - style.line) * run**1.5 + face.upper.slant * X + style.jag * sheet.ragged
        line = line - style.part * np.exp(-0.5 * ((X - face.upper.parting) / 0.07) ** 2) + 0.10 * X * X
        inside = inside * edge(line - Y, 6) * np.float32(style.thick)
    shade = sheet.strands * (1.0 if front else 0.72)
    sheet.lay(inside, channels(face.upper.hair) * shade)


def _paint_behind(sheet: Sheet, face: SimpleNamespace, rng: Rng) -> None:
    """Clothes, neck and ears, in the head's shadow."""
    skin = np.array(face.skin, np.float32)
    neck = edge(0.62 * face.width - np.abs(X) + 0.15 * np.maximum(Y - 0.4, 0), 2) * edge(Y, 2)
    sheet.lay(neck, skin * 0.72)
    cloth = near_grey(rng, 0.08, 0.85, 0.08)
    collar = edge(Y - 0.46 + 0.25 * np.abs(np.abs(X) - 0.16), 2)
    sheet.lay(collar, cloth)
    ears = np.hypot((np.abs(X) - face.width - 0.2 * face.ear) / (0.02 + face.ear), (Y + 0.10) / 0.085)
    ear = edge((1 - ears) * 0.04, 1.5) * (1.0 if face.upper.style.end < 0.1 else 0.0)
    sheet.lay(ear, skin * np.array((0.93, 0.84, 0.82), np.float32))
    sheet.lay(ear * np.exp(-((ears / 0.55) ** 4)) * 0.5, skin * 0.6)


def _paint_skin(sheet: Sheet, face: SimpleNamespace, mood: SimpleNamespace, level: np.ndarray, noise: Noise) -> None:
    """The head's skin with its flush, freckles, moles, scar and wrinkles."""
    head = edge((1 - level) * face.width, 1.5)
    own = np.random.default_rng(face.grain)
    mottle = 1 + 0.022 * crop_noise(noise.soft, own, (HIGH, WIDE)) + 0.012 * crop_noise(noise.fine, own, (HIGH, WIDE))
    tone = channels(face.skin) * mottle
    tip = face.nose[0]
    flush = pair(0.19, 0.06, 0.07, 0.06) + 0.8 * blob(0, tip, 0.045, 0.04)
    tone *= 1 - flush * (np.float32(0.04 + 0.12 * face.flush) * channels((0.1, 1, 0.9)))
    if face.freckles:
        spots = crop_noise(noise.fine, own, (HIGH, WIDE)) > 1.1
        where = pair(0.13, 0.0, 0.10, 0.07) + blob(0, -0.02, 0.05, 0.06)
        tone *= 1 - spots * where * np.float32(0.30 * face.freckles)
    for x, y, radius in face.marks:
        at, dx, dy = sheet.cut(x, y, 0.03, 0.03)
        tone[:, *at] *= 1 - 0.6 * edge(radius - np.hypot(dx, dy), 1.5)
    if face.scar:
        at, dx, dy = sheet.cut(*face.scar[:2], 0.06, 0.06)
        along, aside = dy, dx - 0.4 * face.scar[2] * dy
        tone[:, *at] *= 1 + 0.25 * edge(0.004 - np.abs(aside), 2) * edge(0.045 - np.abs(along), 3)
    age = 0.25 + 0.75 * face.age
    for y in (-0.37, -0.33, -0.29):
        rows = slice(int((y - 0.03 + TOP) * GRID), int((y + 0.05 + TOP) * GRID))  # elsewhere nothing changes
        crease = np.exp(-(((Y[rows] - y - 0.10 * X * X) / 0.006) ** 2)) * np.exp(-((X / 0.15) ** 4))
        tone[:, rows] *= 1 - crease * np.float32(0.14 * max(0.0, face.age - 0.3) * (1 + 40 * max(0.0, mood.raised)))
    rows = slice(int((tip - 0.09 + TOP) * GRID), int((tip + 0.2 + TOP) * GRID) + 1)
    slope = (np.abs(X) - 0.062 - face.nose[1] * 0.3) - 0.42 * (Y[rows] - tip) - 0.02 * mood.smile
    fold = np.exp(-((slope / 0.011) ** 2)) * np.exp(-(((Y[rows] - tip - 0.055) / 0.065) ** 4))
    tone[:, rows] *= 1 - fold * np.float32((0.10 + 0.12 * max(0.0, mood.smile)) * age)
    bags = pair(face.upper.eye[0], face.upper.eye[1] + 0.045, 0.04, 0.010)
    tone *= 1 - bags * np.float32(0.16 * age)
    sheet.lay(head, tone)


def _raise(sheet: Sheet, face: SimpleNamespace, mood: SimpleNamespace, level: np.ndarray) -> None:
    """Relief for the lighting: dome, eye sockets, brow ridge, nose, cheeks, lips, chin."""
    (tip, wing, ridge), (eye_x, eye_y), lower = face.nose, face.upper.eye, face.lower
    relief = sheet.relief
    relief += np.float32(0.30) * np.sqrt(np.maximum(1 - 0.86 * np.minimum(level, 1) ** 2, 0.02))
    relief -= (0.022 + 0.018 * face.upper.deep) * pair(eye_x - 0.02, eye_y - 0.005, 0.055, 0.032)
    relief += 0.016 * pair(eye_x, eye_y - 0.085, 0.09, 0.030)
    relief += 0.040 * face.tip * blob(face.bend, tip - 0.09, ridge, 0.080)
    relief += 0.044 * face.tip * blob(face.bend * 1.5, tip - 0.004, wing * 0.66, 0.032)
    relief += 0.020 * pair(wing * 0.85, tip + 0.012, 0.018, 0.018)
    relief += (0.018 + 0.012 * face.cheek + 0.014 * max(0.0, mood.smile)) * pair(0.19, 0.03, 0.065, 0.055)
    relief += 0.016 * blob(0, lower.mouth, lower.wide * 0.8, 0.05)
    relief -= 0.012 * blob(0, lower.mouth + 0.055, 0.07, 0.016)
    relief += 0.020 * blob(0, lower.chin - 0.06, 0.06, 0.035)
    relief -= 0.012 * lower.cleft * blob(0, lower.chin - 0.05, 0.012, 0.025)


def paint_face(face: SimpleNamespace, mood: SimpleNamespace, noise: Noise, rng: Rng) -> np.ndarray:
    """The lit sheet, (HIGH, WIDE, 4): colours and cover."""
    sheet = Sheet(noise, rng)
    level = _outline(face, mood)
    if face.upper.style.volume:
        _paint_hair(sheet, face, mood, False)
    _paint_behind(sheet, face, rng)
    _paint_skin(sheet, face, mood, level, noise)
    _raise(sheet, face, mood, level)
    paint_nose(sheet, face)
    paint_beard(sheet, face, level)
    paint_mouth(sheet, face, mood)
    for side in (-1, 1):
        paint_eye(sheet, face, mood, side)
    _paint_hair(sheet, face, mood, True)
    paint_worn(sheet, face, mood, rng)
    down, across = np.gradient(sheet.relief, np.float32(1 / GRID))
    right, below, near = np.array(mood.light) / hypot(*mood.light)
    facing = (np.float32(near) - np.float32(right) * across - np.float32(below) * down) / np.sqrt(
        1 + across**2 + down**2
    )
    lit = np.float32(mood.ambient) + np.float32(1.15 * (1 - mood.ambient)) * np.maximum(facing, 0)
    gloss = np.float32(0.05) * np.maximum(facing, 0) ** 12 * (level < 1)
    pixels = sheet.colour * (lit * channels(mood.tint)) + gloss
    return np.concatenate([pixels, sheet.cover[None]]).transpose(1, 2, 0)
