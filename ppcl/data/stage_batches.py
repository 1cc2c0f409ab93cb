"""The stages' pictures: the split by identity, which pictures make a batch, and the views of them.

All randomness comes from generators made from (seed, stage, epoch, step), so a resumed run draws the same batches.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import geometry
from ..disk.files import given_path
from ..recipes import Method, Recipe, check_files
from . import datasets, image_bank, partial_views
from .augmentation import augment, shifted_crops
from .partial_views import make_rng

GALLERY = 4096  # held-out gallery pictures, about


@dataclass
class TrainingData:
    """Training pictures, split by identity: `train` for the stages, `heldout` for the fusion weight alone.

    They are on the device that the stages compute on or, if they do not fit there, in memory or a mapped file.
    """

    train: image_bank.ImageBank
    labels: np.ndarray  # (N,) class of each training picture, 0..classes-1; -1: GLRec alone learns from it
    heldout: image_bank.ImageBank
    heldout_ids: np.ndarray
    device: torch.device = torch.device("cpu")
    names: tuple[str, ...] = ()  # (N,) file of each training picture, below the set's folder
    pictures: str = ""  # the set's fingerprint, held-out pictures included
    figures: Tensor | None = None  # (N + held-out, 5) of drawn pictures, see `figures`
    name: str = "the training set"
    heldout_cameras: np.ndarray | None = None  # where the set's test ignores matches of the query's own camera

    @property
    def classes(self) -> int:
        """The number of training identities."""
        return int(self.labels.max()) + 1


def training_data(recipe: Recipe, data: Path | str, device: str = "cpu", quiet: bool | None = None) -> TrainingData:
    """Read, decode and split the training set. The split depends on the identities alone, not on a run's seed."""
    check_files(recipe)
    pictures = datasets.training_set(recipe.task, data, recipe.data)
    datasets.print_notes(pictures.notes)
    people, counts = np.unique(pictures.identities, return_counts=True)
    several = people[counts > 1]  # people with one picture cannot be searched for: they are trained on
    if len(several) == 0:
        raise datasets.DataError(
            f"{pictures.folder} has one picture of each person: training needs several pictures of most people"
        )
    if recipe.data.folds:  # most of LFW's people have one picture
        people = several
    share = recipe.selection.heldout
    heldout = min(len(several), max(1, round(len(people) * share))) if share else 0
    needed = max(recipe.backbone.identities, recipe.joint.identities)
    if len(people) - heldout < needed:
        raise datasets.DataError(
            f"{pictures.folder} has {len(people)} people; {heldout} are held out, and a batch needs {needed} of the "
            f"other {len(people) - heldout}: add people, or --set backbone.identities=N --set backbone.batch=4N --set "
            "joint.identities=N --set joint.batch=4N"
        )
    order = torch.randperm(len(several), generator=make_rng(0, "heldout")).numpy()
    away = np.isin(pictures.identities, several[order[:heldout]])
    ordered = pictures.keep(np.argsort(away, kind="stable"))  # held-out ones last: both banks are slices, not copies
    count, (height, width) = int((~away).sum()), recipe.input.size
    name = f"{ordered.name.replace('/', '-')}-{height}x{width}-{ordered.fingerprint}.npy"
    kept = given_path(data) / "decoded" / name
    bank = image_bank.bank(ordered.pictures, recipe.input.size, "decoding training pictures", quiet, kept)
    recognised = np.setdiff1d(people, ordered.identities[count:])
    labels = np.searchsorted(recognised, ordered.identities[:count])
    labels[~np.isin(ordered.identities[:count], recognised)] = -1
    computing = torch.device(device)
    if computing.type == "cuda" and bank.images.nbytes < image_bank.free(computing) / 2:
        bank = bank.to(computing)
    names = tuple(path.relative_to(ordered.folder).as_posix() for path in ordered.paths[:count])
    ids, drawn, source = ordered.identities[count:], None, datasets.trained_on(recipe.task, data, recipe.data)
    if datasets.is_drawn(data, source.name):
        drawn = figures(datasets.truth_of(ordered, data))
    facts = pictures.fingerprint, drawn, pictures.name, ordered.cameras[count:] if source.cameras else None
    return TrainingData(bank[:count], labels, bank[count:], ids, computing, names, *facts)


