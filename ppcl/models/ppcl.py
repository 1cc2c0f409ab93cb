"""GLRec, backbone and CRLoc together: picture -> rectified picture -> feature map -> located region."""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import geometry
from ..recipes import METHODS, Recipe
from .backbone import Backbone
from .crloc import CRLoc
from .glrec import GLRec, padded_box, rectify


@dataclass
class Layout:
    """Pictures on the holistic canvas.

    canvas `(B, 3, H, W)`; visible `(B, 1, H, W)`; box `(B, 4)`, the whole canvas if the gate calls the picture whole;
    gate `(B,)`, a logit (positive: partial).
    """

    canvas: Tensor
    visible: Tensor
    box: Tensor
    gate: Tensor


class PPCL(nn.Module):
    """GLRec, backbone and CRLoc, as one row of the result table uses them."""

    def __init__(self, recipe: Recipe, classes: int, row: str = "ppcl", pretrained: bool = False):
        super().__init__()
        self.recipe, self.row, self.method, self.classes = recipe, row, METHODS[row], classes
        self.glrec = GLRec(recipe.input.size, recipe.glrec)
        self.backbone = Backbone(recipe.backbone, classes, pretrained)
        self.crloc = CRLoc(self.backbone.channels, recipe.joint, recipe.matching.min_visible, self.method.prior)
        self.fusion_weights: dict[str, float] = {}  # row -> w, chosen on held-out training identities

    def as_row(self, row: str) -> "PPCL":
        """The same networks as another row of the table uses them."""
        other = copy.copy(self)
        other.row, other.method = row, METHODS[row]
        return other

    def mark(self) -> Tensor:
        """A number that stands for these weights, as features keep it: `()`, on the model's device."""
        return next(self.backbone.classifier.parameters())[0].detach().double().sum().float()  # a row will do

    def predict(self, images: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
        """Place of pictures `(B, 3, H, W)` of log ratio `(B,)` on the canvas: boxes `(B, 4)`, gate logits `(B,)`."""
        if self.method.layout == "glrec":
            return self.glrec(images, ratios)
        if self.method.layout in ("pad", "pad-queries"):
            return padded_box(ratios), torch.ones_like(ratios)
        return geometry.whole(len(images), like=ratios), -torch.ones_like(ratios)

    def layout(self, images: Tensor, ratios: Tensor, predicted: tuple[Tensor, Tensor] | None = None) -> Layout:
        """Put normalised pictures on the canvas, by given (boxes, gate logits) or those of `predict`."""
        box, gate = predicted or self.predict(images, ratios)
        partial = gate > 0
        canvas, visible = rectify(images, box, partial)
        return Layout(canvas, visible, torch.where(partial[:, None], box, geometry.whole(len(box), like=box)), gate)

    def features(self, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """A layout -> feature map `(B, C, h, w)`, its visibility `(B, 1, h, w)`, pooled features `(B, C)`."""
        canvas = layout.canvas.contiguous(memory_format=torch.channels_last)
        features = self.backbone(canvas)
        visible = F.adaptive_avg_pool2d(layout.visible, tuple(features.shape[-2:]))  # share of each cell
        return features, visible, self.backbone.pool(features, visible)

    def described(self, features: Tensor) -> Tensor:
        """The map that region descriptors are read from: `(B, C, h, w)`, whitened except in one ablation."""
        return self.backbone.whiten(features) if self.method.whiten else features.float()
