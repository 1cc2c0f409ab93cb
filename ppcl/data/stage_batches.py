"""What the stages see: the split by identity, GLRec's batches, the joint stage's four views, held-out queries."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import geometry
from ..disk import processes
from ..recipes import Recipe, check_files
from . import datasets, image_bank, partial_views, shifted_crops
from .partial_views import generator

LOOKED_AT = 4096  # held-out gallery pictures, about


@dataclass
class TrainingData:
    """Training pictures, split by identity: `train` for the stages, `heldout` for selection alone.

    They lie on the device that the stages compute on, or, where that has no room for them, in memory or a mapped file.
    """

    train: image_bank.ImageBank
    labels: np.ndarray  # (N,) class of each training picture, 0..classes-1
    heldout: image_bank.ImageBank
    heldout_ids: np.ndarray
    device: torch.device = torch.device("cpu")
    names: tuple[str, ...] = ()  # (N,) file of each training picture, below the set's folder
    pictures: str = ""  # their fingerprint, with those held out

    @property
    def classes(self) -> int:
        """How many people are trained on."""
        return int(self.labels.max()) + 1


def training_data(recipe: Recipe, data: Path | str, device: str = "cpu", quiet: bool | None = None) -> TrainingData:
    """Read, decode and split the training set. The split depends on the identities alone, not on a run's seed."""
    check_files(recipe)
    pictures = datasets.training_set(recipe.task, data, recipe.data)
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
            f"{pictures.folder} shows {len(people)} people to train on; {kept_back} are held out and a batch needs "
            f"{needed}: add people, or --set backbone.identities=N --set backbone.batch=4N --set joint.identities=N "
            "--set joint.batch=4N"
        )
    order = torch.randperm(len(several), generator=generator(0, "heldout")).numpy()
    away = np.isin(pictures.identities, several[order[:kept_back]])
    first = pictures.keep(np.argsort(away, kind="stable"))  # training pictures, then those held out: slices, no copies
    count, size = int((~away).sum()), recipe.input.size
    kept = Path(data) / "decoded" / f"{pictures.name.replace('/', '-')}-{size[0]}x{size[1]}.safetensors"
    bank = image_bank.bank(first.pictures, size, "decoding training pictures", quiet, kept)
    _, labels = np.unique(first.identities[:count], return_inverse=True)
    where = torch.device(device)
    if where.type == "cuda" and bank.images.nbytes < image_bank.free(where) / 2:
        bank = bank.to(where)
    names = tuple(path.relative_to(first.folder).as_posix() for path in first.paths[:count])
    return TrainingData(bank[:count], labels, bank[count:], first.identities[count:], where, names, first.fingerprint)


def glrec_batch(bank: image_bank.ImageBank, index: Tensor, recipe: Recipe, draw: torch.Generator):
    """Half cropped, half whole -> normalised `(B, 3, H, W)`, log ratios `(B,)`, boxes `(B, 4)`, partial `(B,)`."""
    count = len(index)
    device = draw.device
    crop = partial_views.training_crops(count, recipe.glrec, draw)
    partial = torch.rand(count, generator=draw, device=device) < 0.5
    box = torch.where(partial[:, None], crop, geometry.whole(count, like=crop))
    view = partial_views.view_boxes(
        count, recipe.glrec.view_scale, recipe.glrec.view_shift, draw
    )  # detections are never cut alike,
    odd = partial_views.uniform(-recipe.glrec.stretch, recipe.glrec.stretch, count, draw=draw)  # nor of one shape
    view = torch.cat([view[:, :2], view[:, 2:] * torch.stack([odd, -odd], 1).clamp(min=0).exp()], 1)
    flipped = torch.rand(count, generator=draw, device=device) < recipe.augmentation.flip
    seen = partial_views.read_views(bank.images, geometry.compose(view, box), flipped, index)
    how = dataclasses.replace(recipe.augmentation, colour=recipe.glrec.colour)
    pictures = image_bank.normalise(partial_views.augment(seen, how, draw), out=seen)
    return pictures, odd + partial_views.ratio_of(box, recipe.glrec.ratio_jitter, draw), box, partial