def figures(truth) -> Tensor:
    """Lines of the table of drawn pictures -> each figure's box, and how far the camera is above the heads `(N, 5)`."""
    return torch.tensor(truth[[*(f"figure_{side}" for side in ("cx", "cy", "w", "h")), "above"]].to_numpy()).float()


# --- which pictures make a batch ---


def identity_batches(identities: np.ndarray, people: int, each: int, rng: torch.Generator) -> Iterator[Tensor]:
    """One epoch of P x K batches, `people` identities x `each` pictures: indices `(people * each,)`, by identity.

    Pictures of identity -1 are left out. Identities come from shuffled rounds through all of them, so none is missed.
    Each batch draws an identity's pictures anew, without repetition until they run out. An epoch has as many batches as
    fill the set once, at least one.
    """
    order = np.argsort(identities, kind="stable")[np.count_nonzero(identities < 0) :]
    groups = np.split(order, np.flatnonzero(np.diff(identities[order])) + 1)
    if len(groups) < people:
        raise ValueError(
            f"{len(groups)} identities cannot fill a batch of {people}: lower the stage's identities and batch"
        )
    waiting: list[int] = []
    for _ in range(max(1, len(order) // (people * each))):
        if len(waiting) < people:
            fresh = torch.randperm(len(groups), generator=rng).tolist()
            waiting += [g for g in fresh if g not in waiting] + [g for g in fresh if g in waiting]
        chosen, waiting = waiting[:people], waiting[people:]
        batch = []
        for group in chosen:
            members = groups[group]
            rounds = -(-each // len(members))
            picks = [torch.randperm(len(members), generator=rng) for _ in range(rounds)]
            batch.append(members[torch.cat(picks)[:each].numpy()])
        yield torch.from_numpy(np.concatenate(batch))


def shuffled_batches(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """One epoch of batches in random order: indices `(size,)`; a set smaller than a batch gives one smaller batch."""
    order = torch.randperm(count, generator=rng)
    yield from order.split(min(size, count))[: max(1, count // size)]


# --- the stages' views ---


def glrec_batch(bank: image_bank.ImageBank, index: Tensor, recipe: Recipe, rng: torch.Generator):
    """Stage 1: pictures `index` `(B,)`, half of them cropped.

    -> normalised `(B, 3, H, W)`, log ratios `(B,)`, true boxes `(B, 4)`, partial `(B,)`.
    """
    count, how = len(index), recipe.glrec
    crop = partial_views.training_crops(count, how, rng)
    partial = torch.rand(count, generator=rng, device=rng.device) < 0.5
    box = torch.where(partial[:, None], crop, geometry.whole(count, like=crop))
    view = partial_views.view_boxes(count, how.view_scale, how.view_shift, rng)  # detections differ in place and size
    stretch = partial_views.uniform(-how.stretch, how.stretch, count, rng=rng)  # and in shape
    view = torch.cat([view[:, :2], view[:, 2:] * torch.stack([stretch, -stretch], 1).clamp(min=0).exp()], 1)
    flipped = torch.rand(count, generator=rng, device=rng.device) < recipe.augmentation.flip
    views = partial_views.read_views(bank.images, geometry.compose(view, box), flipped, index)
    augmentation = dataclasses.replace(recipe.augmentation, colour=how.colour)
    pictures = image_bank.normalise(augment(views, augmentation, rng), out=views)
    return pictures, stretch + partial_views.ratio_of(box, how.ratio_jitter, rng), box, partial


def backbone_batch(bank: image_bank.ImageBank, index: Tensor, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """Stage 2: whole pictures `index` `(B,)`, normalised `(B, 3, H, W)`."""
    if recipe.backbone.views == "usual":
        return shifted_crops(bank.images, index, recipe.augmentation, recipe.backbone.pad, rng)
    view = whole_views(len(index), recipe, rng)
    flipped = torch.rand(len(index), generator=rng, device=rng.device) < recipe.augmentation.flip
    views = partial_views.read_views(bank.images, view, flipped, index)
    return image_bank.normalise(augment(views, recipe.augmentation, rng), out=views)


def whole_views(count: int, recipe: Recipe, rng: torch.Generator, wide_share: float = 0.0) -> Tensor:
    """View boxes of whole pictures `(count, 4)`; a share of them wide, or CRLoc learns that nothing ever moves."""
    near = partial_views.view_boxes(count, recipe.augmentation.whole_scale, recipe.augmentation.whole_shift, rng)
    wide = partial_views.view_boxes(count, recipe.joint.wide_scale, recipe.joint.wide_shift, rng)
    chosen = torch.rand(count, 1, generator=rng, device=rng.device) < wide_share
    return torch.where(chosen, wide, near)


@dataclass
class JointBatch:
    """Four views of each of P identities, in this order: h1 (of picture A), h2 (of B), r1 (of A), r2 (of C).

    pictures `(4P, 3, H, W)` normalised; ratios `(4P,)`; labels `(4P,)`; view and crop boxes `(4P, 4)`; partial `(4P,)`;
    the drawn figures `(4P, 5)`, for the oracle.
    """

    pictures: Tensor
    ratios: Tensor
    labels: Tensor
    view: Tensor
    crop: Tensor
    partial: Tensor
    figure: Tensor | None = None


def joint_batch(
    data: TrainingData, labels: Tensor, index: Tensor, recipe: Recipe, method: Method, rng: torch.Generator
) -> JointBatch:
    """Stage 3: a row's batch of METHOD.md §4 from pictures `index` `(P * 4,)`, by identity."""
    a, b, c = index.view(-1, 4)[:, :3].T
    people = len(a)
    chosen = torch.cat([a, b, a, c])
    wide_share = recipe.joint.still_share if method.region == "same" else recipe.joint.wide_share
    whole = whole_views(4 * people, recipe, rng, wide_share)
    near = whole_views(2 * people, recipe, rng)
    part = partial_views.training_crops(2 * people, recipe.glrec, rng)
    flipped = (torch.rand(people, generator=rng, device=rng.device) < recipe.augmentation.flip).repeat(4)
    canvas = geometry.whole(4 * people, like=whole)
    partial = torch.zeros(4 * people, dtype=torch.bool, device=rng.device)
    if method.views == "crops":
        partial[2 * people :] = True
        view, crop = torch.cat([whole[: 2 * people], near]), torch.cat([canvas[: 2 * people], part])
    else:
        view, crop = whole, canvas
    read = partial_views.read_views(data.train.images, geometry.compose(view, crop), flipped, chosen)
    pictures = image_bank.normalise(augment(read, recipe.augmentation, rng), out=read)
    ratios = partial_views.ratio_of(crop, recipe.glrec.ratio_jitter, rng)
    labels, figure = labels[image_bank.on(rng.device, chosen)], None
    if method.region == "true":
        figure = image_bank.on(rng.device, data.figures[chosen])
        figure = torch.cat([torch.where(flipped, 1 - figure[:, 0], figure[:, 0])[:, None], figure[:, 1:]], 1)
    return JointBatch(pictures, ratios, labels, view, crop, partial, figure)


def heldout_parts(recipe: Recipe, data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the held-out pictures that are queries, and of those that are gallery."""
    ids, people = data.heldout_ids, np.unique(data.heldout_ids)
    query, gallery = np.zeros((2, len(ids)), bool)
    for person in people:
        own = np.flatnonzero(ids == person)
        count = min(recipe.selection.queries, len(own) - 1)
        query[own[:count]] = True
        gallery[own[count : count + max(1, GALLERY // len(people))]] = True
    return query, gallery


def heldout_queries(
    recipe: Recipe, data: TrainingData
) -> tuple[image_bank.ImageBank, np.ndarray, image_bank.ImageBank, np.ndarray, Tensor]:
    """Partial queries and whole gallery of held-out identities: (queries, ids, gallery, ids, the queries' true boxes).

    An identity's first pictures, cropped at known random boxes, are queries; the next ones (at least one) are gallery,
    about GALLERY in all: CASIA-WebFace's held-out people have ten times as many, whose maps would fill 20 GB.
    """
    ids, (query, gallery) = data.heldout_ids, heldout_parts(recipe, data)
    device = data.heldout.images.device
    queries, answers = (data.heldout[torch.from_numpy(part).to(device)] for part in (query, gallery))
    rng = make_rng(0, "heldout queries")  # on the CPU: the same queries wherever the pictures are
    box = partial_views.training_crops(len(queries), recipe.glrec, rng)
    ratios = partial_views.ratio_of(box, recipe.glrec.ratio_jitter, rng).to(device)
    box = box.to(device)
    views = partial_views.read_views(queries.images, box, torch.zeros(len(queries), dtype=torch.bool, device=device))
    partial = image_bank.ImageBank(views.round().clamp(0, 255).to(torch.uint8), ratios)
    return partial, ids[query], answers, ids[gallery], box
