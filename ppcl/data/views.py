"""What the stages see: the split by identity, GLRec's batches, the joint stage's four views, held-out queries."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import distributed, geometry
from ..recipes import Recipe, check_files
from . import batches, datasets, images
from .batches import generator


@dataclass
class TrainingData:
    """Training pictures on the device, split by identity: `train` for the stages, `heldout` for selection alone."""

    train: images.ImageBank
    labels: np.ndarray  # (N,) class of each training picture, 0..classes-1
    heldout: images.ImageBank
    heldout_ids: np.ndarray
    names: tuple[str, ...] = ()  # (N,) file of each training picture, below the set's folder

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


def training_data(recipe: Recipe, data: Path | str, device: str = "cpu", quiet: bool | None = None) -> TrainingData:
    """Read, decode and split the training set. The split depends on the identities alone, not on a run's seed."""
    check_files(recipe)
    pictures = datasets.training_set(recipe.task, data)
    people, counts = np.unique(pictures.identities, return_counts=True)
    several = people[counts > 1]  # a person with one picture cannot be searched for, and is trained on
    if len(several) == 0:
        raise datasets.DataError(
            f"{pictures.folder} shows nobody twice: training needs several pictures of most people"
        )
    kept_back = min(len(several), max(1, round(len(people) * recipe.selection.heldout)))
    needed = max(recipe.backbone.identities, recipe.joint.identities)
    if len(people) - kept_back < needed:
        raise datasets.DataError(
            f"{pictures.folder} shows {len(people)} people; {kept_back} are held out and a batch needs {needed}: "
            f"add people, or lower the batch with --set"
        )
    order = torch.randperm(len(several), generator=generator(0, "heldout")).numpy()
    away = np.isin(pictures.identities, several[order[:kept_back]])
    bank = images.bank(pictures.pictures, recipe.input.size, "decoding training pictures", quiet)
    _, labels = np.unique(pictures.identities[~away], return_inverse=True)
    mask = torch.from_numpy(away)
    names = tuple(pictures.paths[i].relative_to(pictures.folder).as_posix() for i in np.flatnonzero(~away))
    return TrainingData(bank[~mask].to(device), labels, bank[mask].to(device), pictures.identities[away], names)


def glrec_batch(bank: images.ImageBank, index: Tensor, recipe: Recipe, draw: torch.Generator):
    """Half cropped, half whole -> normalised `(B, 3, H, W)`, log ratios `(B,)`, boxes `(B, 4)`, partial `(B,)`."""
    count = len(index)
    device = bank.images.device
    crop = batches.training_crops(count, recipe.glrec, draw)
    partial = torch.rand(count, generator=draw, device=device) < 0.5
    box = torch.where(partial[:, None], crop, geometry.whole(count, like=crop))
    view = batches.view_boxes(
        count, recipe.glrec.view_scale, recipe.glrec.view_shift, draw
    )  # detections are never cut alike,
    odd = batches.uniform(-recipe.glrec.stretch, recipe.glrec.stretch, count, draw=draw)  # nor of one shape
    view = torch.cat([view[:, :2], view[:, 2:] * torch.stack([odd, -odd], 1).clamp(min=0).exp()], 1)
    flipped = torch.rand(count, generator=draw, device=device) < recipe.augmentation.flip
    seen = batches.read_views(bank.images[batches.on(device, index)], geometry.compose(view, box), flipped)
    how = dataclasses.replace(recipe.augmentation, colour=recipe.glrec.colour)
    pictures = images.normalise(batches.augment(seen, how, draw))
    return pictures, odd + batches.ratio_of(box, recipe.glrec.ratio_jitter, draw), box, partial


def whole_views(count: int, recipe: Recipe, draw: torch.Generator, wide_share: float = 0.0) -> Tensor:
    """View boxes of whole pictures `(count, 4)`; a share of them wide, or CRLoc learns that nothing ever moves."""
    how = recipe.joint
    near = batches.view_boxes(count, how.whole_scale, how.whole_shift, draw)
    wide = batches.view_boxes(count, how.wide_scale, how.wide_shift, draw)
    chosen = torch.rand(count, 1, generator=draw, device=draw.device) < wide_share
    return torch.where(chosen, wide, near)


@dataclass
class JointBatch:
    """Four views of each of P identities, in this order: h1 (of picture A), h2 (of B), r1 (of A), r2 (of C).

    pictures `(4P, 3, H, W)` normalised; ratios `(4P,)`; labels `(4P,)`; view and crop boxes `(4P, 4)`; partial `(4P,)`.
    """

    pictures: Tensor
    ratios: Tensor
    labels: Tensor
    view: Tensor
    crop: Tensor
    partial: Tensor

    def share(self) -> "JointBatch":
        """The views of this process's identities, in the same order."""
        return JointBatch(*(distributed.share(each, 4) for each in vars(self).values()))


def joint_batch(
    data: TrainingData, labels: Tensor, index: Tensor, recipe: Recipe, views: str, draw: torch.Generator
) -> JointBatch:
    """The batch of METHOD.md §4 from pictures `index` `(P * 4,)`, an identity's four together; `views` as in Method."""
    device = data.train.images.device
    a, b, c = batches.on(device, index).view(-1, 4)[:, :3].T
    people = len(a)
    chosen = torch.cat([a, b, a, c])
    whole = whole_views(4 * people, recipe, draw, recipe.joint.wide_share)
    near = whole_views(2 * people, recipe, draw)
    part = batches.training_crops(2 * people, recipe.glrec, draw)
    flipped = (torch.rand(people, generator=draw, device=device) < recipe.augmentation.flip).repeat(4)
    canvas = geometry.whole(4 * people, like=whole)
    partial = torch.zeros(4 * people, dtype=torch.bool, device=device)
    if views == "crops":
        partial[2 * people :] = True
        view, crop = torch.cat([whole[: 2 * people], near]), torch.cat([canvas[: 2 * people], part])
    else:
        view, crop = whole, canvas
    seen = batches.read_views(data.train.images[chosen], geometry.compose(view, crop), flipped)
    pictures = images.normalise(batches.augment(seen, recipe.augmentation, draw))
    ratios = batches.ratio_of(crop, recipe.glrec.ratio_jitter, draw)
    return JointBatch(pictures, ratios, labels[chosen], view, crop, partial)


def heldout_queries(
    recipe: Recipe, data: TrainingData
) -> tuple[images.ImageBank, np.ndarray, images.ImageBank, np.ndarray, Tensor]:
    """Partial queries and whole gallery of held-out identities: (queries, ids, gallery, ids, the queries' true boxes).

    An identity's first pictures, cropped at known random boxes, are queries; the others (one at least) the gallery.
    """
    ids = data.heldout_ids
    is_query = np.zeros(len(ids), bool)
    for person in np.unique(ids):
        own = np.flatnonzero(ids == person)
        is_query[own[: min(recipe.selection.queries, len(own) - 1)]] = True
    chosen = torch.from_numpy(is_query).to(data.heldout.images.device)
    queries = data.heldout[chosen]
    draw = generator(0, "heldout queries", device=queries.images.device)
    box = batches.training_crops(len(queries), recipe.glrec, draw)
    seen = batches.read_views(queries.images, box, torch.zeros(len(queries), dtype=torch.bool, device=box.device))
    ratios = batches.ratio_of(box, recipe.glrec.ratio_jitter, draw)
    partial = images.ImageBank(seen.round().clamp(0, 255).to(torch.uint8), ratios)
    return partial, ids[is_query], data.heldout[~chosen], ids[~is_query], box
