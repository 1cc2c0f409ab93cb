"""GLRec, the gated layout rectifier: places a partial picture on the canvas of a whole one.

The abstract names the module and its purpose; this form is a reconstruction (METHOD.md §1).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import geometry
from ..recipes import GLRecStage


class GLRec(nn.Module):
    """Predicts the box that a picture was cropped from, and a gate: is the picture partial at all?

    The box's shape follows the file's aspect ratio, up to a small correction. The gate does not see the ratio, or it
    would take whole pictures of unusual shape for partial ones.
    """

    def __init__(self, size: tuple[int, int], recipe: GLRecStage):
        super().__init__()
        width = recipe.width
        self.min_side, self.max_correction = recipe.min_side, recipe.correction
        layers, before = [], 3
        for channels in (width, 2 * width, 4 * width, 4 * width):
            layers += [nn.Conv2d(before, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(True)]
            before = channels
        self.trunk = nn.Sequential(*layers)
        rows, columns = (math.ceil(side / 32) for side in size)  # half the input, then four strides of 2
        self.hidden = nn.Linear(before * rows * columns, 8 * width)
        self.box_head = nn.Linear(8 * width + 1, 4)
        self.gate_head = nn.Linear(8 * width, 1)
        nn.init.normal_(self.box_head.weight, std=0.01)
        nn.init.zeros_(self.box_head.bias)

    def forward(self, images: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pictures `(B, 3, H, W)` and log ratios `(B,)` -> boxes `(B, 4)`, gate logits `(B,)`."""
        x = geometry.halved(images)
        x = F.relu(self.hidden(self.trunk(x).flatten(1)))
        gate = self.gate_head(x).squeeze(1)
        raw = self.box_head(torch.cat([x, ratios[:, None]], 1)).float()
        return self.box(raw, ratios), gate.float()

    def box(self, raw: Tensor, ratios: Tensor) -> Tensor:
        """Boxes from raw outputs: a centre, and sides from a size and the corrected ratio. `(B, 4)` -> `(B, 4)`."""
        centre = raw[:, :2].sigmoid()
        size = (raw[:, 2] - 0.4).exp()  # an untrained network starts near the mean crop
        half_log = (ratios + self.max_correction * raw[:, 3].tanh()) / 2
        sides = torch.stack([size * half_log.exp(), size * (-half_log).exp()], 1)
        return torch.cat([centre, sides.clamp(self.min_side, 1)], 1)


def rectify(images: Tensor, box: Tensor, partial: Tensor) -> tuple[Tensor, Tensor]:
    """Place partial pictures on the canvas, leave whole ones unchanged -> canvas, visibility `(B, 1, H, W)`.

    images `(B, 3, H, W)`, boxes `(B, 4)`, partial bool `(B,)`. The box receives a gradient from the canvas, by its
    content and its border, but none from the visibility.
    """
    if images.is_cuda:  # all are placed, since the host would have to wait for the choice
        placed, visible = geometry.place(images, box)
        keep = partial[:, None, None, None]
        return torch.where(keep, placed, images), torch.where(keep, visible.detach(), torch.ones_like(visible))
    index = partial.nonzero().squeeze(1)
    placed, visible = geometry.place(images[index], box[index])
    whole = images.new_ones(len(images), 1, *images.shape[-2:])
    return images.index_copy(0, index, placed), whole.index_copy(0, index, visible.detach())


def padded_box(ratios: Tensor) -> Tensor:
    """The largest centred box with a picture's own ratio: `(B,)` -> `(B, 4)`; for the padded baseline."""
    width, height = ratios.exp().clamp(max=1), (-ratios).exp().clamp(max=1)
    centre = torch.full_like(width, 0.5)
    return torch.stack([centre, centre, width, height], 1)


def placements(box: Tensor, shift: float, growth: float) -> Tensor:
    """Seven placements of a box: itself, shifted in x and y, grown and shrunk. `(B, 4)` -> `(B, 7, 4)`."""
    steps = [(0, 0, 0), (shift, 0, 0), (-shift, 0, 0), (0, shift, 0), (0, -shift, 0), (0, 0, growth), (0, 0, -growth)]
    moved = box[:, None] + box.new_tensor([(x, y, 2 * side, 2 * side) for x, y, side in steps])
    return torch.cat([moved[..., :2], moved[..., 2:].clamp(0.1, 1.2)], -1)


def cap_gradient(box: Tensor, cap: float) -> Tensor:
    """The box, with its incoming gradient capped at `cap * 2 / B` for each sample (METHOD.md §4)."""
    if box.requires_grad:
        limit = cap * 2 / len(box)
        box.register_hook(lambda g: g * (limit / g.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1))
    return box
