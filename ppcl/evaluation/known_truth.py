"""A test set, and measurements against what is known of its pictures: true crops, and the figures of drawn ones.

They say how well GLRec places, how often its gate is right and how well CRLoc locates.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from .. import geometry, matching, metrics
from ..data import datasets, image_bank, partial_protocol, partial_views, stage_batches
from ..data.sets import SETS
from ..disk.files import given_path
from ..models.ppcl import PPCL
from ..recipes import Recipe
from . import results

SHARES = tuple(i / 10 for i in range(1, 11))  # of the area, for the curve over the input ratio
RATIO_BINS = {f"{low}-{high}": (low, high) for low, high in pairwise((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8))}


@dataclass
class Evaluation:
    """A test set, each method's distances and the rows. Of LFW, query and gallery are all pictures of its pairs."""

    dataset: str
    data: Path
    query: datasets.PictureSet
    gallery: datasets.PictureSet
    size: tuple[int, int]  # (height, width) that pictures are decoded to
    pairs: partial_protocol.Pairs | None = None
    quiet: bool | None = None
    distances: dict[str, np.ndarray] = field(default_factory=dict)  # method -> (Q, G), or (pairs,) on LFW
    rows: list[dict] = field(default_factory=list)

    @cached_property
    def query_bank(self) -> image_bank.ImageBank:
        """The queries, decoded."""
        return image_bank.bank(self.query.pictures, self.size, f"decoding {self.query.name}", self.quiet)

    @cached_property
    def gallery_bank(self) -> image_bank.ImageBank:
        """The gallery, decoded."""
        if self.gallery is self.query:
            return self.query_bank
        return image_bank.bank(self.gallery.pictures, self.size, f"decoding {self.gallery.name}", self.quiet)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the pictures, their identities, crops and pairs: of all that a row measured on them depends on."""
        parts = [self.query.fingerprint, self.gallery.fingerprint]
        if self.pairs:
            parts += [one.tobytes() for one in (self.pairs.first, self.pairs.second, self.pairs.same)]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @property
    def cameras(self) -> tuple[np.ndarray, ...]:
        """Cameras of query and gallery where a query's own camera does not count (Market-1501's rule), else nothing."""
        return (self.query.cameras, self.gallery.cameras) if SETS[self.dataset].cameras else ()

    @cached_property
    def drawn(self) -> bool:
        """True if the pictures were drawn, so that `truth.csv` lists them."""
        return datasets.is_drawn(self.data, self.dataset)

    @cached_property
    def truth(self) -> tuple:
        """The lines of `truth.csv` for query and gallery, in their order; drawn sets have them."""
        return tuple(datasets.truth_of(part, self.data) for part in (self.query, self.gallery))

    def rank(self, distances: torch.Tensor) -> tuple[torch.Tensor, metrics.Ranking]:
        """Distances `(Q, G)` to the whole gallery, infinite where the set's camera rule leaves a pair out; ranking."""
        ids, distances = (self.query.identities, self.gallery.identities), distances.cpu()
        if self.cameras:
            distances[torch.from_numpy(metrics.same_camera(*ids, *self.cameras))] = torch.inf
        return distances, metrics.cmc_map(distances, *ids, *self.cameras)

    @property
    def knows_boxes(self) -> bool:
        """True if each query's box in the whole picture is known: it was drawn, or cropped by us."""
        return self.query.boxes is not None or (self.drawn and SETS[self.dataset].partial)

    @cached_property
    def at_ratios(self) -> tuple[datasets.PictureSet, dict[float, image_bank.ImageBank]]:
        """One query of each person, and these queries cropped to each share of the area in SHARES."""
        query = self.query.keep(np.unique(self.query.identities, return_index=True)[1])
        cropped = {share: partial_protocol.at_ratio(query, share).pictures for share in SHARES}
        return query, {share: image_bank.bank(some, self.size, quiet=True) for share, some in cropped.items()}


def prepare(dataset: str, data: Path | str, recipe: Recipe, quiet: bool | None = None) -> Evaluation:
    """A set's query and gallery, or the pictures of LFW's pairs; they are decoded when a bank is first used."""
    if dataset in SETS and SETS[dataset].protocol == "verification":
        everybody, pairs = datasets.verification_set(dataset, data, recipe.data)
        datasets.print_notes(everybody.notes)
        used, places = np.unique([pairs.first, pairs.second], return_inverse=True)
        shown = everybody.keep(used)
        pairs = partial_protocol.Pairs(*places.reshape(2, -1), pairs.same, pairs.folds)
        return Evaluation(dataset, given_path(data), shown, shown, recipe.input.size, pairs, quiet)
    query, gallery = datasets.evaluation_sets(dataset, data, recipe)
    datasets.print_notes(query.notes + gallery.notes)
    return Evaluation(dataset, given_path(data), query, gallery, recipe.input.size, quiet=quiet)


