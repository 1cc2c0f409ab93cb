"""Nets that turn pictures into feature maps: two of our own, any of torchvision's or timm's, or the user's.

A recipe and a checkpoint's header name the net: `small`, `face34`; a classification net of torchvision (`resnet50`),
also as `torchvision:NAME`; `timm:NAME` if timm is installed; or `own:NAME`, which a notebook puts into NETS.
"""

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Container
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

WRAPPERS = ("model", "module", "backbone", "body")  # DataParallel's, other projects', our own checkpoints'
HEADS = ("avgpool", "classifier", "fc", "head", "heads")  # torchvision's names for what follows the last map


class BasicBlock(nn.Module):
    """torchvision's basic residual block, by the same names: two 3 x 3 convolutions and a skip.

    Importing torchvision takes as long as importing PyTorch, so it is imported only for its own nets.
    """

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample = nn.Identity()
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` -> `(B, C', H / stride, W / stride)`."""
        found = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(found.add_(self.downsample(x)), inplace=True)


def residual_net(width: int, stride: int, *stages: tuple[int, int, int]) -> nn.Sequential:
    """A stem of `width` channels and this stride, then stages of basic blocks: (channels, blocks, stride)."""
    layers = [nn.Conv2d(3, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
    for after, blocks, step in stages:
        for number in range(blocks):
            layers.append(BasicBlock(width, after, 1 if number else step))
            width = after
    return nn.Sequential(*layers)


# Nets without published weights. `small` is the demo's: 128 x 64 gives a map of 16 x 8. `face34` has 34 layers,
# as usual on CASIA-WebFace with a margin softmax: 112 x 112 gives 14 x 14, fine enough to read regions.
NETS: dict[str, Callable[[], nn.Module]] = {
    "small": partial(residual_net, 16, 2, (32, 1, 2), (64, 1, 2), (128, 1, 1)),
    "face34": partial(residual_net, 64, 1, (64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1)),
}


def body(architecture: str, weights: str, stride: int = 32) -> nn.Module:
    """Make a net by its name: normalised pictures `(B, 3, H, W)` -> map `(B, C, h, w)` of at most this stride.

    weights: `imagenet` (torchvision's IMAGENET1K_V1, as papers of 2021 used, or timm's; fetched), `none`, or a
    safetensors file with the net's own names. Torchvision's nets lose their head; theirs and timm's have dropout off,
    so that a resumed run draws the same. Raises RuntimeError if there are no such weights or no such net.
    """
    source, _, name = architecture.rpartition(":")
    if architecture in NETS:
        net = NETS[architecture]()
        if weights == "imagenet":
            raise RuntimeError(f"there are no ImageNet weights for {architecture}: set backbone.weights=none")
    elif source == "own":
        known = f"ppcl.models.nets.NETS[{architecture!r}]"
        raise RuntimeError(f"there is no net {architecture}: put a function that makes it into {known} first")
    elif source == "timm":
        net = _without_dropout(_timm(name, weights))
    else:
        whole = OrderedDict(_torchvision(name, weights).named_children())
        layers = list(whole)
        last = min((layers.index(head) for head in HEADS if head in whole), default=len(layers))
        net = _without_dropout(nn.Sequential(OrderedDict((layer, whole[layer]) for layer in layers[:last])))
    if weights not in ("imagenet", "none"):
        _load(net, weights)
    _lower_stride(net, stride)
    return net


@torch.no_grad()
def _strides(net: nn.Module) -> list[tuple[nn.Module, float, float]]:
    """Layers in the order of their calls, each with the total stride before and after it, by an empty picture."""
    found, training = [], net.training

    def note(layer, given, out):
        if all(isinstance(one, torch.Tensor) and one.dim() == 4 for one in (given[0], out)):
            found.append((layer, 128 / given[0].shape[2], 128 / out.shape[2]))

    hooks = [layer.register_forward_hook(note) for layer in net.modules() if not list(layer.children())]
    with contextlib.suppress(Exception):  # `channels` says what is wrong with the net
        net.eval()(torch.zeros(1, 3, 128, 128))
    for hook in hooks:
        hook.remove()
    net.train(training)
    return found


def _lower_stride(net: nn.Module, most: int) -> None:
    """Give stride 1 to the layers that would make the map coarser than `most`; weights stay as they are."""
    for layer, before, after in _strides(net):
        if after > 1.4 * most and after > 1.4 * before and hasattr(layer, "stride"):  # sides may be rounded up
            step = max(1, round(most / before))
            layer.stride = (step, step) if isinstance(layer.stride, tuple) else step
            if isinstance(layer, nn.Conv2d) and step == 1:
                layer.padding = "same"  # also for patches of 2 x 2
            elif isinstance(layer.kernel_size, int) and layer.kernel_size % 2 == 0:
                layer.kernel_size = step  # a pool of 2 x 2


def first_layers(net: nn.Module, stride: int) -> list[nn.Module]:
    """The layers from the first to the last one whose map has at most this stride; 0: none."""
    layers = _strides(net) if stride else []
    last = max((i + 1 for i, (_, _, after) in enumerate(layers) if after < 1.4 * stride), default=0)
    return [layer for layer, _, _ in layers[:last]]


@torch.no_grad()
def channels(net: nn.Module, name: str) -> int:
    """Number of channels of a net's map, found with an empty picture of 64 x 96.

    Raises RuntimeError if the output is no map `(1, C, h, w)` with the picture's proportions.
    """
    training = net.training
    try:
        found = net.eval()(torch.zeros(1, 3, 64, 96))
        good = found.dim() == 4 and abs(96 * found.shape[2] - 64 * found.shape[3]) <= 96  # give or take a cell
        why = f"it gives {tuple(found.shape)} of (1, 3, 64, 96)"
    except Exception as error:  # a user's net may raise anything
        good, why = False, str(error).strip().partition("\n")[0] or type(error).__name__
    if not good:
        raise RuntimeError(f"backbone.architecture={name} has no feature map (B, C, h, w) that can be used here: {why}")
    net.train(training)
    return found.shape[1]


def _torchvision(name: str, weights: str) -> nn.Module:
    from torchvision import models

    net = models.get_model(name)
    if weights == "imagenet":
        published = next(iter(models.get_model_weights(name)))  # IMAGENET1K_V1, the first
        file = Path(torch.hub.get_dir(), "checkpoints", published.url.rpartition("/")[2])  # NAME-HASH.pth
        if file.is_file():
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if not digest.startswith(file.stem.rpartition("-")[2]):
                raise RuntimeError(f"{file} is damaged, probably by a broken download: delete it and start again")
        net.load_state_dict(_fetched(lambda: published.get_state_dict(check_hash=True, weights_only=True)))
    return net


def _timm(name: str, weights: str) -> nn.Module:
    import timm

    return _fetched(lambda: timm.create_model(name, pretrained=weights == "imagenet", num_classes=0, global_pool=""))


def _fetched(fetch: Callable):
    try:
        return fetch()
    except Exception as error:  # of the network, the disk or the file
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RuntimeError(
            f"ImageNet weights could not be fetched ({why}); try again, give --set backbone.weights=PATH.safetensors, "
            "or start from scratch with --set backbone.weights=none"
        ) from None


def _without_dropout(net: nn.Module) -> nn.Module:
    for layer in net.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd) or type(layer).__name__ in ("StochasticDepth", "DropPath"):
            layer.p = layer.drop_prob = 0.0  # torch's and torchvision's name, and timm's
    return net


def _load(net: nn.Module, path: str) -> None:
    """Load a safetensors file with the names of this net, perhaps below a WRAPPER."""
    content = Path(path).expanduser().read_bytes()  # not mapped, which some file systems refuse
    try:
        found = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        why = f"it is damaged or no safetensors file ({error})"
        if content[:2] in (b"PK", b"\x80\x02"):  # as torch.save writes; reading one may execute code
            why = "it was written by torch.save, and only safetensors files are read; convert one that you trust with "
            why += "safetensors.torch.save_file(torch.load(PATH, weights_only=True), NEW)"
        raise RuntimeError(f"backbone.weights={path}: {why}") from None
    wanted = net.state_dict()
    renamed = {own: value for name, value in found.items() if (own := _own_name(name, wanted))}
    missing = [name for name in wanted if name not in renamed and not name.endswith("num_batches_tracked")]
    if missing:
        raise RuntimeError(
            f"backbone.weights={path}: lacks {len(missing)} of {len(wanted)} tensors, {missing[0]} first (it has "
            f"{next(iter(found), 'none')} …); is it another network's? Then set backbone.architecture"
        )
    for name, value in renamed.items():
        if value.shape != wanted[name].shape:
            shapes = tuple(value.shape), tuple(wanted[name].shape)
            raise RuntimeError(f"backbone.weights={path}: {name} has shape {shapes[0]}, not {shapes[1]}")
        if not value.isfinite().all():
            raise RuntimeError(f"backbone.weights={path}: {name} has numbers that are not finite; use another file")
    net.load_state_dict(renamed, strict=False)


def _own_name(name: str, wanted: Container[str]) -> str | None:
    """The net's own name for a tensor of a file; None if it has none."""
    while name not in wanted:
        head, _, name = name.partition(".")
        if head not in WRAPPERS:
            return None
    return name
