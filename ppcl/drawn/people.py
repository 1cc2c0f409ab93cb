"""Drawn people in the layouts of Market-1501, Partial-REID, Partial-iLIDS and Occluded-REID.

METHOD.md §7 says which properties of the drawings make a model useful on photographs.
"""

from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .figure import ABOVE, draw_figure, draw_pose
from .looks import Rng, looks_of
from .paint import Noise
from .records import Picture, claim, draw_pictures, spread
from .scene import draw_background, draw_occluder, jpeg, make_camera, make_canvas, record

MARKET, REID, ILIDS, OCCLUDED = "market1501", "partial-reid", "partial-ilids", "occluded-reid"
FOLDERS = {MARKET: "Market-1501-v15.09.15", REID: "Partial-REID_Dataset", ILIDS: "Partial_iLIDS"}
FOLDERS |= {OCCLUDED: "Occluded_REID"}

CAMERAS = 6  # Market-1501
MARKET_SIZE = (64, 128)  # pixels, Market-1501
HEIGHTS = (160, 220)  # pixels, whole pictures of the other sets; a choice
RATIO, RATIO_SPREAD, RATIO_RANGE = 0.47, 0.10, (0.36, 0.62)  # width / height of detections, log-normal; a choice
STRETCH = 1.3  # factor on the width of people, for the half-widths 0.15-0.21 of METHOD.md §7
MARGIN = (-0.01, 0.06)  # METHOD.md §7: above the head and below the soles, in body heights
FIGURE_WIDTH = 0.32  # nominal width of a body frame with arms, in body heights
OCCLUDED_SHARE = 0.25  # METHOD.md §7: share of Market pictures with an occluder; the partial sets are cropped instead
COVER = {"usual": (0.10, 0.30), "occluded": (0.25, 0.50)}  # share of the picture that an occluder hides; a choice
PARTS = {"left": 0.22, "right": 0.22, "upper": 0.22, "lower": 0.22, "random": 0.12}  # shares of crops; a choice

# train: identities, pictures; test: identities, query pictures, their gallery pictures; distractors, junk: pictures;
# reid: identities, whole, partial and occluded pictures of each; ilids: identities, a probe and gallery picture each;
# occluded: identities, whole and occluded pictures of each
Scale = namedtuple("Scale", "train test distractors junk reid ilids occluded")
SCALES = {
    "demo": Scale((240, 1920), (60, 120, 360), 40, 20, (120, 5, 5, 1), 238, (200, 1, 1)),
    # the published counts: 19,732 gallery files are 13,115 of the 750 identities, 2,798 distractors and 3,819 junk
    "market": Scale((751, 12936), (750, 3368, 13115), 2798, 3819, (60, 5, 5, 5), 119, (200, 5, 5)),
    "tiny": Scale((10, 60), (6, 6, 18), 3, 2, (6, 2, 2, 1), 8, (6, 1, 1)),
}


def _plan(scale: Scale) -> Iterator[Picture]:
    """Yield all pictures of a scale."""

    def market(folder: str, identity: int, *key: int, kind: str = "whole") -> Picture:
        camera = (key[1] * 5 + key[2]) % CAMERAS + 1  # cameras alternate, so every query has a match in another
        label = f"{identity:04d}" if identity >= 0 else "-1"
        file = f"{folder}/{label}_c{camera}s1_{key[1] * 50 + key[2]:06d}_01.jpg"
        return Picture(MARKET, file, identity, key, camera, kind)

    for person, count in enumerate(spread(scale.train[1], scale.train[0])):
        yield from (market("bounding_box_train", person + 1, 1, person, number) for number in range(count))
    people, queries, gallery = scale.test
    for person, counts in enumerate(zip(spread(queries, people), spread(gallery, people), strict=True)):
        folders = ["query"] * counts[0] + ["bounding_box_test"] * counts[1]
        for number, folder in enumerate(folders):
            yield market(folder, scale.train[0] + person + 1, 2, person, number)
    yield from (market("bounding_box_test", 0, 3, person, 0) for person in range(scale.distractors))
    yield from (market("bounding_box_test", -1, 4, person, 0, kind="junk") for person in range(scale.junk))

    def reid(dataset: str, key: int, kinds: tuple[str, ...], people: int, *counts: int) -> Iterator[Picture]:
        """Yield pictures of kinds, one folder each."""
        for person in range(people):
            for block, (kind, count) in enumerate(zip(kinds, counts, strict=True)):
                for i in range(count):
                    file = f"{kind}_body_images/{person + 1:03d}_{i + 1:03d}.jpg"
                    camera = int(kind == "whole")  # the sets have no cameras: 1 is the gallery, 0 the queries
                    yield Picture(dataset, file, person + 1, (key, person, 100 * block + i), camera, kind)

    yield from reid(REID, 5, ("whole", "partial", "occluded"), *scale.reid)
    for person in range(scale.ilids):
        for number, (folder, kind) in enumerate((("Probe", "upper"), ("Gallery", "whole"))):
            yield Picture(ILIDS, f"{folder}/{person + 1:03d}.jpg", person + 1, (6, person, number), number, kind)
    yield from reid(OCCLUDED, 7, ("whole", "occluded"), *scale.occluded)


