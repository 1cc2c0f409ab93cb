"""Identity of a drawn face, the same in all its pictures: shape, eyes, nose, mouth, hair, skin and marks.

Lengths are shares of the side of an aligned picture. The origin lies in the middle between eyes and mouth, x runs to
the right and y down, so that the eyes are about y = -0.165, the mouth 0.165 and the chin 0.345. Colours are sRGB in
0..1. Means, deviations and shares are choices, made by eye after faces aligned as usual.
"""

from collections import namedtuple
from functools import lru_cache
from types import SimpleNamespace

import numpy as np

from .looks import HAIR_COLOURS, SKINS, Colour, Rng, pick, vary

IRISES: tuple[Colour, ...] = ((0.20, 0.12, 0.07), (0.30, 0.20, 0.11), (0.30, 0.36, 0.25), (0.33, 0.43, 0.52))
GREYS: tuple[Colour, ...] = ((0.55, 0.54, 0.52), (0.78, 0.77, 0.75))
SPREAD = 1.6  # factor on the deviations of shapes: how far people differ, so that a small network can distinguish them
GLASSES = {"none": 0.82, "thin": 0.07, "dark": 0.11}
BEARDS = {"none": 0.52, "stubble": 0.20, "moustache": 0.08, "goatee": 0.08, "full": 0.12}


# A way to wear hair: its share among men and among women, how far it stands out from the head, y of the hairline above
# the nose, where the hairline turns down (a share of the head's half-width), y at which the hair ends beside the face,
# unevenness of the hairline, how far it rises at the parting, and how much of the skin the hair hides.
Style = namedtuple("Style", "share volume line temple end jag part thick", defaults=(1.0,))
STYLES = {
    "bald": Style((0.09, 0.0), 0.0, -0.62, 0.97, -0.15, 0.0, 0.0, 0.8),
    "shorn": Style((0.17, 0.02), 0.015, -0.46, 0.84, -0.10, 0.01, 0.01, 0.75),
    "short": Style((0.36, 0.08), 0.05, -0.45, 0.85, -0.10, 0.025, 0.02),
    "parted": Style((0.20, 0.06), 0.06, -0.43, 0.82, -0.08, 0.015, 0.08),
    "fringe": Style((0.10, 0.15), 0.06, -0.32, 0.86, -0.02, 0.03, 0.0),
    "curly": Style((0.05, 0.12), 0.13, -0.42, 0.80, 0.12, 0.05, 0.02),
    "tied": Style((0.01, 0.17), 0.02, -0.45, 0.88, -0.14, 0.008, 0.03),
    "bob": Style((0.01, 0.15), 0.09, -0.41, 0.74, 0.20, 0.015, 0.08),
    "long": Style((0.01, 0.25), 0.08, -0.42, 0.76, 0.90, 0.015, 0.09),
}


def _about(rng: Rng, mean: float, spread: float) -> float:
    """Draw a normal value, at most two deviations from the mean, so that no single feature identifies a face."""
    return float(mean + SPREAD * spread * np.clip(rng.normal(), -2, 2))


def _draw_upper(rng: Rng, woman: bool, hair: Colour) -> SimpleNamespace:
    """The upper face: eyes, brows, hair and glasses."""
    style = STYLES[pick(rng, {name: style.share[woman] for name, style in STYLES.items()})]
    style = style._replace(line=_about(rng, style.line, 0.022), volume=style.volume * rng.uniform(0.7, 1.4))
    return SimpleNamespace(
        style=style,
        hair=hair,
        eye=(_about(rng, 0.157, 0.009), _about(rng, -0.165, 0.006)),  # x and y of the right one on the picture
        size=(_about(rng, 0.072, 0.005), _about(rng, 0.028, 0.005)),  # half-width, half-height when open
        tilt=_about(rng, -0.02, 0.09),  # slope; positive: the outer corners hang
        iris=vary(rng, IRISES[int(rng.choice(4, p=[0.45, 0.25, 0.12, 0.18]))], 0.15, 0.02),
        radius=_about(rng, 0.029, 0.0015),  # of the iris
        lid=rng.uniform(0, 1),  # how heavy the crease above the eye is
        deep=rng.uniform(0, 1),  # how deep the eyes lie
        # height above the eye, length, half-thickness
        brow=(_about(rng, 0.072, 0.010), _about(rng, 0.150, 0.013), _about(rng, 0.010 if woman else 0.0145, 0.003)),
        angle=_about(rng, 0.0, 0.10),  # slope of the brows
        arch=_about(rng, 0.018, 0.009),  # rise of their middle
        bushy=rng.uniform(0.5, 0.95),  # how much of the skin they hide
        parting=float(rng.choice([-1, 1])) * rng.uniform(0.02, 0.16),  # x
        slant=_about(rng, 0, 0.08),  # slope of the hairline
        glasses=pick(rng, GLASSES),
        # half-width, half-height and half-thickness of the glasses
        frame=(_about(rng, 0.105, 0.009), _about(rng, 0.068, 0.011), rng.uniform(0.005, 0.010)),
        rim=vary(rng, (0.10, 0.08, 0.08) if rng.random() < 0.7 else (0.40, 0.24, 0.13), 0.2),
    )


