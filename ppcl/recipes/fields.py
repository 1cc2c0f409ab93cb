"""Every number of the recipe, a field with its source: the supplement's section, or `# not published`.

`recipe("person", "paper")` is supplement §2.1 wherever the supplement speaks, but for GLRec, whose rate in the joint
stage is a tenth of it (`glrec_lr_fraction`). What faces and the other profiles change in it is in `profiles.py`.
"""

import dataclasses
from dataclasses import dataclass, field

from .checks import PROFILES, TASKS, check, override
from .methods import RecipeError
from .profiles import CHANGES


@dataclass(frozen=True)
class Input:
    """What every network sees."""

    height: int = 256  # not published
    width: int = 128  # not published

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width


@dataclass(frozen=True)
class Data:
    """Which pictures are read below `--data`."""

    training: str = "auto"  # the set that is trained on; auto: the task's usual one, else a folder of identities
    cuhk03: str = "detected"  # the boxes of CUHK03-NP: detected or labelled
    uncut: int = 0  # side in pixels of square face pictures that are cut to their central half; 0: cut none


@dataclass(frozen=True)
class GLRecStage:
    """Stage 1: the gated layout rectifier, self-supervised (supplement §2.1; losses METHOD.md §1)."""

    epochs: int = 160  # §2.1: 60 + 100
    constant_epochs: int = 60  # §2.1
    lr: float = 5e-2  # §2.1
    final_lr: float = 5e-5  # §2.1, reached linearly
    batch: int = 128  # §2.1
    momentum: float = 0.9  # not published
    weight_decay: float = 5e-4  # not published
    steps: int = 0  # stop the stage after so many steps; 0: run all epochs
    box_weight: float = 4.0  # not published
    gate_weight: float = 0.5  # not published
    whole_weight: float = 0.2  # not published: box loss of whole pictures
    ratio_jitter: float = 0.12  # not published: spread of log(width / height) of real detections
    stretch: float = 0.3  # not published: log range of odd width / height, seen in the picture, too
    correction: float = 0.4  # not published: largest |δ|, the correction of the ratio
    colour: float = 0.5  # not published: spread of brightness, contrast and channels, as augmentation.colour
    view_scale: tuple[float, float] = (0.9, 1.1)  # not published: how differently detections frame a whole picture
    view_shift: float = 0.05  # not published
    min_side: float = 0.15  # not published
    width: int = 16  # not published: channels of the first convolution
    crops: str = "left,right,upper,lower,random"  # not published: kinds of training crops, here and in the joint stage
    area: tuple[float, float] = (0.1, 0.65)  # not published: of random crops; larger ones look whole


@dataclass(frozen=True)
class BackboneStage:
    """Stage 2: the backbone on whole pictures (supplement §2.1)."""

    architecture: str = "resnet50"  # not published
    weights: str = "imagenet"  # not published: "imagenet", "none" or the path of a .safetensors file
    epochs: int = 120  # §2.1
    decay_epochs: int = 40  # §2.1: x0.1 every 40
    decay: float = 0.1  # §2.1
    lr: float = 5e-4  # §2.1
    batch: int = 64  # §2.1
    identities: int = 16  # §2.1
    warmup_epochs: int = 0  # not published
    weight_decay: float = 5e-4  # not published
    steps: int = 0
    optimiser: str = "adam"  # §2.1; "sgd" where the face recipe says so
    momentum: float = 0.9  # not published: of SGD
    softmax: str = "plain"  # not published: "cosface" is the margin softmax usual for faces
    softmax_margin: float = 0.35  # not published
    softmax_scale: float = 64.0  # not published
    label_smoothing: float = 0.1  # not published: of the plain softmax
    margin: float = 0.3  # not published: batch-hard triplet
    triplet_weight: float = 1.0  # not published
    views: str = (
        "usual"  # not published: flip, shifted crop of the padded picture, erasing; "moved": as the joint stage's
    )
    pad: int = 10  # not published: pixels a side, of the usual views


