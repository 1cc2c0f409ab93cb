"""Drawn faces in the layouts of CASIA-WebFace and LFW with its pairs."""

from collections import namedtuple
from collections.abc import Callable, Iterator
from itertools import combinations, product
from pathlib import Path

import numpy as np

from ..disk.files import write_text
from .face_looks import face_of
from .face_paint import draw_mood, frame_of, paint_face
from .looks import Rng, channels, near_grey
from .paint import Noise
from .records import Picture, claim, draw_pictures, spread
from .scene import crop_noise, develop, jpeg, make_camera

WEBFACE, LFW = "casia-webface", "lfw"
FOLDERS = {WEBFACE: "CASIA-WebFace", LFW: "lfw"}
FOLDS, PAIRS = 10, "pairs.txt"
SIDE = 112  # pixels, the usual size of aligned faces
GREY = 0.25  # share of pictures without colour; a choice
CORNERS = 0.15  # share whose alignment left black corners; a choice
MILD = 0.22  # photographers balance light and colour better than surveillance cameras do; a choice
SETS = {WEBFACE: 11, LFW: 12}  # first numbers of the generators; drawn people have 1-6
FIRST = ("Ma El Jo Ta Ri Be No Ka Li Se Du Fa Os Vi Ha Ge", "ra lin mar vik nas del bo ten sia rik lo na")
LAST = (
    "Qu Bren Hol Tor Wick Lan Ash Cor Fen Mul Dray Ves Pel Stro Gar Kel",
    "ill ner by wood son ard ley ik man ova ett",
)

# Numbers: train: identities, pictures; test: people, pictures, people with more than one; pairs: of the same person in
# each fold, and as many of two people. Pictures are spread over the people as evenly as possible.
Scale = namedtuple("Scale", "train test pairs")
SCALES = {
    "demo": Scale((300, 2400), (300, 1200, 300), 100),
    "market": Scale((10575, 494414), (5749, 13233, 1680), 300),  # the published counts
    "tiny": Scale((10, 60), (20, 40, 20), 2),
}


def _lfw_people(scale: Scale, seed: int) -> dict[str, int]:
    """Distinct invented names -> numbers of pictures; only the first people have more than one."""
    people, pictures, several = scale.test
    known = [f"{a + b}_{c + d}" for a, b, c, d in product(*(half.split() for half in FIRST + LAST))]
    order = np.random.default_rng([seed, 0, SETS[LFW]]).permutation(len(known))[:people]
    counts = spread(pictures - (people - several), several) + [1] * (people - several)
    return {known[i]: count for i, count in zip(order, counts, strict=True)}


def plan_pictures(scale: Scale, seed: int) -> Iterator[Picture]:
    """Yield all pictures of a scale."""
    for person, count in enumerate(spread(scale.train[1], scale.train[0])):
        label = f"{person + 1:07d}"
        for number in range(count):
            yield Picture(WEBFACE, f"{label}/{number + 1:03d}.jpg", label, (SETS[WEBFACE], person, number))
    for person, (name, count) in enumerate(_lfw_people(scale, seed).items()):
        for number in range(count):
            yield Picture(LFW, f"{name}/{name}_{number + 1:04d}.jpg", name, (SETS[LFW], person, number))


def draw_pairs(scale: Scale, seed: int) -> str:
    """LFW's table of pairs: folds without common people, equally many same and different pairs, no pair twice."""
    rng = np.random.default_rng([seed, 0, SETS[LFW], 1])
    names, counts = zip(*_lfw_people(scale, seed).items(), strict=True)
    lines = [f"{FOLDS}\t{scale.pairs}"]
    for fold in range(FOLDS):
        people = range(fold, len(names), FOLDS)
        same = [(p, i, j) for p in people for i, j in combinations(range(1, counts[p] + 1), 2)]
        for k in sorted(rng.choice(len(same), scale.pairs, replace=False)):
            p, i, j = same[k]
            lines.append(f"{names[p]}\t{i}\t{j}")
        different: dict[tuple[int, int, int, int], None] = {}
        while len(different) < scale.pairs:
            p, q = sorted(int(k) for k in rng.choice(people, 2, replace=False))
            different[p, int(rng.integers(counts[p])) + 1, q, int(rng.integers(counts[q])) + 1] = None
        lines += [f"{names[p]}\t{i}\t{names[q]}\t{j}" for p, i, q, j in different]
    return "\n".join(lines) + "\n"