def _draw_lower(rng: Rng, woman: bool, hair: Colour, skin: Colour) -> SimpleNamespace:
    """The lower face: mouth, jaw, chin and beard."""
    painted = (0.06, -0.05, -0.03) if woman and rng.random() < 0.5 else (0, 0, 0)
    lip = np.multiply(skin, (0.86, 0.62, 0.62)) + painted
    return SimpleNamespace(
        mouth=_about(rng, 0.165, 0.009),  # y
        wide=_about(rng, 0.120, 0.012),  # half-width
        lips=(_about(rng, 0.025, 0.006), _about(rng, 0.034, 0.006)),  # thickness of the upper and the lower one
        bow=rng.uniform(0.0, 0.5),  # depth of the notch of the upper lip
        sag=_about(rng, 0.0, 0.006),  # how far the corners hang
        lip=vary(rng, tuple(lip.tolist()), 0.10, 0.03),
        chin=_about(rng, 0.335 if woman else 0.35, 0.013),  # y
        jaw=_about(rng, 2.2 if woman else 2.5, 0.22),  # squareness: the exponent of the outline
        taper=_about(rng, 0.20, 0.07),  # how much the jaw narrows
        cleft=max(0.0, rng.uniform(-1.5, 1)),  # of the chin
        beard="none" if woman else pick(rng, BEARDS),
        dense=rng.uniform(0.6, 1.0),
        whiskers=vary(rng, hair, 0.15),
    )


def draw_face_looks(rng: Rng) -> SimpleNamespace:
    """Draw all features that identify a face."""
    woman = bool(rng.random() < 0.45)
    tones = HAIR_COLOURS + GREYS
    tone = int(rng.choice(4, p=[0.45, 0.28, 0.15, 0.12]))
    skin = vary(rng, SKINS[tone], 0.09, 0.022)
    fair = [0.28, 0.27, 0.16, 0.13, 0.10, 0.06] if tone < 2 else [0.72, 0.16, 0.0, 0.0, 0.08, 0.04]
    hair = vary(rng, tones[int(rng.choice(len(tones), p=fair))], 0.22, 0.03)
    moles = range(int(rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15])))
    return SimpleNamespace(
        upper=_draw_upper(rng, woman, hair),
        lower=_draw_lower(rng, woman, hair, skin),
        skin=skin,
        width=_about(rng, 0.332 if woman else 0.345, 0.013),  # half-width of the head
        # y of the tip, half-width at the wings, half-width of the ridge
        nose=(_about(rng, 0.035, 0.014), _about(rng, 0.068 if woman else 0.077, 0.008), _about(rng, 0.031, 0.005)),
        tip=_about(rng, 1.0, 0.22),  # factor on how far the nose stands out
        bend=_about(rng, 0, 0.005),  # of the nose, sideways
        cheek=_about(rng, 0, 0.5),  # fullness, about -1..1
        ear=rng.uniform(0.0, 0.045),  # how far they stand out
        flush=rng.uniform(0, 1),  # redness of cheeks and nose
        age=rng.uniform(0, 1) ** 1.5,  # how deep the wrinkles are
        freckles=max(0.0, rng.uniform(-4, 1)),
        # moles: x, y, radius
        marks=[(rng.uniform(-0.26, 0.26), rng.uniform(-0.38, 0.28), rng.uniform(0.006, 0.012)) for _ in moles],
        # x, y, slope
        scar=(rng.uniform(-0.22, 0.22), rng.uniform(-0.35, 0.2), rng.normal()) if rng.random() < 0.06 else None,
        grain=int(rng.integers(2**31)),  # seed of the skin's texture
    )


@lru_cache(maxsize=64)
def face_of(seed: int, set_number: int, person: int) -> SimpleNamespace:
    """Features of one person of a set; in every five, two share the upper face exactly, another two the lower."""
    face = draw_face_looks(np.random.default_rng([seed, set_number, person]))
    if person % 5 in (1, 3):
        twin, half = draw_face_looks(np.random.default_rng([seed, set_number, person - 1])), {1: "upper", 3: "lower"}
        setattr(face, half[person % 5], getattr(twin, half[person % 5]))
    return face
