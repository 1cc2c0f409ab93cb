"""A walking pose in three dimensions, and the parts of a dressed body on the screen.

Lengths are in body heights. A joint is (to the person's left, down from the head's top, out of the chest); turning by
`yaw` and projecting gives the screen's x and y and a depth that grows towards the camera.
"""

from dataclasses import replace
from math import cos, pi, sin
from types import SimpleNamespace

import numpy as np

from .looks import Cloth, Rng
from .paint import Canvas, Part, Point, paint

Joint = tuple[float, float, float]

# Proportions of an adult, rounded from common anthropometric tables (shares of stature).
HEAD, NECK, SHOULDER, HIP = 0.066, 0.145, 0.208, 0.505
SHOULDER_HALF, HIP_HALF = 0.092, 0.044
UPPER_ARM, FOREARM, THIGH, SHIN, FOOT = 0.165, 0.150, 0.235, 0.225, 0.085
# Half-widths seen from the front and from the side, neck to hip.
TORSO_WIDE = np.array([0.040, 0.108, 0.113, 0.108, 0.101, 0.094, 0.090, 0.095, 0.098])
TORSO_DEEP = np.array([0.036, 0.054, 0.066, 0.070, 0.068, 0.064, 0.064, 0.070, 0.070])
TORSO_TOP, TORSO_END = 0.152, 0.56
ABOVE = 0.55  # maximum enlargement of the head relative to the feet by a camera above the heads; a choice
CAMERA_TILT = 0.08  # a point one body height nearer to the camera lies this much lower in the picture
HAIRLINES = {"short": 0.30, "long": 0.28, "bun": 0.28, "bald": -1.0, "cap": 0.38}  # shares of the head's height


def draw_pose(rng: Rng) -> SimpleNamespace:
    """A moment of a walk, seen from the front, the back or a side, each with a turn of up to some 25 degrees.

    Angles are in radians; pairs are of the left and the right limb.
    """
    yaw = float(rng.choice([0.0, pi, pi / 2, -pi / 2], p=[0.31, 0.31, 0.19, 0.19]) + rng.normal(0, 0.22))
    swing, stride = sin(2 * pi * rng.random()), rng.uniform(0.05, 0.40)
    legs = (stride * swing, -stride * swing)
    return SimpleNamespace(
        yaw=yaw,
        legs=legs,  # thighs, forward of straight down
        knees=tuple(rng.uniform(0.02, 0.12) + 0.9 * max(0.0, -leg) for leg in legs),
        arms=tuple(-rng.uniform(0.5, 1.1) * leg + rng.normal(0, 0.06) for leg in legs),
        elbows=tuple(float(rng.choice([rng.uniform(0.1, 0.5), rng.uniform(1.7, 2.4)], p=[0.9, 0.1])) for _ in legs),
        spread=rng.uniform(0.06, 0.22),  # arms away from the body
        lean=rng.normal(0, 0.012),
        nod=rng.normal(0, 0.006),  # the head's shift to the picture's right
    )


def project(joint: Joint, yaw: float) -> tuple[Point, float]:
    """Screen position and depth of a joint."""
    depth = joint[2] * cos(yaw) - joint[0] * sin(yaw)
    return (joint[0] * cos(yaw) + joint[2] * sin(yaw), joint[1] + CAMERA_TILT * depth), depth


def step(start: Joint, angle: float, length: float, spread: float = 0.0) -> Joint:
    """The joint `length` further on, `angle` forward of straight down and `spread` sideways."""
    x, y, z = start
    return x + length * sin(spread), y + length * cos(angle) * cos(spread), z + length * sin(angle)