def _draw_crop(rng: Rng, kind: str, probe: bool) -> tuple[float, float, float, float]:
    """Draw the crop of a partial picture: left, top, width, height in fractions of the whole picture.

    Supplement §3: Partial-REID shows nearly half of a person, Partial-iLIDS (`probe`) upper bodies.
    """
    if kind in ("left", "right"):
        w, h = rng.uniform(0.42, 0.62), rng.uniform(0.8, 1.0)
        return (0.0 if kind == "left" else 1 - w), rng.uniform(0, 1 - h), w, h
    if kind in ("upper", "lower"):
        w, h = rng.uniform(0.80 if probe else 0.85, 1.0), rng.uniform(0.38, 0.66 if probe else 0.62)
        top = rng.uniform(0, 0.06) * (rng.random() < 0.5) if probe else 0.0
        return rng.uniform(0, 1 - w), (1 - h if kind == "lower" else top), w, h
    area = rng.uniform(0.25, 0.60)
    w = rng.uniform(max(0.4, area), min(1.0, area / 0.4))
    return rng.uniform(0, 1 - w), rng.uniform(0, 1 - area / w), w, area / w


def _prepare(picture: Picture, rng: Rng, seed: int, noise: Noise) -> tuple[str, tuple[float, ...], Callable]:
    """Draw the geometry; return kind, boxes in fractions of the whole picture, and a function that renders the JPEG."""
    kind, market = picture.kind, picture.dataset == MARKET
    ratio = float(np.clip(RATIO * np.exp(rng.normal(0, RATIO_SPREAD)), *RATIO_RANGE))
    above, below = rng.uniform(*MARGIN, 2)
    high = 1 + above + below
    wide = ratio * high / STRETCH
    left, top = -wide / 2 + rng.normal(0, 0.04) * wide, -above
    height = int(rng.integers(HEIGHTS[0], HEIGHTS[1] + 1))
    size = MARKET_SIZE if market else (round(ratio * height), height)
    above, cover, (x0, y0, x1, y1) = rng.uniform(0, ABOVE), 0.0, (0, 0, *size)
    if kind == "junk":  # most of the person is outside, as in a false detection
        kind, zoom = "random", rng.uniform(0.45, 1.6)
        left += rng.choice([-1, 1]) * rng.uniform(0.35, 0.8) * wide * max(zoom, 1)
        top += rng.uniform(-0.6, 0.6) * high
        wide, high = wide * zoom, high * zoom
    else:
        if kind == "partial":
            kind = str(rng.choice(list(PARTS), p=list(PARTS.values())))
        if kind in PARTS:
            x, y, w, h = _draw_crop(rng, kind, picture.dataset == ILIDS)
            x0, y0 = round(x * size[0]), round(y * size[1])
            x1 = size[0] if kind == "right" else min(size[0], x0 + round(w * size[0]))
            y1 = size[1] if kind == "lower" else min(size[1], y0 + round(h * size[1]))
        elif kind == "occluded":
            cover = rng.uniform(*COVER["occluded"])
        if market and rng.random() < OCCLUDED_SHARE:
            cover = rng.uniform(*COVER["usual"])

    def render() -> bytes:
        view = picture.camera if market else int(rng.integers(1, CAMERAS + 1))
        canvas = make_canvas((left, top, wide, high), size, noise, rng)
        draw_background(canvas, rng)
        draw_figure(canvas, looks_of(seed, *picture.key[:2]), draw_pose(rng), above)
        if cover:
            draw_occluder(canvas, rng, cover)
        camera = make_camera(np.random.default_rng([seed, 0, [*FOLDERS].index(picture.dataset), view]))
        return jpeg(record(canvas, camera, rng).crop((x0, y0, x1, y1)), rng, 70)

    figure = (-left / wide, (0.5 - top) / high, FIGURE_WIDTH / wide, 1 / high)
    view = ((x0 + x1) / 2 / size[0], (y0 + y1) / 2 / size[1], (x1 - x0) / size[0], (y1 - y0) / size[1])
    return kind, (*figure, above, *view), render


def draw_people(out: Path, seed: int = 0, scale: str = "demo", quiet: bool | None = None) -> None:
    """Draw the four sets and the table of their true boxes in `out`; the same `seed` and `scale` give the same bytes.

    Existing pictures are kept. Raises DataError for a negative seed, for a scale that is not in `SCALES`, and for a
    folder that holds photographs or people drawn with another seed or scale.
    """
    claim(Path(out), "people", seed, scale, SCALES, FOLDERS.values())
    draw_pictures(Path(out), "people", list(_plan(SCALES[scale])), FOLDERS, seed, _prepare, quiet)
