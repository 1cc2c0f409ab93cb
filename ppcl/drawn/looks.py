"""Identity of a drawn person, the same in all pictures: clothes, hair, skin, build, shoes and bag.

Lengths are in body heights: y runs down from the head's top (0) to the soles (1). Colours are sRGB in 0..1.
"""

import colorsys
from dataclasses import dataclass, replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np

Rng = np.random.Generator
Colour = tuple[float, float, float]

# METHOD.md §7: share of each colour in clothes; the base colours themselves are chosen by eye.
CLOTHES: tuple[tuple[str, float, Colour], ...] = (
    ("black", 0.30, (0.075, 0.075, 0.085)), ("denim", 0.16, (0.24, 0.31, 0.44)), ("grey", 0.12, (0.44, 0.44, 0.46)),
    ("navy", 0.10, (0.11, 0.13, 0.26)), ("white", 0.09, (0.84, 0.84, 0.83)), ("khaki", 0.09, (0.52, 0.45, 0.33)),
    ("red", 0.05, (0.60, 0.12, 0.14)), ("any", 0.09, (0.0, 0.0, 0.0)),
)  # fmt: skip
FOLDS = (0.04, 0.14)  # METHOD.md §7: shading noise on surfaces
UPPER_PATTERNS = {
    "plain": 0.40, "jacket": 0.16, "print": 0.13, "hoops": 0.09, "bars": 0.04, "checks": 0.08, "yoke": 0.10,
}  # fmt: skip
LOWER_PATTERNS = {"plain": 0.84, "checks": 0.04, "seam": 0.07, "bars": 0.05}
HAIRS = {"short": 0.48, "long": 0.26, "bald": 0.07, "cap": 0.10, "bun": 0.09}
BAGS = {"none": 0.60, "backpack": 0.22, "shoulder": 0.18}
HAIR_COLOURS: tuple[Colour, ...] = ((0.07, 0.06, 0.06), (0.20, 0.13, 0.09), (0.38, 0.26, 0.16), (0.62, 0.48, 0.30))
SKINS: tuple[Colour, ...] = ((0.84, 0.66, 0.56), (0.74, 0.55, 0.44), (0.58, 0.40, 0.30), (0.36, 0.24, 0.18))


@dataclass(frozen=True)
class Cloth:
    """A surface: its colour, a second colour for its pattern, and its unevenness."""

    colour: Colour
    second: Colour = (0.0, 0.0, 0.0)
    pattern: str = "plain"
    period: float = 0.05  # of stripes and checks, body heights; width of an opening or a print, on the unit circle
    folds: float = 0.05  # broad light and dark, as a share of brightness
    weave: float = 0.0  # pixel-fine unevenness, as a share of brightness
    phase: float = 0.0  # place in the noise from which the unevenness is taken, 0..1


def pick(rng: Rng, shares: dict[str, float]) -> str:
    """Draw a key of `shares` in proportion to its value."""
    return str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))


def vary(rng: Rng, colour: Colour, light: float = 0.15, tint: float = 0.015) -> Colour:
    """Draw a colour near `colour`: brightness differs by a factor of about 1 ± light, channels by ± tint."""
    return tuple(np.clip(np.array(colour) * np.exp(rng.normal(0, light)) + rng.normal(0, tint, 3), 0.03, 0.95).tolist())


def near_grey(rng: Rng, low: float, high: float, tint: float, light: float = 0.1) -> Colour:
    """Draw a colour of brightness `low` to `high` whose channels differ by about `tint`."""
    return vary(rng, tuple(rng.uniform(low, high) + rng.normal(0, tint, 3)), light)


def channels(colour: Colour | np.ndarray) -> np.ndarray:
    """Return a colour as an array (3, 1, 1), which broadcasts with pixels."""
    return np.array(colour, np.float32)[:, None, None]


