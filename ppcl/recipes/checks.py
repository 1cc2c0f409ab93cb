"""What a recipe may say: its keys, the types of their values, and combinations that could only fail later."""

import dataclasses
import difflib
import math
import typing
from operator import attrgetter
from pathlib import Path

from .methods import METHODS, RecipeError, method

PROFILES = ("tiny", "demo", "paper")
TASKS = ("person", "face")
SHARES = (  # numbers that may be 1 at most
    "augmentation.flip", "augmentation.erase", "augmentation.blur", "backbone.label_smoothing", "glrec.min_side",
    "joint.wide_share", "joint.whole_box_share", "matching.min_visible",
)  # fmt: skip
ARCHITECTURES = ("small", "resnet50", "face34")
KINDS = ("left", "right", "upper", "lower", "random")  # of crops


def keys(chosen: typing.Any) -> list[str]:
    """Every dotted key of a recipe that `--set` takes."""
    found = []
    for part in dataclasses.fields(chosen):
        if part.name in ("task", "profile"):
            continue
        kind = part.type
        inner = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        found += [f"{part.name}.{leaf.name}" for leaf in inner] or [part.name]
    return found


def check_files(chosen: typing.Any) -> None:
    """Raise RecipeError if the recipe names a file that is not there; asked before training, not when loading."""
    weights = chosen.backbone.weights
    if weights not in ("imagenet", "none") and not Path(weights).is_file():
        raise RecipeError(
            f"backbone.weights must be imagenet, none or a .safetensors file; {weights!r} is none of them"
        )


