"""What `bench` measures of the data path, and of importing: each function gives records."""

import importlib.util
import random
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from . import geometry
from .data import augmentation, image_bank, partial_views, stage_batches
from .recipes import recipe
from .timing import Sizes, bandwidth, fact, item, threads

SEVERAL = 8  # batches that are timed at once: as long as the reference takes for one
BASE = "import torch, torchvision"
PARTS = "training, evaluation, search, plots, results, reproduce"


def draw_files(folder: Path, count: int, size: tuple[int, int] = (128, 64)) -> list[Path]:
    """JPEGs of about the bytes of Market-1501's, 64 x 128 pixels."""
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)).resize(size[::-1])
        pixels = np.asarray(coarse) + rng.normal(0, 9, (*size, 3))
        paths.append(folder / f"{number:06d}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=80)
    return paths


def plain_pipeline(size: tuple[int, int]) -> tuple[str, object]:
    """What a DataLoader's worker does with one picture after the other: torchreid's transforms, or torchvision's."""
    if importlib.util.find_spec("torchreid"):
        import torchreid

        try:
            from torchreid.data.transforms import build_transforms
        except ModuleNotFoundError:  # pip's has it one deeper than its git
            from torchreid.reid.data.transforms import build_transforms

        wanted = ["random_flip", "random_crop", "random_erase"]
        return f"torchreid {torchreid.__version__}, picture by picture", build_transforms(*size, transforms=wanted)[0]
    from torchvision import transforms

    steps = [transforms.Resize(size), transforms.RandomHorizontalFlip(), transforms.Pad(10)]
    steps += [transforms.RandomCrop(size), transforms.ToTensor(), transforms.Normalize(image_bank.MEAN, image_bank.STD)]
    return "torchvision, picture by picture", transforms.Compose([*steps, transforms.RandomErasing()])


def plain_batch(paths: list[Path], transform) -> torch.Tensor:
    """Files through that pipeline, one after the other: `(B, 3, H, W)`."""
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


def training_batches(sizes: Sizes, _device: str) -> list[dict]:
    """Batches from a bank, on one core, into a buffer that is used again; against the files, picture by picture."""
    chosen = recipe("person", "paper", **{"input.height": sizes.size[0], "input.width": sizes.size[1]})
    shape, count = (3, *sizes.size), sizes.batch
    pixels = torch.randint(256, (8 * count, *shape), dtype=torch.uint8)
    bank, out = image_bank.ImageBank(pixels, torch.zeros(len(pixels))), torch.empty(count, *shape)
    draw = partial_views.make_rng(0, "bench")
    order = iter(lambda: torch.randint(len(pixels), (count,), generator=draw), None)
    nobody = torch.zeros(count, dtype=torch.bool)
    boxes = geometry.compose(
        stage_batches.whole_views(count, chosen, draw), partial_views.training_crops(count, chosen.glrec, draw)
    )

    def whole() -> None:
        for _ in range(SEVERAL):
            augmentation.shifted_crops(pixels, next(order), chosen.augmentation, chosen.backbone.pad, draw, out)

    def parts() -> None:
        for _ in range(SEVERAL):
            image_bank.normalise(partial_views.read_views(pixels, boxes, nobody, next(order), out), out)

    def everything() -> None:
        for _ in range(SEVERAL):
            stage_batches.glrec_batch(bank, next(order), chosen, draw)

    with tempfile.TemporaryDirectory() as folder, threads(1):
        paths = draw_files(Path(folder), min(count, sizes.pictures))
        name, transform = plain_pipeline(sizes.size)
        random.seed(0)
        reference = (name, partial(plain_batch, paths, transform), len(paths))
        bound = bandwidth(sizes, 5 * pixels[0].numel())  # a picture is read as uint8 and written as float
        many = {"work": SEVERAL * count, "reference": reference, "bound": bound, "rounds": sizes.rounds}
        said = "flip, shifted crop, erasing, normalised, float"
        return [
            item("training batches", "img/s", whole, note=said, **many),
            item("partial views", "img/s", parts, note="crop at a known box, resampled, normalised", **many),
            item("partial views, all augmentation", "img/s", everything, note="and blur, colour, noise", **many),
        ]


def bank(sizes: Sizes, _device: str) -> list[dict]:
    """Building a bank from files, and opening one that is kept on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        paths = draw_files(Path(folder), sizes.pictures)

        def plainly() -> None:
            for path in paths:
                resized = Image.open(path).convert("RGB").resize(sizes.size[::-1], Image.Resampling.BILINEAR)
                torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()

        def decode() -> None:
            for path in paths:
                Image.open(path).load()

        build = partial(image_bank.bank, paths, sizes.size, quiet=True)
        plain = ("Pillow, picture by picture", plainly, len(paths))
        bound = ("decoding alone, on every thread", decode, len(paths) * torch.get_num_threads())
        return [
            item("building the bank", "img/s", build, len(paths), plain, bound, sizes.rounds),
        ]


def imports(sizes: Sizes, _device: str) -> list[dict]:
    """What `import ppcl` adds to torch and torchvision, and what all of its parts add: processor time, fresh processes.

    Against torchreid where it is installed.
    """
    wanted = {"import ppcl": "import ppcl", "import ppcl, every part": f"from ppcl import {PARTS}"}
    if importlib.util.find_spec("torchreid"):
        wanted["torchreid"] = "import torchreid"
    spent = {name: [] for name in wanted}
    for _ in range(min(3, sizes.rounds)):
        for name, code in wanted.items():
            spent[name].append(_import_seconds(code))
    found = []
    for name in list(wanted)[:2]:
        base, added = map(statistics.median, zip(*spent[name], strict=True))
        more = {"spread": [min(own for _, own in spent[name]), max(own for _, own in spent[name])]}
        if "torchreid" in spent:
            theirs = statistics.median(sum(both) for both in spent["torchreid"])
            more |= {"reference": "import torchreid", "ratio": theirs / (base + added)}
        found.append(fact(name, added, "s", note=f"beside {base:.2f} s of {BASE}", **more))
    return found


def _import_seconds(code: str) -> tuple[float, float]:
    """Of torch and torchvision, and of `code` after them."""
    lines = "from time import process_time as now", "a = now()", BASE, "b = now()", code, "print(b - a, now() - b)"
    run = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, capture_output=True, text=True)
    base, added = map(float, run.stdout.split())
    return base, added


ITEMS = (training_batches, bank, imports)