def draw_cloth(rng: Rng, patterns: dict[str, float]) -> Cloth:
    """Draw a cloth in a colour that people wear, with a pattern in a second, distinguishable one."""
    names, shares, bases = zip(*CLOTHES, strict=True)

    def colour() -> Colour:
        i = int(rng.choice(len(names), p=shares))
        base = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.25, 0.7), rng.uniform(0.25, 0.75))
        return vary(rng, base if names[i] == "any" else bases[i], 0.28 if names[i] in ("grey", "denim") else 0.15)

    first, second = colour(), colour()
    if np.abs(np.subtract(first, second)).max() < 0.12:
        second = vary(rng, tuple(1 - 0.8 * c for c in first), 0.1)
    pattern = pick(rng, patterns)
    period = {"jacket": rng.uniform(0.15, 0.45), "print": rng.uniform(0.3, 0.6)}.get(pattern, rng.uniform(0.03, 0.08))
    return Cloth(first, second, pattern, period, rng.uniform(*FOLDS), rng.choice([0.0, 0.02, 0.06]), rng.random())


def draw_looks(rng: Rng) -> SimpleNamespace:
    """Draw all features that identify a person."""
    looks, upper, lower = SimpleNamespace(), SimpleNamespace(), SimpleNamespace()
    looks.upper, looks.lower = upper, lower
    upper.sleeve = float(rng.choice([0.0, 0.28, 0.38, 1.0], p=[0.04, 0.22, 0.12, 0.62]))  # covered share of the arm
    upper.hem = float(rng.choice([0.52, 0.57, 0.66, 0.76], p=[0.3, 0.45, 0.17, 0.08])) + rng.uniform(-0.015, 0.015)
    upper.cloth = draw_cloth(rng, UPPER_PATTERNS)
    upper.loose = rng.uniform(0.95, 1.2)  # factor on widths
    lower.skirt = bool(rng.random() < 0.14)  # trousers otherwise
    cut = float(rng.choice([0.95, 0.74, 0.62], p=[0.2, 0.6, 0.2] if lower.skirt else [0.8, 0.16, 0.04]))
    lower.cloth = draw_cloth(rng, LOWER_PATTERNS)
    lower.hem = cut + rng.uniform(-0.02, 0.01)
    lower.loose = rng.uniform(0.85, 1.25)
    looks.skin = Cloth(vary(rng, SKINS[int(rng.choice(4, p=[0.4, 0.35, 0.15, 0.1]))], 0.05), folds=0.04)
    looks.hair = pick(rng, HAIRS)
    tone = HAIR_COLOURS[int(rng.choice(4, p=[0.45, 0.27, 0.16, 0.12]))]
    if looks.hair == "cap":
        looks.hair_cloth = draw_cloth(rng, {"plain": 1.0})
    else:
        tone = vary(rng, tone)
        light = tuple(min(0.9, 1.25 * c + 0.05) for c in tone)
        looks.hair_cloth = Cloth(tone, light, "streaks", folds=0.12, weave=0.05, phase=rng.random())
    tone = (0.1, 0.09, 0.09) if rng.random() < 0.6 else tuple(rng.uniform(0.2, 0.85, 3))
    looks.shoes = Cloth(vary(rng, tone), folds=0.08)
    looks.bag_cloth = replace(draw_cloth(rng, {"plain": 0.7, "yoke": 0.3}), period=0.04)
    looks.bag = pick(rng, BAGS)
    looks.build = rng.uniform(0.86, 1.16)  # factor on widths, thin to heavy
    return looks


@lru_cache(maxsize=64)
def looks_of(seed: int, set_number: int, identity: int) -> SimpleNamespace:
    """Features of one identity of a set; in every five, two share their upper (or their lower) half exactly."""
    looks = draw_looks(np.random.default_rng([seed, set_number, identity]))
    if identity % 5 == 1:
        twin = draw_looks(np.random.default_rng([seed, set_number, identity - 1]))
        half = ("lower", "upper")[identity // 5 % 2]
        setattr(looks, half, getattr(twin, half))
    return looks