def parse_overrides(pairs: typing.Iterable[str]) -> dict[str, str]:
    """`["joint.epochs=2"]` -> `{"joint.epochs": "2"}`; RecipeError for a pair without `=`."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise RecipeError(f"--set takes key=value, not {pair!r}: for example --set joint.epochs=2")
        if key.strip() in ("task", "profile"):
            raise RecipeError(f"{key.strip()} is no number of the recipe: give --{key.strip()} {value.strip()}")
        found[key.strip()] = value.strip()
    return found


def override(chosen: typing.Any, key: str, value) -> typing.Any:
    """The recipe with another value of a dotted key. Raises RecipeError for an unknown key or another type."""
    if key not in keys(chosen):
        near = difflib.get_close_matches(key, keys(chosen), n=1, cutoff=0)
        raise RecipeError(f"unknown recipe key {key!r}: did you mean {near[0]!r}?")
    head, _, leaf = key.rpartition(".")
    part = getattr(chosen, head) if head else chosen
    part = dataclasses.replace(part, **{leaf: _convert(key, value, getattr(part, leaf))})
    return dataclasses.replace(chosen, **{head: part}) if head else part


def _convert(key: str, value, current):
    """`value` in the type of `current`; a string is read as that type."""
    kind = type(current)
    try:
        if kind is tuple:
            parts = value.split(",") if isinstance(value, str) else list(value)
            if len(parts) != len(current):
                raise ValueError
            return tuple(_convert(key, part, old) for part, old in zip(parts, current, strict=True))
        if kind is int and isinstance(value, float) and not value.is_integer():
            raise ValueError
        if kind is bool and isinstance(value, str):
            value = {"true": True, "false": False}[value.lower()]
        if isinstance(value, bool) != (kind is bool):
            raise ValueError
        return kind(value)
    except (KeyError, TypeError, ValueError):
        raise RecipeError(f"{key} takes {kind.__name__} (now {current!r}), not {value!r}") from None


def check(chosen: typing.Any) -> None:
    """Combinations that could only fail later."""
    for name in ("backbone", "joint"):
        stage = getattr(chosen, name)
        if stage.identities < 2 or stage.batch % stage.identities:
            raise RecipeError(
                f"{name}.batch={stage.batch} must be a multiple of {name}.identities={stage.identities} >= 2"
            )
    if chosen.joint.batch != 4 * chosen.joint.identities:
        raise RecipeError(
            f"joint.batch must be 4 x joint.identities = {4 * chosen.joint.identities}: two whole views, two partial"
        )
    if chosen.joint.contrast_pairs not in (2, 3):
        raise RecipeError(f"joint.contrast_pairs must be 2 or 3, not {chosen.joint.contrast_pairs}")
    if chosen.matching.placements not in (1, 7):
        raise RecipeError(f"matching.placements must be 1 or 7, not {chosen.matching.placements}")
    if min(chosen.input.size) < 32 or chosen.input.height % 16 or chosen.input.width % 16:
        raise RecipeError(f"input.height and input.width must be multiples of 16, at least 32, not {chosen.input.size}")
    if chosen.backbone.pad >= min(chosen.input.size):
        raise RecipeError(f"backbone.pad must be less than the input's sides, not {chosen.backbone.pad}")
    for name in ("glrec", "backbone", "joint"):
        stage = getattr(chosen, name)
        if stage.epochs < 1 or stage.batch < 2 or stage.lr <= 0:
            raise RecipeError(f"{name}.epochs and {name}.lr must be positive, {name}.batch at least 2")
    for part, values in dataclasses.asdict(chosen).items():
        for name, value in values.items() if isinstance(values, dict) else ():
            numbers = [one for one in (value if isinstance(value, tuple) else [value]) if isinstance(one, (int, float))]
            if not all(map(math.isfinite, numbers)):
                raise RecipeError(f"{part}.{name} must be a finite number, not {value}")
            if min(numbers, default=0) < 0:
                raise RecipeError(f"{part}.{name} must not be negative, as {value} is")
    for key in SHARES:
        if (value := attrgetter(key)(chosen)) > 1:
            raise RecipeError(f"{key} is a share, at most 1, not {value}")
    for name in ("glrec", "backbone", "joint"):
        if getattr(chosen, name).momentum >= 1:
            raise RecipeError(f"{name}.momentum must be less than 1, not {getattr(chosen, name).momentum}")
    if chosen.joint.glrec_batch < 1:
        raise RecipeError(f"joint.glrec_batch must be at least 1, not {chosen.joint.glrec_batch}")
    if min(chosen.glrec.width, chosen.joint.channels, chosen.ablation.seeds) < 1:
        raise RecipeError("glrec.width, joint.channels and ablation.seeds must be at least 1")
    rows(chosen)
    if chosen.scale not in ("tiny", "demo", "market"):
        raise RecipeError(f"scale must be tiny, demo or market, not {chosen.scale!r}")
    down, across = chosen.joint.grid
    if down < 6 or down % 6 or across < 2:  # six stripes are read; one column would have no width
        raise RecipeError(f"joint.grid must have a multiple of 6 rows and at least 2 columns, not {chosen.joint.grid}")
    if min(chosen.joint.temperature, chosen.joint.sigma) <= 0:
        raise RecipeError("joint.temperature and joint.sigma must be positive")
    if not 1e-3 <= chosen.selection.weight_step <= 1:
        raise RecipeError(f"selection.weight_step must lie in 0.001 to 1, not {chosen.selection.weight_step}")
    if chosen.backbone.decay_epochs < 1 or chosen.selection.queries < 1:
        raise RecipeError("backbone.decay_epochs and selection.queries must be at least 1")
    _check_architecture(chosen.backbone.architecture)
    for key, value, known in (
        ("backbone.optimiser", chosen.backbone.optimiser, ("adam", "sgd")),
        ("joint.optimiser", chosen.joint.optimiser, ("adam", "sgd")),
        ("backbone.softmax", chosen.backbone.softmax, ("plain", "cosface")),
        ("backbone.views", chosen.backbone.views, ("usual", "moved")),
        *(("glrec.crops", kind, KINDS) for kind in chosen.glrec.crops.split(",")),
    ):
        if value not in known:
            raise RecipeError(f"{key} must be {' or '.join(known)}, not {value!r}")
    for key in ("glrec.view_scale", "joint.wide_scale", "augmentation.whole_scale"):
        low, high = attrgetter(key)(chosen)
        if not 0 < low <= high:
            raise RecipeError(f"{key} must be two rising factors above 0, not {(low, high)}")
    for key, (low, high) in (("glrec.area", chosen.glrec.area), ("partial_lfw.area", chosen.partial_lfw.area)):
        if not 0.01 <= low <= high <= 1:
            raise RecipeError(f"{key} must be two rising shares of the area in 0.01 to 1, not {(low, high)}")
    if min(chosen.partial_lfw.people, chosen.partial_lfw.queries) < 1:
        raise RecipeError("partial_lfw.people and partial_lfw.queries must be at least 1")
    if not 0 < chosen.selection.heldout < 1:
        raise RecipeError(f"selection.heldout must lie between 0 and 1, not {chosen.selection.heldout}")


def _check_architecture(name: str) -> None:
    """One of our nets, of torchvision's or of timm's; `own:NAME` is a notebook's, which nobody else can know."""
    source, _, model = name.rpartition(":")
    if name in ARCHITECTURES or (source == "own" and model):
        return
    if source == "timm":
        try:
            import timm
        except ImportError:
            raise RecipeError(
                f"backbone.architecture={name}: timm is not installed (pip install timm); torchvision's nets are there"
            ) from None
        known = [f"timm:{one}" for one in timm.list_models()]
    else:
        import torchvision  # late, because it is slow to import

        known = torchvision.models.list_models(torchvision.models)
        known += [*ARCHITECTURES, *(f"torchvision:{one}" for one in known)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise RecipeError(
            f"unknown backbone.architecture {name!r}: did you mean {near[0]!r}? ({', '.join(ARCHITECTURES)}, a net of "
            "torchvision's, timm:NAME, own:NAME)"
        )


def check_processes(chosen: typing.Any, stage: str, count: int, pictures: int | None = None) -> None:
    """Raise RecipeError unless `count` processes can share the stage's batches of the training pictures evenly."""
    if stage == "glrec" and pictures is not None and pictures < chosen.glrec.batch and pictures % count:
        raise RecipeError(
            f"the {pictures} training pictures are fewer than glrec.batch={chosen.glrec.batch}, and {count} processes "
            f"cannot share them evenly: --set glrec.batch={pictures - pictures % count}, or train in one process"
        )
    names = {"glrec": ["batch"], "backbone": ["identities"], "joint": ["identities", "glrec_batch"]}[stage]
    values = {name: getattr(getattr(chosen, stage), name) for name in names}
    most = next(fewer for fewer in range(count, 0, -1) if not any(value % fewer for value in values.values()))
    for name, value in values.items():
        if value % count:
            also = f" and {stage}.batch with it" * (name == "identities")
            raise RecipeError(
                f"{stage}.{name}={value} cannot be shared evenly by {count} processes: start {most}, or set "
                f"{stage}.{name}{also} by --set"
            )


def rows(chosen: typing.Any) -> list[str]:
    """The trained rows that the recipe asks for, in the table's order."""
    wanted = [name.strip() for name in chosen.ablation.rows.split(",") if name.strip()]
    trained = [name for name in METHODS if not METHODS[name].checkpoint]
    if wanted == ["all"]:
        return trained
    for name in wanted:
        if method(name).checkpoint:
            raise RecipeError(
                f"row {name!r} is not trained itself: it uses the checkpoint of {method(name).checkpoint!r}"
            )
    if "ppcl" not in wanted:
        raise RecipeError(f"ablation.rows={chosen.ablation.rows} must hold ppcl, too: the figures are of that row")
    return [name for name in trained if name in wanted]
