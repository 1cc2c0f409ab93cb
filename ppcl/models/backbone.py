"""Backbones: pictures -> feature map -> embedding. ResNet-50 for people, a face network, a small net for the demo."""

import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..recipes import BackboneStage


class Block(nn.Module):
    """A basic residual block."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.skip = None
        if stride != 1 or before != after:
            self.skip = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.skip is None else self.skip(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + skip, inplace=True)


def small_net() -> nn.Sequential:
    """The demo's net: 16-32-64-128 channels, stride 8, so that 128 x 64 gives a 16 x 8 map."""
    stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True)]
    return nn.Sequential(*stem, Block(16, 32, 2), Block(32, 64, 2), Block(64, 128, 1))


def resnet50(weights: str) -> nn.Sequential:
    """torchvision's ResNet-50 with last stride 1, without its head: 256 x 128 gives 2048 x 16 x 8."""
    import torchvision

    chosen = torchvision.models.ResNet50_Weights.IMAGENET1K_V2 if weights == "imagenet" else None
    try:
        net = torchvision.models.resnet50(weights=chosen)
    except OSError as error:
        raise RuntimeError(
            f"ImageNet weights could not be fetched ({error}); give --set backbone.weights=PATH.safetensors, "
            "or start from scratch with --set backbone.weights=none"
        ) from None
    net.layer4[0].conv2.stride = net.layer4[0].downsample[0].stride = (1, 1)
    body = [net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4]
    return nn.Sequential(*body)


def face34() -> nn.Sequential:
    """34 layers for faces: stem at full resolution, 64-128-256-512 channels, so that 112 x 112 gives 512 x 14 x 14.

    Of the kind trained on CASIA-WebFace with a margin softmax; the last stage keeps its size: regions are read there.
    """
    layers = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(True)]
    before = 64
    for after, blocks, stride in ((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1)):
        layers += [Block(before if i == 0 else after, after, stride if i == 0 else 1) for i in range(blocks)]
        before = after
    return nn.Sequential(*layers)


NETS = {
    "small": (lambda weights: small_net(), 128),
    "resnet50": (resnet50, 2048),
    "face34": (lambda weights: face34(), 512),
}


class Backbone(nn.Module):
    """Feature map, masked global average pooling, BN-neck and (in training) an identity classifier.

    With a margin softmax the classifier is pytorch-metric-learning's loss, which holds a unit vector for each class.
    """

    def __init__(self, recipe: BackboneStage, classes: int, pretrained: bool = True):
        super().__init__()
        make, self.channels = NETS[recipe.architecture]
        source = recipe.weights if pretrained else "none"
        self.body = make(source)
        if source == "imagenet" and recipe.architecture != "resnet50":
            raise RuntimeError(f"there are no ImageNet weights for {recipe.architecture}: set backbone.weights=none")
        if source not in ("imagenet", "none"):
            _load_body(self.body, source)
        self.neck = nn.BatchNorm1d(self.channels)
        nn.init.zeros_(self.neck.bias).requires_grad_(False)
        self.classifier = _classifier(recipe, self.channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pictures `(B, 3, H, W)` -> feature map `(B, C, h, w)`."""
        return self.body(images)

    def pool(self, features: Tensor, visible: Tensor) -> Tensor:
        """Mean over visible positions: map `(B, C, h, w)`, visibility `(B, 1, h, w)` -> `(B, C)` before the BN-neck.

        A picture that is nowhere visible gives 0.
        """
        features = features.float()
        return (features * visible).sum((2, 3)) / visible.sum((2, 3)).clamp(min=1e-4)

    def whiten(self, features: Tensor) -> Tensor:
        """Standardise each channel of `(B, C, …)` with the BN-neck's running statistics and scale (METHOD.md §3)."""
        scale = self.neck.weight * (self.neck.running_var + self.neck.eps).rsqrt()
        shape = (1, -1) + (1,) * (features.dim() - 2)
        return (features.float() - self.neck.running_mean.view(shape)) * scale.view(shape)


def _classifier(recipe: BackboneStage, channels: int, classes: int) -> nn.Module:
    if recipe.softmax == "cosface":
        from pytorch_metric_learning.losses import CosFaceLoss  # late, because it is slow to import

        return CosFaceLoss(classes, channels, margin=recipe.softmax_margin, scale=recipe.softmax_scale)
    linear = nn.Linear(channels, classes, bias=False)
    nn.init.normal_(linear.weight, std=0.001)
    return linear


def on_map(visible: Tensor, cells: tuple[int, int]) -> Tensor:
    """A visibility mask `(B, 1, H, W)` on a feature map's cells: `(B, 1, h, w)`, the share of each that is visible."""
    return F.adaptive_avg_pool2d(visible, cells)


def _load_body(body: nn.Module, path: str) -> None:
    """Weights of the body from a safetensors file with this body's own names, or torchvision's ResNet's."""
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RuntimeError(f"backbone.weights={path}: not a readable safetensors file ({error})") from None
    stems = {"conv1.": "0.", "bn1.": "1.", "layer1.": "4.", "layer2.": "5.", "layer3.": "6.", "layer4.": "7."}
    renamed = {}
    for name, value in found.items():
        stem = next((stem for stem in stems if name.startswith(stem)), None)
        renamed[stems[stem] + name.removeprefix(stem) if stem else name] = value
    wanted = body.state_dict()
    missing = [name for name in wanted if name not in renamed and not name.endswith("num_batches_tracked")]
    if missing:
        raise RuntimeError(
            f"backbone.weights={path}: lacks {len(missing)} tensors, {missing[0]} first; is it another network's?"
        )
    wrong = [name for name in wanted if name in renamed and renamed[name].shape != wanted[name].shape]
    if wrong:
        shapes = tuple(renamed[wrong[0]].shape), tuple(wanted[wrong[0]].shape)
        raise RuntimeError(f"backbone.weights={path}: {wrong[0]} has shape {shapes[0]}, not {shapes[1]}")
    body.load_state_dict({name: renamed[name] for name in wanted if name in renamed}, strict=False)
