"""Every number of the recipe: a field with its type, range and source, the supplement's section or `# not published`.

`recipe("person", "paper")` follows supplement §2.1 wherever it speaks, except for GLRec, whose rate in the joint stage
is a tenth of it (`glrec_lr_fraction`). `profiles.py` has the changes for faces and for the other profiles.
"""

import dataclasses
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Literal

KINDS = ("left", "right", "upper", "lower", "random")  # of crops

# A type, its rule in words, and the rule. None of them lets NaN or infinity pass.
Natural = Annotated[int, "0 or more", lambda n: n >= 0]
Count = Annotated[int, "at least 1", lambda n: n >= 1]
Several = Annotated[int, "at least 2", lambda n: n >= 2]
Side = Annotated[int, "a multiple of 16, at least 32", lambda n: n >= 32 and n % 16 == 0]
Number = Annotated[float, "a finite number, 0 or more", lambda x: 0 <= x < inf]
Positive = Annotated[float, "a finite number above 0", lambda x: 0 < x < inf]
Share = Annotated[float, "a share in 0 to 1", lambda x: 0 <= x <= 1]
PartShare = Annotated[float, "0 or more and less than 1", lambda x: 0 <= x < 1]
Step = Annotated[float, "in 0.001 to 1", lambda x: 1e-3 <= x <= 1]
Factors = Annotated[tuple[float, float], "two rising factors above 0", lambda x: 0 < x[0] <= x[1] < inf]
Areas = Annotated[tuple[float, float], "two rising shares in 0.01 to 1", lambda x: 0.01 <= x[0] <= x[1] <= 1]
Grid = Annotated[tuple[int, int], "6, 12, … rows, 2 or more columns", lambda x: x[0] in range(6, 999, 6) and x[1] > 1]
Folds = Annotated[
    str,
    "two or more of LFW's folds, such as 8,9,10",
    lambda text: not text or (len({*text.split(",")}) > 1 and all(map(str.isdecimal, text.split(",")))),
]
Crops = Annotated[str, f"of the kinds {','.join(KINDS)}", lambda text: set(text.split(",")) <= set(KINDS)]


@dataclass(frozen=True)
class Input:
    """Input size of all networks."""

    height: Side = 256  # not published
    width: Side = 128  # not published

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width


@dataclass(frozen=True)
class Data:
    """Choice of pictures below `--data`."""

    training: str = "auto"  # the set that is trained on; auto: the task's usual one, else a folder of identities
    cuhk03: Literal["detected", "labelled"] = "detected"  # the boxes of CUHK03-NP
    folds: Folds = ""  # of LFW's pairs, for tests alone: the other people of LFW are trained on; "": all are for tests
    uncut: Natural = 0  # side in pixels of square face pictures that are cut to their central half; 0: cut none


@dataclass(frozen=True)
class GLRecStage:
    """Stage 1: the gated layout rectifier, self-supervised (supplement §2.1; losses METHOD.md §1)."""

    epochs: Count = 160  # §2.1: 60 + 100
    constant_epochs: Natural = 60  # §2.1
    lr: Positive = 5e-2  # §2.1
    final_lr: Number = 5e-5  # §2.1, reached linearly
    batch: Several = 128  # §2.1
    momentum: PartShare = 0.9  # not published
    weight_decay: Number = 5e-4  # not published
    steps: Natural = 0  # stop the stage after so many steps; 0: run all epochs
    box_weight: Number = 4.0  # not published
    gate_weight: Number = 0.5  # not published
    whole_weight: Number = 0.2  # not published: box loss of whole pictures
    ratio_jitter: Number = 0.12  # not published: spread of log(width / height) of real detections
    stretch: Number = 0.3  # not published: log range of odd width / height, also visible in the picture
    correction: Number = 0.4  # not published: largest |δ|, the correction of the ratio
    colour: Number = 0.5  # not published: spread of brightness, contrast and channels, as augmentation.colour
    view_scale: Factors = (0.9, 1.1)  # not published: framing of whole pictures by a detector
    view_shift: Number = 0.05  # not published
    min_side: Share = 0.15  # not published
    width: Count = 16  # not published: channels of the first convolution
    crops: Crops = "left,right,upper,lower,random"  # not published: kinds of training crops, stages 1 and 3
    area: Areas = (0.1, 0.65)  # not published: of random crops; larger ones look whole


@dataclass(frozen=True)
class BackboneStage:
    """Stage 2: the backbone on whole pictures (supplement §2.1)."""

    architecture: str = "resnet50"  # not published
    weights: str = "imagenet"  # not published: "imagenet" (IMAGENET1K_V1), "none" or the path of a .safetensors file
    stride: Literal[4, 8, 16, 32] = 16  # not published: of the map, at most; later layers get stride 1 (any net)
    frozen: Literal[0, 2, 4, 8] = 0  # not published: layers up to this stride keep their weights; 0: all are trained
    epochs: Count = 120  # §2.1
    decay_epochs: Natural = 40  # §2.1: x0.1 every 40; 0: a half cosine to 0
    decay: Number = 0.1  # §2.1
    lr: Positive = 5e-4  # §2.1
    batch: Several = 64  # §2.1
    identities: Several = 16  # §2.1
    warmup_epochs: Natural = 0  # not published
    weight_decay: Number = 5e-4  # not published
    steps: Natural = 0
    optimiser: Literal["adam", "sgd"] = "adam"  # §2.1; "sgd" where the face recipe says so
    momentum: PartShare = 0.9  # not published: of SGD
    softmax: Literal["plain", "cosface"] = "plain"  # not published: "cosface" is the margin softmax usual for faces
    softmax_margin: Number = 0.35  # not published
    softmax_scale: Number = 64.0  # not published
    label_smoothing: Share = 0.1  # not published: of the plain softmax
    margin: Number = 0.3  # not published: batch-hard triplet
    triplet_weight: Number = 1.0  # not published
    views: Literal["usual", "moved"] = "usual"  # not published: flip, shifted crop, erasing; or as the joint stage's
    pad: Natural = 10  # not published: pixels a side, of the usual views


