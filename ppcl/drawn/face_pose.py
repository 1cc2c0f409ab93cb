"""Pose, expression and light of a drawn face, and the projection of the painted sheet into a picture.

A face is painted frontally on a sheet with the coordinates of `face_looks`: one unit is the side of an aligned picture,
and depth points to the camera in the same unit. All shapes stay axis-aligned and cheap; for every pixel of the picture,
`turn` looks up the visible point of the sheet under the head's pose.
"""

from math import cos, sin
from types import SimpleNamespace

import numpy as np

from .looks import Rng

GRID = 120  # pixels of the sheet to a unit
LEFT, TOP, WIDE, HIGH = 0.62, 0.70, 149, 144  # the sheet reaches this far left and up; pixels across and down
MIDDLE = (0.5, 0.62)  # where the origin lies in an aligned picture
FRAME = (0.66, 0.80)  # width and height of the frame fixed to the face, upright: the cheeks, and brow to chin
DOME = 0.26  # depth of the head from its edge to its middle
EYES_DEPTH = 0.235  # mean depth of eyes, nose and mouth, by which the frame follows a turning head
AXIS = 0.6  # where a head turns about, as a share of that: aligners hold the features nearly in place


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
        open=float(np.clip(rng.normal(1.0, 0.18), 0.5, 1.3)) if rng.random() > 0.04 else 0.1,  # eyes
        gaze=(rng.normal(0, 0.012), rng.normal(0, 0.003)),
        light=(side, rng.normal(-0.45, 0.3), 0.9),  # direction to it: right, down, to the camera
        ambient=rng.uniform(0.5, 0.8),  # share of the light that has no direction
        tint=tuple(np.exp(rng.normal(0, 0.008, 3)).tolist()),  # the light's colour
        tousled=rng.uniform(0.85, 1.15),  # factor on how far the hair stands out
        hat=str(rng.choice(["none", "cap", "shades"], p=[0.95, 0.03, 0.02])),
    )


def _depth(x: np.ndarray, y: np.ndarray, face: SimpleNamespace) -> np.ndarray:
    """Depth of the head at points of the sheet, smooth enough that a turned head never folds."""
    dome = np.maximum(DOME * (1 - 0.75 * (x / 0.36) ** 2 - 0.55 * ((y + 0.02) / 0.42) ** 2), -0.12)
    tip = face.nose[0]
    return dome + 0.065 * np.float32(face.tip) * np.exp(-((x / 0.055) ** 2) - ((y - tip + 0.03) / 0.07) ** 2)


def turn(sheet: np.ndarray, face: SimpleNamespace, mood: SimpleNamespace, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture (3, side, side) of a sheet under a pose, and the share of each pixel that the face covers."""
    steps = (np.arange(side, dtype=np.float32) + 0.5) / side
    px, py = steps[None] - MIDDLE[0] - mood.shift[0], steps[:, None] - MIDDLE[1] - mood.shift[1]
    c, s = np.float32(cos(mood.roll) / mood.scale), np.float32(sin(mood.roll) / mood.scale)
    sx, sy = c * px + s * py, c * py - s * px
    x, y = sx, sy
    for _ in range(3):
        depth = _depth(x, y, face) - np.float32(EYES_DEPTH * AXIS)
        x = (sx - depth * np.float32(sin(mood.yaw))) / np.float32(cos(mood.yaw))
        y = (sy - depth * np.float32(sin(mood.pitch))) / np.float32(cos(mood.pitch))
    u = np.clip((x + LEFT) * GRID - 0.5, 0, WIDE - 1.001)
    v = np.clip((y + TOP) * GRID - 0.5, 0, HIGH - 1.001)
    i, j = v.astype(np.intp), u.astype(np.intp)
    fv, fu = (v - i)[..., None].astype(np.float32), (u - j)[..., None].astype(np.float32)
    flat, k = sheet.reshape(-1, 4), i * WIDE + j
    rows = []
    for first in (k, k + WIDE):
        left = flat.take(first, 0)
        rows.append(left + fu * (flat.take(first + 1, 0) - left))
    mixed = (rows[0] + fv * (rows[1] - rows[0])).transpose(2, 0, 1)
    return mixed[:3], mixed[3]


def frame_of(mood: SimpleNamespace) -> tuple[float, float, float, float]:
    """Centre, width and height, in shares of the picture, of the frame that moves with the face."""
    near = EYES_DEPTH * (1 - AXIS)
    x, y = near * sin(mood.yaw), near * sin(mood.pitch)
    x, y = cos(mood.roll) * x - sin(mood.roll) * y, sin(mood.roll) * x + cos(mood.roll) * y
    centre = (MIDDLE[0] + mood.shift[0] + mood.scale * x, MIDDLE[1] + mood.shift[1] + mood.scale * y)
    return (*centre, FRAME[0] * mood.scale * cos(mood.yaw), FRAME[1] * mood.scale * cos(mood.pitch))