def subsets(found: Evaluation) -> dict[str, np.ndarray]:
    """Masks of the queries `(Q,)`: `all`, and by kind of crop and by input ratio where the truth is known."""
    masks = {"all": np.ones(len(found.query), bool)}
    if found.knows_boxes:
        if found.query.boxes is None:
            kinds = found.truth[0].kind.to_numpy()
        else:
            kinds = partial_protocol.kinds_of(found.query.boxes) if found.cameras else np.array([])
        masks |= {kind: kinds == kind for kind in partial_views.KINDS if kind in kinds}
        share = geometry.area(view_boxes(found)).numpy()
        masks |= {name: (share >= low) & (share < high) for name, (low, high) in RATIO_BINS.items()}
    return {name: mask for name, mask in masks.items() if mask.any()}


def view_boxes(found: Evaluation) -> torch.Tensor:
    """Each query's box in its whole picture `(Q, 4)`: as we cropped it, or from the truth."""
    if found.query.boxes is not None:
        return torch.from_numpy(found.query.boxes).float()
    views = found.truth[0][[f"view_{side}" for side in ("cx", "cy", "w", "h")]]
    return torch.tensor(views.to_numpy(), dtype=torch.float32)


def true_pairs(found: Evaluation) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Every query with each of its true gallery pictures: (query index, gallery index, true region `(P, 4)`).

    The region is the query's view, mapped from one figure's frame to the other's and clipped to the canvas.
    """
    query, gallery = np.nonzero(found.query.identities[:, None] == found.gallery.identities[None])
    figures = [stage_batches.figures(table) for table in found.truth]
    view = geometry.in_figure(view_boxes(found)[query], figures[0][query])
    return query, gallery, geometry.clip(geometry.of_figure(view, figures[1][gallery]))


def constant_box(recipe: Recipe) -> torch.Tensor:
    """The best constant guess of a query's box: the median of training crops `(4,)`."""
    return _median(partial_views.training_crops(10_000, recipe.glrec, partial_views.make_rng(0, "constant box")))


def _median(boxes: torch.Tensor) -> torch.Tensor:
    """The box whose sides are the medians of those of boxes `(N, 4)` -> `(4,)`."""
    return geometry.from_corners(geometry.corners(boxes).median(0).values)


def rows(
    found: Evaluation, facts: dict, model: PPCL, query: matching.Features, gallery: matching.Features
) -> list[dict]:
    """Rows on GLRec's placements, its gate and CRLoc's regions, on pictures whose truth is known."""
    target, placed, everyone = view_boxes(found), query.box[:, 0].cpu(), np.arange(len(found.query))
    measured: dict[str, tuple[torch.Tensor, np.ndarray]] = {}  # values, and the query of each
    if model.method.layout == "glrec" and model.method.region in ("none", "trained") and not model.method.oracle:
        measured["glrec-IoU"] = geometry.iou(placed, target), everyone
        measured["constant-box-IoU"] = geometry.iou(constant_box(model.recipe).expand_as(target), target), everyone
        measured["gate-accuracy"] = (query.gate.cpu() > 0).float(), everyone
    if model.method.locates and found.drawn:
        i, j, region = true_pairs(found)
        overlap = geometry.iou(locate_pairs(model, query, gallery, i, j), region)
        far = geometry.iou(placed[i], region) < 0.6
        constant = _median(region)  # of the truth itself, which no training could know
        measured["crloc-IoU"] = overlap, i
        measured["crloc-IoU-where-it-moved"] = overlap[far], i[far.numpy()]
        measured["constant-region-IoU"] = geometry.iou(constant.expand_as(region), region), i
    rows, masks, count = [], subsets(found), len(found.gallery)
    for metric, (value, of_query) in measured.items():
        for subset, mask in masks.items():
            if (kept := mask[of_query]).any():
                interval = metrics.bootstrap(value.numpy()[kept], found.query.identities[of_query[kept]])
                rows.append(results.row(facts, metric, interval, int(kept.sum()), count, subset))
    if "gate-accuracy" in measured:
        interval = metrics.bootstrap((gallery.gate.cpu() <= 0).float().numpy(), found.gallery.identities)
        rows.append(results.row(facts, "gate-accuracy-whole", interval, count, count))
    return rows


@torch.inference_mode()
def locate_pairs(model: PPCL, query: matching.Features, gallery: matching.Features, i, j) -> torch.Tensor:
    """Regions of query i's first placement, in gallery picture j `(P, 4)`; for rows with q = p, that placement."""
    if model.method.region == "same":
        return matching.in_picture(query.box[i, 0].cpu(), gallery.box[j, 0].cpu())
    found = torch.empty(len(i), 4)
    for one in np.unique(i):
        pairs = np.flatnonzero(i == one)
        there = torch.from_numpy(j[pairs])
        some = gallery.as_gallery(there, query.box.device)
        region, _ = model.crloc.locate_all(query.points[one, :1], query.box[one, :1], some.keys, some.visible)
        found[pairs] = matching.in_picture(region[:, 0].cpu(), gallery.box[there, 0].cpu())
    return found
