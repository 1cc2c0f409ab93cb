"""Drawn people on disk, in the layouts of Market-1501, Partial-REID and Partial-iLIDS, and a table of the truth.

They replace photographs where no data set is available. Every picture has its own generator, made from (seed, set,
identity, picture), so pictures do not depend on their order, and an interrupted run is completed with the same bytes.
METHOD.md §7 says which properties of the drawings make a model useful on photographs.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..disk.progress import bar
from .figure import ABOVE, draw_figure, draw_pose
from .looks import Rng, looks_of
from .paint import Noise, make_noise
from .records import claim, finish, keep
from .scene import Camera, draw_background, draw_occluder, make_camera, make_canvas, record

Box = tuple[float, float, float, float]

MARKET, REID, ILIDS = "market1501", "partial-reid", "partial-ilids"
FOLDERS = {MARKET: "Market-1501-v15.09.15", REID: "Partial-REID_Dataset", ILIDS: "Partial_iLIDS"}
DRAWING = 2  # increase it when a change makes the same seed give other pictures

CAMERAS = 6  # Market-1501
MARKET_SIZE = (64, 128)  # pixels, Market-1501
HEIGHTS = (160, 220)  # pixels of the other sets' holistic pictures; a choice
RATIO, RATIO_SPREAD, RATIO_RANGE = (
    0.47,
    0.10,
    (0.36, 0.62),
)  # width / height of detections: log-normal, clipped; a choice
STRETCH = 1.3  # people are drawn this much wider than natural, for the half-widths 0.15-0.21 of METHOD.md §7
MARGIN = (-0.01, 0.06)  # METHOD.md §7: above the head and below the soles, body heights
FIGURE_WIDTH = 0.32  # nominal width of a body frame, body heights: shoulders and arms
OCCLUDED = 0.25  # METHOD.md §7: share of Market pictures with something in front; the partial sets are cut instead
COVER = {"usual": (0.10, 0.30), "occluded": (0.25, 0.50)}  # how much of the picture that hides; a choice
PARTS = {
    "left": 0.22,
    "right": 0.22,
    "upper": 0.22,
    "lower": 0.22,
    "random": 0.12,
}  # supplement §3: nearly half the person


@dataclass(frozen=True)
class Scale:
    """Numbers of identities and pictures; pictures are spread over the identities as evenly as possible."""

    train: tuple[int, int]  # identities, pictures
    test: tuple[int, int, int]  # identities, query pictures, their gallery pictures
    distractors: int
    junk: int
    reid: tuple[int, int, int, int]  # identities; whole, partial, occluded pictures of each
    ilids: int  # identities, one probe and one gallery picture each


SCALES = {
    "demo": Scale((240, 1920), (60, 120, 360), 40, 20, (120, 5, 5, 1), 238),
    # the published counts: 19,732 gallery files are 13,115 of the 750 identities, 2,798 distractors and 3,819 junk
    "market": Scale((751, 12936), (750, 3368, 13115), 2798, 3819, (60, 5, 5, 5), 119),
    "tiny": Scale((10, 60), (6, 6, 18), 3, 2, (6, 2, 2, 1), 8),
}


@dataclass(frozen=True)
class Picture:
    """One picture to be made: `set_number`, `person` and `number` pick its generator, `identity` stands in its name."""

    dataset: str
    file: str
    identity: int
    camera: int
    kind: str  # whole, occluded, upper, partial (one of PARTS, drawn by lot), or junk
    set_number: int
    person: int
    number: int
    view: int  # which camera's colours, 1..CAMERAS; 0: any


@dataclass(frozen=True)
class Plan:
    """A picture's geometry, all of it drawn before the first pixel."""

    size: tuple[int, int]  # of the holistic canvas, pixels
    frame: Box  # left, top, width, height of the holistic canvas, body heights
    kind: str
    crop: tuple[int, int, int, int]  # left, top, right, bottom in pixels of the canvas
    cover: float  # share hidden by something in front; 0: nothing there
    above: float  # how much larger the head appears than the feet


def _shared(total: int, people: int, person: int) -> int:
    """Number of a person's pictures (0-based) when `total` pictures are spread evenly."""
    return total // people + (person < total % people)