def _background(rng: Rng, noise: Noise) -> np.ndarray:
    """Background (3, SIDE, SIDE), out of focus: two colours, a gradient and blots."""
    first, second = (channels(near_grey(rng, 0.08, 0.9, 0.045)) for _ in range(2))
    steps = np.linspace(-1, 1, SIDE, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.float32(np.cos(angle)) * steps + np.float32(np.sin(angle)) * steps[:, None] + rng.normal(0, 0.5)
    blots = crop_noise(noise.soft, rng, (SIDE, SIDE), tuple(rng.uniform(0.5, 4, 2)))
    sharp = rng.choice([0.4, 1.0, 4.0])
    mix = np.clip(0.5 + sharp * (ramp + rng.uniform(0, 0.8) * blots), 0, 1)
    return (first + mix * (second - first)) * (1 + np.float32(0.06) * blots)


def _inside(rng: Rng) -> np.ndarray:
    """Mask (SIDE, SIDE) of an aligned picture: rotated about its centre, it has no pixels in the corners."""
    angle, reach = rng.normal(0, 0.12), rng.uniform(0.46, 0.56, 2)
    steps = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE - 0.5
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = c * steps + s * steps[:, None], c * steps[:, None] - s * steps
    edge = np.minimum(reach[0] - np.abs(x), reach[1] - np.abs(y))
    return np.clip(edge * SIDE + 0.5, 0, 1).astype(np.float32)


def _photograph(pixels: np.ndarray, rng: Rng) -> bytes:
    """JPEG that a camera makes of pixels (3, SIDE, SIDE), sometimes grey."""
    camera = make_camera(rng, MILD)
    camera.gain *= rng.uniform(0.93, 1.08)
    grey, blur = rng.random() < GREY, camera.blur * rng.uniform(0.5, 1.5)
    grain = rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * np.float32(camera.noise * 255)
    return jpeg(develop(pixels, camera, blur, grain, grey), rng, 75)


def _prepare(picture: Picture, rng: Rng, seed: int, noise: Noise) -> tuple[str, tuple[float, ...], Callable]:
    """Draw pose, expression and light; return kind, boxes in fractions of the picture, and a function that draws it."""
    mood = draw_mood(rng)

    def render() -> bytes:
        face = face_of(seed, *picture.key[:2])
        pixels, cover = paint_face(face, mood, noise, rng, SIDE)
        pixels = pixels + (1 - cover) * _background(rng, noise)
        return _photograph(pixels * _inside(rng) if rng.random() < CORNERS else pixels, rng)

    return picture.kind, (*frame_of(mood), 0.0, 0.5, 0.5, 1.0, 1.0), render


def draw_faces(out: Path, seed: int = 0, scale: str = "demo", quiet: bool | None = None) -> None:
    """Draw both sets, `pairs.txt` and the table of truth under `out`; the same `seed` and `scale` give the same bytes.

    Pictures already there are kept. Raises DataError for a negative seed, a scale that is not one of `SCALES`, and a
    folder in which other faces were drawn, or that holds photographs.
    """
    claim(Path(out), "faces", seed, scale, SCALES, FOLDERS.values())
    write_text(Path(out) / PAIRS, draw_pairs(SCALES[scale], seed))
    draw_pictures(Path(out), "faces", list(plan_pictures(SCALES[scale], seed)), FOLDERS, seed, _prepare, quiet)