def leg_parts(looks: SimpleNamespace, pose: SimpleNamespace, side: int) -> list[Part]:
    """Thigh, shin and shoe of the left (0) or right (1) leg; trousers end at the hem, skin follows."""
    lower, sign = looks.lower, (1, -1)[side]
    hip = (sign * HIP_HALF * looks.build, HIP, 0.0)
    knee = step(hip, pose.legs[side], THIGH)
    ankle = step(knee, pose.legs[side] - pose.knees[side], SHIN)
    heel, toe = (ankle[0], ankle[1] + 0.018, ankle[2] - 0.015), (ankle[0], ankle[1] + 0.026, ankle[2] + FOOT)
    (h, dh), (k, _), (a, da), (f, _), (t, _) = (project(j, pose.yaw) for j in (hip, knee, ankle, heel, toe))
    t = (t[0] + 0.012 * sign * cos(pose.yaw), t[1])
    width = looks.build * lower.loose
    cloth, hem = (looks.skin, 0.0) if lower.skirt else (lower.cloth, lower.hem)
    bare_width = looks.build if lower.skirt else width
    depth = -1.0 + 0.5 * (dh + da)
    thigh = Part(depth, h, k, (0.052 * bare_width, 0.048 * bare_width, 0.038 * bare_width), cloth, dim=0.88)
    shin_radii = (0.037, 0.036, 0.029) if hem > 0.9 else (0.036 / lower.loose, 0.036 / lower.loose, 0.022)
    radii, end = tuple(r * bare_width for r in shin_radii), hem - HIP - THIGH
    shin = Part(depth + 0.001, k, a, radii, cloth, cap=0.6, cover=end, bare=looks.skin, dim=0.92)
    shoe = Part(depth + (0.002 if cos(pose.yaw) > 0 else -0.002), f, t, (0.023, 0.024, 0.019), looks.shoes)
    return [thigh, shin, shoe]


def arm_parts(looks: SimpleNamespace, pose: SimpleNamespace, side: int) -> list[Part]:
    """Upper arm, forearm and hand; the sleeve covers its share of the arm."""
    sign = (1, -1)[side]
    shoulder = (sign * SHOULDER_HALF * looks.build, SHOULDER, 0.0)
    elbow = step(shoulder, pose.arms[side], UPPER_ARM, sign * pose.spread)
    wrist = step(elbow, pose.arms[side] + pose.elbows[side], FOREARM, -sign * pose.spread * 0.3)
    hand = step(wrist, pose.arms[side] + pose.elbows[side], 0.045)
    (s, _), (e, depth), (w, _), (g, _) = (project(j, pose.yaw) for j in (shoulder, elbow, wrist, hand))
    cut = looks.upper.sleeve * (UPPER_ARM + FOREARM)
    wide = 0.6 * looks.build + 0.4 * looks.upper.loose if looks.upper.sleeve > 0.9 else looks.build
    cloth = looks.upper.cloth
    if cloth.pattern in ("jacket", "print", "yoke"):
        cloth = replace(cloth, pattern="plain")
    upper = Part(depth, s, e, (0.029 * wide, 0.034 * wide, 0.028 * wide), cloth, cover=cut, bare=looks.skin)
    lower = Part(depth + 0.001, e, w, (0.028 * wide, 0.020 * wide), cloth, cover=cut - UPPER_ARM, bare=looks.skin)
    fist = Part(depth + 0.0005, w, g, (0.017, 0.019, 0.012), looks.skin)
    return [fist, upper, lower]


def trunk_parts(looks: SimpleNamespace, pose: SimpleNamespace) -> list[Part]:
    """Torso with its garment, and below it a skirt or the seat of the trousers."""
    upper, lower, facing = looks.upper, looks.lower, abs(cos(pose.yaw))
    radii = looks.build * np.sqrt((TORSO_WIDE * facing) ** 2 + (TORSO_DEEP * (1 - facing**2) ** 0.5) ** 2)
    radii[2:] *= 0.5 + 0.5 * upper.loose
    seat = radii[-1] * 0.98
    if lower.skirt:
        flare = seat * (0.85 + 0.35 * lower.loose)
        below = Part(-0.3, (0, 0.47), (0, lower.hem), (seat * 0.9, seat, flare), lower.cloth, cap=0.12)
    else:
        below = Part(-0.4, (0, 0.45), (0, HIP + 0.045), (seat * 0.9, seat), lower.cloth, cap=0.35, dim=0.9)
    longer = max(0.0, upper.hem - TORSO_END)
    knots = np.interp(np.linspace(TORSO_TOP, upper.hem, 14), np.linspace(TORSO_TOP, TORSO_END, len(radii)), radii)
    knots *= 1 + 0.6 * longer * np.linspace(0, 1, 14) ** 2
    torso = Part(0.0, (pose.lean, TORSO_TOP), (0, upper.hem), tuple(knots.tolist()), upper.cloth, cap=0.15)
    if looks.bag != "none":
        strap = "straps" if looks.bag == "backpack" else "sling"
        torso = replace(torso, strap=replace(looks.bag_cloth, pattern=strap))
    top, end = (pose.lean + pose.nod, 0.10), (pose.lean, NECK + 0.02)
    throat = Part(-0.05, top, end, (0.026, 0.033), looks.skin, dim=0.82)
    return [below, torso, throat]