@dataclass(frozen=True)
class JointStage:
    """Stage 3: GLRec, backbone and CRLoc together (supplement §2.1; losses METHOD.md §3-4)."""

    epochs: int = 40  # §2.1
    lr: float = 5e-4  # §2.1
    optimiser: str = "adam"  # §2.1; SGD for faces, §2.2
    momentum: float = 0.9  # not published: of SGD
    decay_epochs: int = 0  # §2.2 for faces: x0.1 every 5; for people not published, 0: a half cosine
    decay: float = 0.1  # §2.2
    final_lr_fraction: float = 0.01  # not published: where the half cosine ends
    warmup_epochs: int = 0  # not published
    batch: int = 64  # §2.1, as for the backbone
    identities: int = 16  # §2.1, as for the backbone
    weight_decay: float = 5e-4  # not published
    steps: int = 0
    # views (METHOD.md §4)
    wide_share: float = 0.6  # not published
    wide_scale: tuple[float, float] = (0.7, 1.2)  # not published
    wide_shift: float = 0.13  # not published
    whole_box_share: float = 0.8  # not published: how often p is the whole visible box
    # losses
    cycle_weight: float = 1.0  # not published
    geometry_weight: float = 4.0  # not published
    region_weight: float = 1.0  # not published: PP-Triplet
    region_margin: float = 0.3  # not published: PP-Triplet
    contrast_weight: float = 1.0  # not published: PP-Triplet against all people of the batch
    contrast_temperature: float = 0.1  # not published
    contrast_pairs: int = 3  # not published: r1 -> h2, r2 -> h1 and, of three, r2 -> h2
    # GLRec inside the joint stage
    glrec_lr_fraction: float = 0.1  # not published
    glrec_batch: int = 64  # not published
    gradient_cap: float = 0.25  # not published: outside gradient at the box, of 2 / B
    # CRLoc
    channels: int = 64  # not published
    temperature: float = 0.1  # not published: τ at the start
    sigma: float = 0.2  # not published: σ at the start
    grid: tuple[int, int] = (6, 3)  # not published: points in a region
    crloc_lr_fraction: float = 1.0  # not published


@dataclass(frozen=True)
class Matching:
    """How distances are made (METHOD.md §5)."""

    placements: int = 7  # not published
    mirror: bool = True  # not published: a query's mirror image is matched, too, in every row
    placement_shift: float = 0.06  # not published
    placement_growth: float = 0.05  # not published: a side
    shortlist: int = 100  # not published: gallery pictures a query that are matched by parts; 0: all
    min_visible: float = 0.3  # not published: positions less visible than this are masked


@dataclass(frozen=True)
class Selection:
    """Training identities kept back: the fusion weight comes from them, and nothing else from anywhere."""

    heldout: float = 0.1  # not published: share of the training identities
    queries: int = 2  # not published: partial queries an identity
    weight_step: float = 0.05  # not published: grid of fusion weights


@dataclass(frozen=True)
class Ablation:
    """Which rows are trained beside the method, and how often."""

    rows: str = "backbone,backbone+crops,backbone+crops+pad,+glrec,+crloc,ppcl"
    seeds: int = 1


@dataclass(frozen=True)
class PartialLFW:
    """How Partial-LFW is made from LFW (supplement §3: crops at random, of a small ratio); `face_sets.make_partial`."""

    people: int = 1000  # not published: with two or more pictures
    queries: int = 1  # not published: one random crop of another image of the same person
    area: tuple[float, float] = (0.1, 0.6)  # not published: "a small ratio"
    seed: int = 0


@dataclass(frozen=True)
class Augmentation:
    """Of training batches (none of it is published)."""

    flip: float = 0.5  # not published
    erase: float = 0.3  # not published: random erasing, share of pictures
    blur: float = 0.5  # not published: random down- and up-sampling, so that sharpness betrays no crop
    noise: float = 0.02  # not published: of the value range, after the crop
    colour: float = 0.1  # not published: brightness, contrast, and per-channel gain
    whole_scale: tuple[float, float] = (0.85, 1.08)  # not published: "moved" views of whole pictures, stages 2 and 3
    whole_shift: float = 0.07  # not published


@dataclass(frozen=True)
class Recipe:
    """A whole experiment."""

    task: str = "person"
    profile: str = "paper"
    data: Data = field(default_factory=Data)
    input: Input = field(default_factory=Input)
    augmentation: Augmentation = field(default_factory=Augmentation)
    glrec: GLRecStage = field(default_factory=GLRecStage)
    backbone: BackboneStage = field(default_factory=BackboneStage)
    joint: JointStage = field(default_factory=JointStage)
    matching: Matching = field(default_factory=Matching)
    selection: Selection = field(default_factory=Selection)
    ablation: Ablation = field(default_factory=Ablation)
    partial_lfw: PartialLFW = field(default_factory=PartialLFW)
    scale: str = "market"  # of what is drawn where no data are given; the paper profile needs real ones

    def to_dict(self) -> dict:
        """Plain values, for a header or a manifest."""
        return dataclasses.asdict(self)


def recipe(task: str = "person", profile: str = "demo", **overrides) -> Recipe:
    """The recipe of a task and profile, with dotted overrides: `recipe("person", "demo", **{"joint.epochs": 2})`.

    Values may be strings, as `--set` gives them. Raises RecipeError for an unknown task, profile or key (naming the
    nearest known one) and for a value that is not of the field's type.
    """
    if task not in TASKS:
        raise RecipeError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    if profile not in PROFILES:
        raise RecipeError(f"unknown profile {profile!r}: choose from {', '.join(PROFILES)}")
    chosen = Recipe(task=task, profile=profile)
    for key, value in (CHANGES[task, profile] | overrides).items():
        chosen = override(chosen, key, value)
    check(chosen)
    return chosen
