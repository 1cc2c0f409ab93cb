"""The backbone: pictures -> feature map -> masked pooling -> BN-neck, and in training an identity classifier."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..recipes import BackboneStage
from . import nets


class Backbone(nn.Module):
    """Feature map, masked global average pooling, BN-neck and (in training) an identity classifier.

    With a margin softmax the classifier is a MarginSoftmax instead of a linear layer.
    """

    def __init__(self, recipe: BackboneStage, classes: int, pretrained: bool = True):
        super().__init__()
        self.body = nets.body(recipe.architecture, recipe.weights if pretrained else "none", recipe.stride)
        self.frozen = nets.first_layers(self.body, recipe.frozen)
        self.channels = nets.channels(self.body, recipe.architecture)
        self.neck = nn.BatchNorm1d(self.channels)
        nn.init.zeros_(self.neck.bias).requires_grad_(False)
        if recipe.softmax == "cosface":
            self.classifier = MarginSoftmax(self.channels, classes, recipe.softmax_scale)
        else:
            self.classifier = nn.Linear(self.channels, classes, bias=False)
            nn.init.normal_(self.classifier.weight, std=0.001)

    def train(self, mode: bool = True) -> "Backbone":
        """Set the mode, except for frozen layers: their statistics stay, too."""
        super().train(mode)
        for layer in self.frozen:
            layer.eval().requires_grad_(False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pictures `(B, 3, H, W)` -> feature map `(B, C, h, w)`."""
        return self.body(images)

    def pool(self, features: Tensor, visible: Tensor) -> Tensor:
        """Mean over visible positions: map `(B, C, h, w)`, visibility `(B, 1, h, w)` -> `(B, C)` before the BN-neck.

        A picture without visible positions gives 0.
        """
        features = features.float()
        return (features * visible).sum((2, 3)) / visible.sum((2, 3)).clamp(min=1e-4)

    def whiten(self, features: Tensor) -> Tensor:
        """Standardise each channel of `(B, C, …)` with the BN-neck's running statistics and scale (METHOD.md §3)."""
        scale = self.neck.weight * (self.neck.running_var + self.neck.eps).rsqrt()
        shape = (1, -1) + (1,) * (features.dim() - 2)
        return (features.float() - self.neck.running_mean.view(shape)) * scale.view(shape)


class MarginSoftmax(nn.Module):
    """Scaled cosines to one vector a class; the loss takes the margin off the true class's cosine (CosFace, 2018)."""

    def __init__(self, channels: int, classes: int, scale: float):
        super().__init__()
        self.scale = scale
        self.W = nn.Parameter(torch.randn(channels, classes))

    def forward(self, embedding: Tensor) -> Tensor:
        """`(B, C)` -> logits `(B, classes)`, in fp32: cosines times 64 need every digit."""
        with torch.autocast(embedding.device.type, enabled=False):
            return self.scale * (F.normalize(embedding.float(), dim=1) @ F.normalize(self.W, dim=0))