def head_parts(looks: SimpleNamespace, pose: SimpleNamespace) -> list[Part]:
    """Head with hair or cap, and long hair or a bun."""
    x, forward, facing = pose.lean + pose.nod, sin(pose.yaw), cos(pose.yaw)
    skin, line = looks.skin, HAIRLINES[looks.hair]
    hair = Cloth(skin.colour, looks.hair_cloth.colour, "head", line, 0.05, 0.05, skin.phase)
    centre = x + 0.012 * forward
    radii = (0.026, 0.042, 0.047, 0.048, 0.046, 0.039, 0.028)
    parts = [Part(0.02, (centre, 0.012), (centre, 2 * HEAD - 0.010), radii, hair, cap=0.45)]
    if looks.hair == "long":
        fall = 0.235 + 0.05 * looks.build * (looks.hair_cloth.phase - 0.5)
        top, end = (x - 0.010 * forward, 0.035), (x - 0.026 * forward, fall)
        width = 0.056 - 0.018 * abs(forward)
        fringe = (0.044, width, width + 0.004, width + 0.002, width - 0.014)
        parts.append(Part(-0.06 if facing > 0.25 else 0.03, top, end, fringe, looks.hair_cloth, cap=0.5))
    elif looks.hair == "bun":
        knot = (x - 0.050 * forward, 0.020 if facing > 0 else 0.035)
        parts.append(Part(0.03 * -facing + 0.02, knot, (knot[0], knot[1] + 0.012), (0.022, 0.022), looks.hair_cloth))
    elif looks.hair == "cap":
        start, end = (x + 0.055 * forward - 0.03 * abs(facing), 0.047), (x + 0.075 * forward + 0.03, 0.050)
        parts.append(Part(0.03 * facing + 0.01, start, end, (0.008, 0.008), looks.hair_cloth, dim=0.8))
    return parts


def bag_parts(looks: SimpleNamespace, pose: SimpleNamespace) -> list[Part]:
    """A backpack behind the chest, or a bag at the left hip."""
    if looks.bag == "none":
        return []
    size = 0.9 + 0.3 * looks.bag_cloth.phase
    if looks.bag == "backpack":
        (x, _), depth = project((0, 0, -0.105 * looks.build), pose.yaw)
        half = size * (0.078 * abs(cos(pose.yaw)) + 0.048 * abs(sin(pose.yaw)))
        top, end, radii = 0.235, 0.235 + 0.16 * size, (half * 0.85, half, half, half * 0.92)
    else:
        (x, _), depth = project((0.135 * looks.build, 0, 0.0), pose.yaw)
        half = size * (0.040 * abs(cos(pose.yaw)) + 0.068 * abs(sin(pose.yaw)))
        top, end, radii, depth = 0.50, 0.50 + 0.09 * size, (half, half * 1.05), depth + 0.02
    return [Part(depth, (x, top), (x, end), radii, looks.bag_cloth, cap=0.3)]


def _from_above(part: Part, above: float) -> Part:
    """A part seen by a camera above the heads: larger near the head, smaller near the feet, which stay in place."""
    p, q = ((x * (1 + above * (0.5 - y)), y * (1 + above / 2) - above * y * y / 2) for x, y in (part.p, part.q))
    radii = part.radii * (1 + above * (0.5 - np.linspace(part.p[1], part.q[1], len(part.radii))))
    return replace(part, p=p, q=q, radii=tuple(radii.tolist()))


def draw_figure(canvas: Canvas, looks: SimpleNamespace, pose: SimpleNamespace, above: float) -> None:
    """Paint the person, the parts farthest from the camera first; the lower sole stands on y = 1.

    `above`: how much larger the head appears than the feet, for a camera above the heads.
    """
    parts = [*trunk_parts(looks, pose), *head_parts(looks, pose), *bag_parts(looks, pose)]
    for side in (0, 1):
        parts += [*leg_parts(looks, pose, side), *arm_parts(looks, pose, side)]
    parts = [replace(_from_above(part, above), yaw=pose.yaw) for part in parts]
    lowest = max(part.p[1] for part in parts) + 0.02
    ground = replace(canvas, ys=canvas.ys - np.float32(1 - lowest))
    for part in sorted(parts, key=lambda part: part.depth):
        paint(ground, part)