def _market(scale: Scale) -> Iterator[Picture]:
    """Training, query and gallery pictures; cameras alternate, so every query has a match in another camera."""
    first = scale.train[0] + 1

    def picture(folder: str, identity: int, set_number: int, person: int, number: int, kind: str = "whole") -> Picture:
        camera = (person * 5 + number) % CAMERAS + 1
        label = f"{identity:04d}" if identity >= 0 else "-1"
        name = f"{label}_c{camera}s1_{person * 50 + number:06d}_01.jpg"
        return Picture(MARKET, f"{folder}/{name}", identity, camera, kind, set_number, person, number, camera)

    for person in range(scale.train[0]):
        for number in range(_shared(scale.train[1], scale.train[0], person)):
            yield picture("bounding_box_train", person + 1, 1, person, number)
    people, queries, gallery = scale.test
    for person in range(people):
        asked = _shared(queries, people, person)
        for number in range(asked + _shared(gallery, people, person)):
            folder = "query" if number < asked else "bounding_box_test"
            yield picture(folder, first + person, 2, person, number)
    for person in range(scale.distractors):
        yield picture("bounding_box_test", 0, 3, person, 0)
    for person in range(scale.junk):
        yield picture("bounding_box_test", -1, 4, person, 0, "junk")


def _reid(scale: Scale) -> Iterator[Picture]:
    """Whole, partial and occluded pictures; the set names no cameras: 1 stands for the gallery, 0 for queries."""
    people, *counts = scale.reid
    folders = (
        ("whole_body_images", "whole", 1),
        ("partial_body_images", "partial", 0),
        ("occluded_body_images", "occluded", 0),
    )
    for person in range(people):
        for block, ((folder, kind, camera), count) in enumerate(zip(folders, counts, strict=True)):
            for i in range(count):
                file = f"{folder}/{person + 1:03d}_{i + 1:03d}.jpg"
                yield Picture(REID, file, person + 1, camera, kind, 5, person, 100 * block + i, 0)


def _ilids(scale: Scale) -> Iterator[Picture]:
    """One gallery picture and one probe, an upper body, of each identity."""
    for person in range(scale.ilids):
        for number, (folder, kind) in enumerate((("Probe", "upper"), ("Gallery", "whole"))):
            yield Picture(ILIDS, f"{folder}/{person + 1:03d}.jpg", person + 1, number, kind, 6, person, number, 0)


def _draw_frame(rng: Rng, market: bool) -> tuple[tuple[int, int], Box]:
    """Pixel size and frame of a detector's crop about a person: tight, nearly centred."""
    ratio = float(np.clip(RATIO * np.exp(rng.normal(0, RATIO_SPREAD)), *RATIO_RANGE))
    above, below = rng.uniform(*MARGIN, 2)
    high = 1 + above + below
    wide = ratio * high / STRETCH
    frame = (-wide / 2 + rng.normal(0, 0.04) * wide, -above, wide, high)
    height = int(rng.integers(HEIGHTS[0], HEIGHTS[1] + 1))
    return (MARKET_SIZE if market else (round(ratio * height), height)), frame


def _badly_cut(rng: Rng, frame: Box) -> Box:
    """A frame that misses most of the person, like a false detection."""
    left, top, wide, high = frame
    size = rng.uniform(0.45, 1.6)
    x, y = rng.choice([-1, 1]) * rng.uniform(0.35, 0.8) * wide * max(size, 1), rng.uniform(-0.6, 0.6) * high
    return (left + x, top + y, wide * size, high * size)


def _draw_crop(rng: Rng, kind: str, dataset: str) -> tuple[float, float, float, float]:
    """Left, top, width, height of a partial picture's crop, in fractions of the canvas."""
    if kind in ("left", "right"):
        w, h = rng.uniform(0.42, 0.62), rng.uniform(0.8, 1.0)
        return (0.0 if kind == "left" else 1 - w), rng.uniform(0, 1 - h), w, h
    if kind in ("upper", "lower"):
        probe = dataset == ILIDS
        w = rng.uniform(0.80 if probe else 0.85, 1.0)
        h = rng.uniform(0.38, 0.66 if probe else 0.62)
        top = rng.uniform(0, 0.06) * (rng.random() < 0.5) if probe else 0.0
        return rng.uniform(0, 1 - w), (1 - h if kind == "lower" else top), w, h
    area = rng.uniform(0.25, 0.60)
    w = rng.uniform(max(0.4, area), min(1.0, area / 0.4))
    return rng.uniform(0, 1 - w), rng.uniform(0, 1 - area / w), w, area / w


