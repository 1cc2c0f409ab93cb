"""Pictures -> features, as matching needs them (METHOD.md §5)."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.image_bank import ImageBank, free, normalise
from ..models.crloc import stripes
from ..models.glrec import placements
from ..models.ppcl import PPCL

STRIPES = 6  # rows of a region that are read; pairs of them give the three stripes
MAPS = ("keys", "whitened", "visible", "gram")  # what matching reads of gallery pictures
MANY = 4  # so many times as many channels as cells: matching goes by Gram matrices, which is faster there


@dataclass
class Features:
    """What matching needs of N pictures, each in M views: one, or, of a query, its placements and its mirror image's.

    embedding `(N, M, C)`, unit length; box `(N, M, 4)`; gate `(N,)` logits; points `(N, M, K, D)` and stripes
    `(N, M, 6, C)` of the visible box, for the query's side; keys `(N, D, h, w)`, whitened map `(N, C, h, w)`, visible
    `(N, 1, h, w)` and gram (`gram_matrix`) of the first view, for the gallery's side. A mirror image's views follow the
    picture's own.
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

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, index) -> "Features":
        return Features(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @classmethod
    def joined(cls, parts: "Iterable[Features]", count: int) -> "Features":
        """Features of `count` pictures, one after the other as they come: no part outlives the next.

        Maps that would fill much of a GPU, as those of Market-1501's gallery, are kept in the host's memory; `seen`
        brings what is matched.
        """
        whole, done = {}, 0
        for part in parts:
            for field in fields(cls):
                value = getattr(part, field.name)
                if field.name not in whole:
                    where = "cpu" if field.name in MAPS and _fills(value, count) else value.device
                    whole[field.name] = torch.empty(count, *value.shape[1:], dtype=value.dtype, device=where)
                whole[field.name][done : done + len(part)] = value
            done += len(part)
        return cls(**whole)

    def to(self, device: torch.device | str) -> "Features":
        """The same features on a device."""
        return Features(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def asking(self, index: Tensor | slice) -> "Features":
        """These pictures as queries: what the query's side needs of them; they have no maps."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        none = {name: values[name].new_empty(0, *values[name].shape[1:]) for name in MAPS}
        return Features(**{name: value[index] for name, value in values.items() if name not in MAPS}, **none)

    def seen(self, index: Tensor | slice, device: torch.device | None = None) -> "Features":
        """These pictures as a gallery: only what the gallery's side needs is gathered, the rest stays whole."""
        mine = {name: getattr(self, name) for name in MAPS}
        if isinstance(index, slice):
            mine = {name: value[index] for name, value in mine.items()}
        else:  # copies whole pictures, several times as fast as [index]
            mine = {name: value.index_select(0, index.to(value.device)) for name, value in mine.items()}
        return replace(self, **{name: value.to(device) for name, value in mine.items()})

    def bfloat16(self) -> "Features":
        """The gallery's maps in half the memory: regions are located in float32 and read in bfloat16.

        Ranks may change: `metrics.rank_changes` says by how much.
        """
        return replace(self, keys=self.keys.bfloat16(), whitened=self.whitened.bfloat16())


def _fills(value: Tensor, count: int) -> bool:
    """Whether `count` pictures' values of this shape take more than a quarter of what is free on their GPU."""
    return value.is_cuda and count * value[0].nbytes > free(value.device) / 4


@torch.inference_mode()
def describe(
    model: PPCL, pictures: ImageBank, several: bool = False, boxes: Tensor | None = None, batch: int = 256
) -> Features:
    """Features of a bank of pictures.

    `several`: in several views, as queries are: their mirror images, too, and each in the placements of the model's
    row. `boxes` `(N, 4)` are used in place of GLRec's predictions where given. Raises ValueError for a model that is
    not in eval mode.
    """
    if model.training:
        raise ValueError("describe needs a model in eval mode")
    device = next(model.parameters()).device
    how = model.recipe.matching
    mirrors = 2 if several and how.mirror else 1
    count = how.placements if several and model.method.placements else 1
    each = max(1, batch // (mirrors * count))

    def part(start: int) -> Features:
        some = pictures[start : start + each].to(device)
        given = None if boxes is None else boxes[start : start + each].to(device)
        return _describe(model, normalise(some.images), some.ratios, given, mirrors, count)

    return Features.joined(map(part, range(0, len(pictures), each)), len(pictures))


def _describe(model: PPCL, images: Tensor, ratios: Tensor, given: Tensor | None, mirrors: int, count: int) -> Features:
    number, views = len(images), mirrors * count
    if mirrors == 2:
        images = torch.stack([images, images.flip(-1)], 1).flatten(0, 1)
        ratios = ratios.repeat_interleave(2)
    box, gate = model.predict(images, ratios)
    if given is not None:
        turned = given * given.new_tensor([-1, 1, 1, 1]) + given.new_tensor([1, 0, 0, 0])
        box, gate = torch.stack([given, turned][:mirrors], 1).flatten(0, 1).to(box), torch.ones_like(gate)
    view = torch.arange(number * views, device=box.device)  # which of those that are described each view is
    if count > 1:
        how = model.recipe.matching
        box, own = placements(box, how.placement_shift, how.placement_growth).flatten(0, 1), view // count
        once, view = torch.where(gate[own] > 0, view, own * count).unique(return_inverse=True)  # a whole one lies once
        images, ratios, gate, box = images[own[once]], ratios[own[once]], gate[own[once]], box[once]
    layout = model.layout(images, ratios, (box, gate))
    features, visible, pooled = model.features(layout)
    embedding = F.normalize(model.backbone.neck(pooled), dim=1)
    keys, whitened = model.crloc.keys(features), model.described(features)
    points, _ = model.crloc.queries(keys, layout.box)
    read = stripes(whitened, layout.box, model.crloc.grid, STRIPES)
    view = view.view(number, views)
    embedding, box, points, read = (value[view] for value in (embedding, layout.box, points, read))
    keys, whitened, visible, gate = (value[view[:, 0]] for value in (keys, whitened, visible, gate))
    return Features(embedding, box, gate, points, read, keys, whitened, visible, gram_matrix(whitened))


def gram_matrix(maps: Tensor) -> Tensor:
    """Products of a map's cells with each other: `(N, C, h, w)` -> `(N, h * w, h * w)`.

    Only of maps with MANY times as many channels as cells, as ResNet-50's; of others `(N, 0, 0)`.
    """
    cells = maps.flatten(2)
    return cells.transpose(1, 2) @ cells if cells.shape[1] > MANY * cells.shape[2] else maps.new_empty(len(maps), 0, 0)
