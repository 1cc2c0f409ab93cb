"""Pictures -> features, as matching needs them (METHOD.md §5)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..data.image_bank import ImageBank, free, normalise
from ..models.crloc import stripes
from ..models.glrec import placements
from ..models.peers import canvas_stripes, unit_cells
from ..models.ppcl import PPCL

STRIPES = 6  # rows read from a region; pairs of them make up the three stripes of a descriptor
MAPS = ("keys", "whitened", "visible", "gram")  # read by the gallery's side alone
GRAM_FACTOR = 4  # with more than this many channels a cell, matching by Gram matrices is faster


@dataclass
class Features:
    """Features of N pictures, each in M views: 1 for a gallery; for queries, all placements and their mirror images.

    embedding `(N, M, C)`, unit length; box `(N, M, 4)`; gate `(N,)`, logits. The query's side reads points `(N, M, K,
    D)` and stripes `(N, M, 6, C)` of the visible box (or the canvas's `parts`); the gallery's side reads keys `(N, D,
    h, w)`, whitened map `(N, C, h, w)`, visibility `(N, 1, h, w)` and gram (see `gram_matrix`), all of the first view.
    The mirror image's views follow the picture's own. `mark` `(N,)` stands for the model that described them.
    """

    embedding: Tensor
    box: Tensor
    gate: Tensor
    points: Tensor
    stripes: Tensor
    keys: Tensor
    whitened: Tensor
    visible: Tensor
    gram: Tensor
    mark: Tensor

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, index) -> "Features":
        return self._changed(lambda _, value: value[index])

    def _changed(self, change: Callable[[str, Tensor], Tensor]) -> "Features":
        return Features(**{name: change(name, value) for name, value in vars(self).items()})

    @classmethod
    def joined(cls, batches: "Iterable[Features]", count: int) -> "Features":
        """Features of `count` pictures that come in batches; each batch is freed before the next is made.

        Maps that would take more than a quarter of what is free on their GPU stay in the host's memory; `as_gallery`
        moves those that are matched.
        """
        whole, done = {}, 0
        for batch in batches:
            for name, value in vars(batch).items():
                if name not in whole:
                    large = name in MAPS and value.is_cuda and count * value[0].nbytes > free(value.device) / 4
                    device = "cpu" if large else value.device
                    whole[name] = torch.empty(count, *value.shape[1:], dtype=value.dtype, device=device)
                whole[name][done : done + len(batch)] = value
            done += len(batch)
        return cls(**whole)

    def to(self, device: torch.device | str) -> "Features":
        """The same features on a device."""
        return self._changed(lambda _, value: value.to(device))

    def as_queries(self, index: Tensor | slice) -> "Features":
        """The chosen pictures as queries, without the maps of the gallery's side."""
        return self._changed(lambda name, one: one.new_empty(0, *one.shape[1:]) if name in MAPS else one[index])

    def as_gallery(self, index: Tensor | slice, device: torch.device | None = None) -> "Features":
        """Only the maps of the chosen pictures, on a device; all other fields stay those of the whole gallery."""

        def chosen(value: Tensor) -> Tensor:  # index_select copies whole pictures, several times as fast as [index]
            return value[index] if isinstance(index, slice) else value.index_select(0, index.to(value.device))

        return replace(self, **{name: chosen(getattr(self, name)).to(device) for name in MAPS})

    def with_truth(self, figures: Tensor, view: Tensor | None = None) -> "Features":
        """For the row `oracle-region`: points and keys say where regions truly are, in frames of the drawn figures.

        figures `(N, 5)`; of queries also each one's view `(N, 4)` of its picture.
        """
        if view is None:
            box = geometry.compose(self.box[:, 0].to(figures), figures[:, :4])
            return replace(self, keys=torch.cat([box, figures[:, 4:]], 1)[..., None, None].to(self.box))
        part = geometry.in_figure(view.to(figures), figures).to(self.box)[:, None].repeat(1, self.box.shape[1], 1)
        if part.shape[1] % 2 == 0:
            half = part[:, part.shape[1] // 2 :, 0]  # x of the mirror images
            half.neg_().add_(1)
        return replace(self, points=part[:, :, None])


@torch.inference_mode()
def describe(
    model: PPCL, pictures: ImageBank, several: bool = False, boxes: Tensor | None = None, batch: int = 256
) -> Features:
    """Features of a bank of pictures.

    `several`: describe several views of each picture, as queries need them: the placements of the model's row, and
    those of the mirror image. Boxes `(N, 4)`, where given, replace GLRec's predictions. Raises ValueError for a model
    that is not in eval mode.
    """
    if model.training:
        raise ValueError("describe needs a model in eval mode: call model.eval() first")
    device = next(model.parameters()).device
    settings = model.recipe.matching
    mirrors = 2 if several and settings.mirror else 1
    count = settings.placements if several and model.method.placements else 1
    if model.method.layout == "pad-queries" and not several:
        boxes = geometry.whole(len(pictures))
    each = max(1, batch // (mirrors * count))

    def described(start: int) -> Features:
        some = pictures[start : start + each].to(device)
        given = None if boxes is None else boxes[start : start + each].to(device)
        return _describe(model, normalise(some.images), some.ratios, given, mirrors, count)

    return Features.joined(map(described, range(0, len(pictures), each)), len(pictures))


def _describe(model: PPCL, images: Tensor, ratios: Tensor, given: Tensor | None, mirrors: int, count: int) -> Features:
    """Features of one batch `(B, 3, H, W)`: `mirrors` (1 or 2) times `count` placements of each picture."""
    number, views = len(images), mirrors * count
    if mirrors == 2:
        images = torch.stack([images, images.flip(-1)], 1).flatten(0, 1)
        ratios = ratios.repeat_interleave(2)
    box, gate = model.predict(images, ratios)
    if given is not None:
        turned = given * given.new_tensor([-1, 1, 1, 1]) + given.new_tensor([1, 0, 0, 0])
        box, gate = torch.stack([given, turned][:mirrors], 1).flatten(0, 1).to(box), torch.ones_like(gate)
    view = torch.arange(number * views, device=box.device)  # the described view that stands for each view
    if count > 1:  # all placements of a whole picture are the whole canvas, so it is described once
        settings = model.recipe.matching
        box = placements(box, settings.placement_shift, settings.placement_growth).flatten(0, 1)
        own = view // count
        once, view = torch.where(gate[own] > 0, view, own * count).unique(return_inverse=True)
        images, ratios, gate, box = images[own[once]], ratios[own[once]], gate[own[once]], box[once]
    layout = model.layout(images, ratios, (box, gate))
    features, visible, pooled = model.features(layout)
    embedding = F.normalize(model.backbone.neck(pooled), dim=1)
    keys, whitened = model.crloc.keys(features), model.described(features)
    points, _ = model.crloc.queries(keys, layout.box)
    rows = parts(model, whitened, visible)
    rows = stripes(whitened, layout.box, model.crloc.grid, STRIPES) if rows is None else rows
    view = view.view(number, views)
    embedding, box, points, rows = (value[view] for value in (embedding, layout.box, points, rows))
    keys, whitened, visible, gate = (value[view[:, 0]] for value in (keys, whitened, visible, gate))
    gram, mark = gram_matrix(whitened), model.mark().expand(number)
    return Features(embedding, box, gate, points, rows, keys, whitened, visible, gram, mark)


def parts(model: PPCL, whitened: Tensor, visible: Tensor) -> Tensor | None:
    """Parts `(N, S, C)` of the whole canvas that a row compares, stripes or cells; None for rows that compare none."""
    if model.method.region == "stripes":
        return canvas_stripes(whitened, visible, model.method.stripes)
    if model.method.region == "cells":
        return unit_cells(whitened, visible, model.recipe.matching.min_visible)
    return None


def gram_matrix(maps: Tensor) -> Tensor:
    """Inner products between all cells of a map: `(N, C, h, w)` -> `(N, h * w, h * w)`.

    Empty, `(N, 0, 0)`, for maps with fewer than GRAM_FACTOR times as many channels as cells.
    """
    cells = maps.flatten(2)
    if cells.shape[1] <= GRAM_FACTOR * cells.shape[2]:
        return maps.new_empty(len(maps), 0, 0)
    return cells.transpose(1, 2) @ cells