def plan_picture(picture: Picture, rng: Rng) -> Plan:
    """Draw a picture's geometry: canvas, crop and occlusion."""
    size, frame = _draw_frame(rng, picture.dataset == MARKET)
    kind, crop, cover, above = picture.kind, (0, 0, *size), 0.0, rng.uniform(0, ABOVE)
    if kind == "junk":
        return Plan(size, _badly_cut(rng, frame), "random", crop, cover, above)
    if kind == "partial":
        kind = str(rng.choice(list(PARTS), p=list(PARTS.values())))
    if kind in PARTS:
        x, y, w, h = _draw_crop(rng, kind, picture.dataset)
        left, top = round(x * size[0]), round(y * size[1])
        crop = (left, top, min(size[0], left + round(w * size[0])), min(size[1], top + round(h * size[1])))
        if kind in ("right", "lower"):
            crop = (crop[0], crop[1], size[0] if kind == "right" else crop[2], size[1] if kind == "lower" else crop[3])
    elif kind == "occluded":
        cover = rng.uniform(*COVER["occluded"])
    if picture.dataset == MARKET and rng.random() < OCCLUDED:
        cover = rng.uniform(*COVER["usual"])
    return Plan(size, frame, kind, crop, cover, above)


def _truth(picture: Picture, plan: Plan) -> list[object]:
    """The picture's row of truth.csv: boxes (cx, cy, w, h) in fractions of the holistic canvas, and the viewpoint."""
    left, top, wide, high = plan.frame
    figure = (-left / wide, (0.5 - top) / high, FIGURE_WIDTH / wide, 1 / high)
    (x0, y0, x1, y1), (w, h) = plan.crop, plan.size
    view = ((x0 + x1) / 2 / w, (y0 + y1) / 2 / h, (x1 - x0) / w, (y1 - y0) / h)
    names = (picture.dataset, f"{FOLDERS[picture.dataset]}/{picture.file}", picture.identity, picture.camera, plan.kind)
    return [*names, *(f"{value:.6f}" for value in (*figure, plan.above, *view))]


def _render(picture: Picture, plan: Plan, rng: Rng, seed: int, noise: Noise, camera: Camera) -> bytes:
    """The picture as the bytes of a JPEG."""
    canvas = make_canvas(plan.frame, plan.size, noise, rng)
    draw_background(canvas, rng)
    draw_figure(canvas, looks_of(seed, picture.set_number, picture.person), draw_pose(rng), plan.above)
    if plan.cover:
        draw_occluder(canvas, rng, plan.cover)
    buffer = io.BytesIO()
    record(canvas, camera, rng, plan.size).crop(plan.crop).save(buffer, "JPEG", quality=int(rng.integers(70, 96)))
    return buffer.getvalue()


def draw_people(out: Path, seed: int = 0, scale: str = "demo", quiet: bool | None = None) -> None:
    """Draw the three sets under `out`, then their rows of `truth.csv`, which mark them as complete.

    The same `seed` and `scale` give the same bytes. Pictures already there are kept. Raises DataError for a negative
    seed, a scale that is not one of `SCALES`, and a folder in which other people were drawn, or that holds photographs.
    """
    out = Path(out)
    claim(out, "people", DRAWING, seed, scale, SCALES, FOLDERS.values())
    noise = make_noise(np.random.default_rng([seed, 0]))
    camera = cache(lambda dataset, view: make_camera(np.random.default_rng([seed, 0, [*FOLDERS].index(dataset), view])))
    pictures = [*_market(SCALES[scale]), *_reid(SCALES[scale]), *_ilids(SCALES[scale])]
    for folder in {(out / FOLDERS[p.dataset] / p.file).parent for p in pictures}:
        folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for p in bar(pictures, "drawing people", quiet=quiet):
        rng = np.random.default_rng([seed, p.set_number, p.person, p.number])
        plan = plan_picture(p, rng)
        rows.append(_truth(p, plan))

        def draw(p=p, plan=plan, rng=rng) -> bytes:
            view = p.view or int(rng.integers(1, CAMERAS + 1))
            return _render(p, plan, rng, seed, noise, camera(p.dataset, view))

        keep(out / FOLDERS[p.dataset] / p.file, draw)
    finish(out, rows)
