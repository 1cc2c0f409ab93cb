"""A recipe from a task, a profile and overrides: values are converted and checked as their fields say."""

import dataclasses
import typing
from collections.abc import Iterable
from pathlib import Path

from .fields import Recipe
from .methods import CONTROLS, METHODS, RecipeError, method, unknown
from .profiles import CHANGES

PROFILES = ("tiny", "demo", "paper")
TASKS = ("person", "face")
ARCHITECTURES = ("small", "face34")  # nets of our own


def recipe(task: str = "person", profile: str = "demo", **overrides) -> Recipe:
    """The recipe of a task and profile, with dotted overrides: `recipe("person", "demo", **{"joint.epochs": 2})`.

    Values may be strings, as `--set` gives them. Raises RecipeError for an unknown task, profile or key (naming the
    nearest known one), a value that its field does not take, and a combination that could only fail later.
    """
    for kind, name, known in (("task", task, TASKS), ("profile", profile, PROFILES)):
        if name not in known:
            raise RecipeError(f"unknown {kind} {name!r}: choose from {', '.join(known)}")
    chosen = Recipe(task=task, profile=profile)
    for key, value in (CHANGES[task, profile] | overrides).items():
        chosen = override(chosen, key, value)
    check(chosen)
    return chosen


def keys(chosen: Recipe) -> list[str]:
    """Every dotted key of a recipe that `--set` takes."""
    found = []
    for part in dataclasses.fields(chosen):
        inner = dataclasses.fields(part.type) if dataclasses.is_dataclass(part.type) else ()
        found += [f"{part.name}.{leaf.name}" for leaf in inner] or [part.name]
    return [key for key in found if key not in ("task", "profile")]


def parse_overrides(pairs: Iterable[str] | str) -> dict[str, str]:
    """`["joint.epochs=2"]`, or one such pair alone, -> `{"joint.epochs": "2"}`; RecipeError for one without `=`."""
    found = {}
    for pair in ([pairs] if pairs else []) if isinstance(pairs, str) else pairs:
        key, equals, value = (part.strip() for part in str(pair).partition("="))
        if not equals:
            raise RecipeError(f"--set takes key=value, not {pair!r}: for example --set joint.epochs=2")
        if key in ("task", "profile"):
            raise RecipeError(f"{key} is no number of the recipe: give --{key} {value}")
        found[key] = value
    return found


def override(chosen: Recipe, key: str, value) -> Recipe:
    """The recipe with another value of a dotted key; RecipeError for an unknown key and for a value it cannot have."""
    if key not in keys(chosen):
        raise unknown("recipe key", key, keys(chosen))
    head, _, leaf = key.rpartition(".")
    part = getattr(chosen, head) if head else chosen
    kind = next(field.type for field in dataclasses.fields(part) if field.name == leaf)
    part = dataclasses.replace(part, **{leaf: _converted(key, value, kind)})
    return dataclasses.replace(chosen, **{head: part}) if head else part


def _converted(key: str, value, kind):
    """A value, or its text, in a field's type; RecipeError if it is of another type or breaks the type's rule."""
    if typing.get_origin(kind) is typing.Annotated:
        kind, words, rule = typing.get_args(kind)
        value = _converted(key, value, kind)
        if not rule(value):
            raise RecipeError(f"{key} must be {words}, not {value!r}")
        return value
    if typing.get_origin(kind) is typing.Literal:
        known = typing.get_args(kind)
        if str(value) not in map(str, known):
            raise RecipeError(f"{key} must be {' or '.join(map(str, known))}, not {value!r}")
        return next(one for one in known if str(one) == str(value))
    try:
        if typing.get_origin(kind) is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            kinds = typing.get_args(kind)
            return tuple(_converted(key, part, inner) for part, inner in zip(parts, kinds, strict=True))
        if kind is bool and isinstance(value, str):
            value = {"true": True, "false": False}[value.lower()]
        if isinstance(value, bool) != (kind is bool) or (kind is int and isinstance(value, float) and value % 1):
            raise ValueError
        return kind(value)
    except (KeyError, OverflowError, TypeError, ValueError):
        name = getattr(kind, "__name__", kind) if typing.get_origin(kind) is None else "two numbers"
        name = {"bool": "true or false"}.get(name, name)
        raise RecipeError(f"{key} takes {name}, not {value!r}") from None


def check(chosen: Recipe) -> None:
    """Raise RecipeError for values that do not go together."""
    for name in ("backbone", "joint"):
        batch, people = getattr(chosen, name).batch, getattr(chosen, name).identities
        if batch % people:
            raise RecipeError(f"{name}.batch={batch} must be a multiple of {name}.identities={people}")
    if chosen.joint.batch != 4 * chosen.joint.identities:
        raise RecipeError(
            f"joint.batch must be 4 x joint.identities = {4 * chosen.joint.identities}: two whole views, two partial"
        )
    if chosen.backbone.pad >= min(chosen.input.size):
        raise RecipeError(f"backbone.pad must be less than the input's sides, not {chosen.backbone.pad}")
    if chosen.backbone.frozen >= chosen.backbone.stride:
        raise RecipeError(f"backbone.frozen must be less than backbone.stride={chosen.backbone.stride}")
    rows(chosen)
    _check_architecture(chosen.backbone.architecture)


def _check_architecture(name: str) -> None:
    """One of our nets, of torchvision's or of timm's; `own:NAME` is a notebook's, which is not known here."""
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
        kinds = f"{', '.join(ARCHITECTURES)}, a net of torchvision's, timm:NAME, own:NAME"
        raise unknown("backbone.architecture", name, known, f" ({kinds})")


def check_files(chosen: Recipe) -> None:
    """Raise RecipeError if the recipe names a file that is not there; called before training, not when loading."""
    weights = chosen.backbone.weights
    if weights not in ("imagenet", "none") and not Path(weights).expanduser().is_file():
        raise RecipeError(f"backbone.weights must be imagenet, none or a .safetensors file; {weights!r} does not exist")


def check_processes(chosen: Recipe, stage: str, count: int, pictures: int | None = None) -> None:
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


def rows(chosen: Recipe) -> list[str]:
    """The trained rows that the recipe asks for, in the table's order."""
    wanted = [name.strip() for name in chosen.ablation.rows.split(",") if name.strip()]
    joint = [name for name, one in METHODS.items() if one.stage == "joint"]
    trained = [name for name in joint if name in CONTROLS or not METHODS[name].checkpoint]
    if wanted == ["all"]:
        return trained
    for name in wanted:
        used = method(name).checkpoint or "backbone"
        if name not in trained:
            raise RecipeError(f"row {name!r} has no joint stage of its own: it uses the checkpoint of {used!r}")
    if "ppcl" not in wanted:
        raise RecipeError(f"ablation.rows={chosen.ablation.rows} must include ppcl: the figures are of that row")
    return [name for name in trained if name in wanted]