def backbone_batch(
    bank: image_bank.ImageBank, index: Tensor, recipe: Recipe, draw: torch.Generator, out: Tensor | None = None
) -> Tensor:
    """Whole pictures as `backbone.views` wants them: normalised `(B, 3, H, W)`, in `out` where its shape fits."""
    if recipe.backbone.views == "usual":
        return shifted_crops.usual_views(bank.images, index, recipe.augmentation, recipe.backbone.pad, draw, out)
    view = whole_views(len(index), recipe, draw)
    flipped = torch.rand(len(index), generator=draw, device=draw.device) < recipe.augmentation.flip
    fits = out is not None and len(out) == len(index)
    seen = partial_views.read_views(bank.images, view, flipped, index, out if fits else None)
    return image_bank.normalise(partial_views.augment(seen, recipe.augmentation, draw), out=seen)


def whole_views(count: int, recipe: Recipe, draw: torch.Generator, wide_share: float = 0.0) -> Tensor:
    """View boxes of whole pictures `(count, 4)`; a share of them wide, or CRLoc learns that nothing ever moves."""
    near = partial_views.view_boxes(count, recipe.augmentation.whole_scale, recipe.augmentation.whole_shift, draw)
    how = recipe.joint
    wide = partial_views.view_boxes(count, how.wide_scale, how.wide_shift, draw)
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
        return JointBatch(*(processes.share(each, 4) for each in vars(self).values()))


def joint_batch(
    data: TrainingData, labels: Tensor, index: Tensor, recipe: Recipe, views: str, draw: torch.Generator
) -> JointBatch:
    """The batch of METHOD.md §4 from pictures `index` `(P * 4,)`, an identity's four together; `views` as in Method."""
    device = draw.device
    a, b, c = index.view(-1, 4)[:, :3].T
    people = len(a)
    chosen = torch.cat([a, b, a, c])
    whole = whole_views(4 * people, recipe, draw, recipe.joint.wide_share)
    near = whole_views(2 * people, recipe, draw)
    part = partial_views.training_crops(2 * people, recipe.glrec, draw)
    flipped = (torch.rand(people, generator=draw, device=device) < recipe.augmentation.flip).repeat(4)
    canvas = geometry.whole(4 * people, like=whole)
    partial = torch.zeros(4 * people, dtype=torch.bool, device=device)
    if views == "crops":
        partial[2 * people :] = True
        view, crop = torch.cat([whole[: 2 * people], near]), torch.cat([canvas[: 2 * people], part])
    else:
        view, crop = whole, canvas
    seen = partial_views.read_views(data.train.images, geometry.compose(view, crop), flipped, chosen)
    pictures = image_bank.normalise(partial_views.augment(seen, recipe.augmentation, draw), out=seen)
    ratios = partial_views.ratio_of(crop, recipe.glrec.ratio_jitter, draw)
    return JointBatch(pictures, ratios, labels[image_bank.on(device, chosen)], view, crop, partial)


def heldout_queries(
    recipe: Recipe, data: TrainingData
) -> tuple[image_bank.ImageBank, np.ndarray, image_bank.ImageBank, np.ndarray, Tensor]:
    """Partial queries and whole gallery of held-out identities: (queries, ids, gallery, ids, the queries' true boxes).

    An identity's first pictures, cropped at known random boxes, are queries; the next ones (one at least) the gallery,
    of about LOOKED_AT: CASIA-WebFace's held-out people have ten times as many, whose maps would fill 20 GB.
    """
    ids, people = data.heldout_ids, np.unique(data.heldout_ids)
    asks, answers = np.zeros((2, len(ids)), bool)
    for person in people:
        own = np.flatnonzero(ids == person)
        few = min(recipe.selection.queries, len(own) - 1)
        asks[own[:few]] = True
        answers[own[few : few + max(1, LOOKED_AT // len(people))]] = True
    on = data.heldout.images.device
    queries, gallery = (data.heldout[torch.from_numpy(part).to(on)] for part in (asks, answers))
    draw, there = generator(0, "heldout queries"), queries.images.device  # the same wherever there was room
    box = partial_views.training_crops(len(queries), recipe.glrec, draw)
    ratios = partial_views.ratio_of(box, recipe.glrec.ratio_jitter, draw).to(there)
    box = box.to(there)
    seen = partial_views.read_views(queries.images, box, torch.zeros(len(queries), dtype=torch.bool, device=there))
    partial = image_bank.ImageBank(seen.round().clamp(0, 255).to(torch.uint8), ratios)
    return partial, ids[asks], gallery, ids[answers], box