@dataclass(frozen=True)
class JointStage:
    """Stage 3: GLRec, backbone and CRLoc together (supplement §2.1; losses METHOD.md §3-4)."""

    epochs: Count = 40  # §2.1
    lr: Positive = 5e-4  # §2.1
    optimiser: Literal["adam", "sgd"] = "adam"  # §2.1; SGD for faces, §2.2
    momentum: PartShare = 0.9  # not published: of SGD
    decay_epochs: Natural = 0  # §2.2 for faces: x0.1 every 5; for people not published, 0: a half cosine
    decay: Number = 0.1  # §2.2
    final_lr_fraction: Number = 0.01  # not published: where the half cosine ends
    warmup_epochs: Natural = 0  # not published
    batch: Several = 64  # §2.1, as for the backbone
    identities: Several = 16  # §2.1, as for the backbone
    weight_decay: Number = 5e-4  # not published
    steps: Natural = 0
    start_share: Share = 0.0  # not published: share of the backbone of stage 2 in the final one
    # views (METHOD.md §4)
    wide_share: Share = 0.6  # not published
    still_share: Share = 0.6  # not published: in place of wide_share where regions are compared at the same location
    wide_scale: Factors = (0.7, 1.2)  # not published
    wide_shift: Number = 0.13  # not published
    whole_box_share: Share = 0.8  # not published: share of p that are the whole visible box
    # losses
    cycle_weight: Number = 1.0  # not published
    geometry_weight: Number = 4.0  # not published
    region_weight: Number = 1.0  # not published: of PP-Triplet and the contrast term together
    region_margin: Number = 0.3  # not published: PP-Triplet
    contrast_weight: Number = 1.0  # not published: our contrast term
    contrast_temperature: Positive = 0.1  # not published
    contrast_pairs: Literal[2, 3] = 3  # not published: r1 -> h2, r2 -> h1 and, of three, r2 -> h2
    # GLRec inside the joint stage
    glrec_lr_fraction: Number = 0.1  # not published
    glrec_batch: Count = 64  # not published
    gradient_cap: Number = 0.25  # not published: outside gradient at the box, of 2 / B
    # CRLoc
    channels: Count = 64  # not published
    temperature: Positive = 0.1  # not published: τ at the start
    sigma: Positive = 0.2  # not published: σ at the start
    grid: Grid = (6, 3)  # not published: points in a region
    crloc_lr_fraction: Number = 1.0  # not published


@dataclass(frozen=True)
class Matching:
    """Distances of pictures (METHOD.md §5)."""

    placements: Literal[1, 7] = 7  # not published
    mirror: bool = True  # not published: every row also matches a query's mirror image
    placement_shift: Number = 0.06  # not published
    placement_growth: Number = 0.05  # not published: a side
    shortlist: Natural = 100  # not published: gallery pictures a query that are matched by parts; 0: all
    weight: Share = 1.0  # not published: of regions, in a final fit; else chosen on held-out people for each row
    min_visible: Share = 0.3  # not published: positions less visible than this are masked
    ridge: Positive = 1.0  # not published: of the row `dsr`, its cells having unit length
    rerank_k1: Count = 20  # not published; as usual (Zhong et al. 2017), like the next two: size of neighbour sets
    rerank_k2: Count = 6  # not published: pictures that a set is averaged over
    rerank_weight: Share = 0.3  # not published: of the row's own distance


@dataclass(frozen=True)
class Selection:
    """Held-out training identities, from which the fusion weight is chosen."""

    heldout: PartShare = 0.1  # not published: share of the training identities; 0: a final fit on all of them
    queries: Count = 2  # not published: partial queries an identity
    weight_step: Step = 0.05  # not published: grid of fusion weights


@dataclass(frozen=True)
class Ablation:
    """Rows that are trained, and seeds of each."""

    rows: str = "backbone,backbone+crops,backbone+crops+pad,+glrec,+crloc,ppcl"
    seeds: Count = 1


@dataclass(frozen=True)
class PartialLFW:
    """Partial-LFW, made from LFW (supplement §3: random crops of a small ratio)."""

    people: Count = 1000  # not published: with two or more pictures
    queries: Count = 1  # not published: one random crop of another image of the same person
    area: Areas = (0.1, 0.6)  # not published: "a small ratio"
    seed: Natural = 0


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training batches."""

    flip: Share = 0.5  # not published
    erase: Share = 0.5  # not published: random erasing, share of pictures
    blur: Share = 0.5  # not published: random down- and up-sampling, so that sharpness betrays no crop
    noise: Number = 0.02  # not published: of the value range, after the crop
    colour: Number = 0.1  # not published: brightness, contrast, and per-channel gain
    whole_scale: Factors = (0.85, 1.08)  # not published: "moved" views of whole pictures, stages 2 and 3
    whole_shift: Number = 0.07  # not published


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
    scale: Literal["tiny", "demo", "market"] = "market"  # of the drawn sets, where no data are given

    def to_dict(self) -> dict:
        """Plain values, for a header or a manifest."""
        return dataclasses.asdict(self)
