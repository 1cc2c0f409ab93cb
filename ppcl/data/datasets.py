"""Data sets below a folder -> pictures with identity and camera; what is there, and what is missing.

Identity and camera are read from a file's name or, in sets with a folder for each identity, from that folder's name;
folders further up do not matter, nor does the file system's order. Errors are DataError, with folder and remedy.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ..disk.files import given_path, warn_once
from ..drawn.records import NOTE, finished, occupied, truth, unfinished
from ..recipes import KINDS, Data, Recipe
from . import partial_protocol
from .fingerprint import digests, fingerprint, kept_below
from .layouts import is_made, lies, part_folder, record, tops, variants
from .partial_protocol import composed, pairs_places, read_pairs
from .reading import SUFFIXES, DataError, PictureSet, counted, left_out, listing, people, picture_names, pictures
from .sets import SETS, DataSet, sets_of

__all__ = ["SUFFIXES", "DataError", "PictureSet", "left_out", "pictures", "truth"]


def read(dataset: str, part: str, data: Path | str, settings: Data | None = None) -> PictureSet:
    """A part (`train`, `query`, `gallery`, …) of a set below `data`.

    Market-1501's junk (`-1`) is left out; its distractors (`0000`) stay in the gallery alone, as identity 0. Raises
    DataError if the folder is missing or empty, or that lists the names which do not belong to the layout.
    """
    found = record(dataset, part, settings)
    folder = part_folder(found, part, data)
    if how := unfinished(given_path(data), dataset, found.drawn):
        raise DataError(
            f"{dataset}: its drawing in {data} has not come to its end; the same command finishes it: "
            f"{found.drawing(data)} {how}"
        )
    folders = _folders(found, folder)
    files = [each for each in map(pictures, folders) if each]  # `decoded`, which is ours, is no identity
    if not files:
        kind = "pictures" if found.pattern else "<identity>/<picture>"
        raise DataError(f"{dataset}: {folder} holds no {kind} (it has {listing(folder)}); {found.how_to_get}")
    name, paths = f"{dataset}/{part}", tuple(path for each in files for path in each)
    if found.pattern:
        some = _named(found, part, folder, paths)
    else:  # an identity's number is its folder's rank
        identities = np.repeat(np.arange(len(files)), [len(each) for each in files])
        some = PictureSet(name, folder, paths, identities, np.zeros_like(identities))
        some = _own_part(some, part) if found.split else some
    notes = left_out(dataset if found.split else name, folder, folders)  # both parts of own people lie in one folder
    return replace(some, uncut=(settings or Data()).uncut, kept=kept_below(data), notes=some.notes + notes)


def _named(found: DataSet, part: str, folder: Path, files: tuple[Path, ...]) -> PictureSet:
    """Pictures whose names hold the identity and perhaps the camera; else queries are camera 0, others 1."""
    named = [re.fullmatch(found.pattern, path.stem) for path in files]
    if wrong := [path for path, match in zip(files, named, strict=True) if match is None]:
        others = ", ".join(path.name for path in wrong[1:20]) + ", …" * (len(wrong) > 20)
        which = f"{wrong[0]} is" if len(wrong) == 1 else f"{wrong[0]} and {len(wrong) - 1} more ({others}) are"
        raise DataError(f"{found.name}: {which} not named like {found.example}; is this another set's folder?")
    groups, side = [match.groupdict() for match in named], 0 if part in ("query", "occluded") else 1
    identities = [_hash(one["person"]) >> 1 if "person" in one else int(one["identity"]) for one in groups]
    identities = np.array(identities, np.int64)
    cameras = np.array([int(one.get("camera") or side) for one in groups], np.int64)
    some, lowest = PictureSet(f"{found.name}/{part}", folder, files, identities, cameras), 0
    people = len(set(identities))
    if "person" in groups[0] and part == "gallery" and people < len(files):
        why = "for names are <person>_<number>.jpg; if the numbers are the people, rename them (001.jpg)"
        if people == 1:
            who = groups[0]["person"]
            raise DataError(f"{some.name}: {files[0]} and all others are read as pictures of {who!r}, {why}")
        if len({one["number"] for one in groups} - {None}) == len(files):  # as many numbers as pictures
            note = f"{some.name}: {len(files)} pictures such as {files[0].name} are read as of {people} people, {why}"
            some = replace(some, notes=(note,))
    if found.distractors and part != "gallery":
        lowest = 1
        if nobody := some.keep(identities == 0).paths:
            why = "identity 0 is for distractors, in the gallery; number people from 1 on"
            note = f"{some.name}: {counted(nobody)} left out, such as {nobody[0].name}: {why}"
            some = replace(some, notes=(note,))
    some = some.keep(some.identities >= lowest)
    if not len(some):
        raise DataError(f"{found.name}: {folder} holds nothing but junk (-1) pictures; {found.how_to_get}")
    return some


def _hash(name: str) -> int:
    """64 bits of a name's SHA-256; some disks write composed letters as several."""
    return int.from_bytes(hashlib.sha256(os.fsencode(composed(name)[0])).digest()[:8], "big")


def _own_part(everybody: PictureSet, part: str) -> PictureSet:
    """The `train` or `test` people of a folder of identities, `<identity>/<file>`.

    About one person in five is for tests, by a hash of the folder's name: adding people never moves anyone to the other
    part. Raises DataError where the part has fewer than two people.
    """
    test = np.array([(_hash(path.parent.name) >> 56) % 5 == 0 for path in everybody.paths])
    some = everybody.keep(test == (part == "test"))
    if len(set(some.identities)) < 2:
        raise DataError(
            f"{some.folder}: of its {len(set(everybody.identities))} people {len(set(some.identities))} are for {part} "
            "(one in five is for tests, by name), and two are needed: add people"
        )
    return some


def evaluation_sets(dataset: str, data: Path | str, recipe: Recipe | None = None) -> tuple[PictureSet, PictureSet]:
    """(query, gallery) of a set's test; partial tests are made from whole sets where no folder of them is there.

    A whole set's own queries are cropped, one part of each, and its gallery stays. LFW and `own`, a folder of
    identities of either task, have no test halves: there people are drawn by lot. Raises DataError where a half is
    missing or they share nobody.
    """
    recipe = recipe or Recipe()
    found = record(dataset, settings=recipe.data)
    if found.variants and not lies(found, "query", data):  # a run that was trained on one is tested on what is there
        there = [how for how in variants(found) if lies(record(dataset, settings=how), "query", data)]
        if there:
            variant = getattr(there[0], dataset)
            warn_once(f"{dataset}: the {variant} boxes are searched, no others lie below {data}")
            recipe = replace(recipe, data=replace(recipe.data, **{dataset: variant}))
    if not is_made(found, data):
        if recipe.data.folds and found.made_from == trained_on(recipe.task, data, recipe.data).name:
            raise DataError(
                f"{dataset}: its people may be among those of {found.made_from} that data.folds={recipe.data.folds} "
                f"trains on; move {part_folder(found, 'query', data).parent} away, then it is made of the tested folds"
            )
        query, gallery = (read(dataset, part, data, recipe.data) for part in ("query", "gallery"))
    else:
        if "query" in SETS[found.made_from].parts:
            query, gallery = evaluation_sets(found.made_from, data, recipe)
            boxes = partial_protocol.query_boxes(len(query))
        else:
            if recipe.data.folds and not found.split:
                whole = of_folds(found.made_from, data, recipe.data, tested=True)
            else:
                whole = read(found.made_from, "test" if found.split else "all", data, recipe.data)
            face = (recipe.task if found.task == "any" else found.task) == "face"
            kinds = ("random",) if face else KINDS  # people are cut at their sides, too
            query, gallery, boxes = partial_protocol.sampled_test(whole, recipe.partial_lfw, kinds)
        query = replace(query, name=f"{dataset}/query", boxes=boxes.double().numpy().round(4))
        gallery = replace(gallery, name=f"{dataset}/gallery")
    if not set(query.identities) & set(gallery.identities):
        raise DataError(
            f"{dataset}: no query identity of {query.folder} is in {gallery.folder}; are these halves of two sets?"
        )
    if len(set(gallery.identities)) < 2:
        raise DataError(f"{dataset}: {gallery.folder} shows one person, whom every query would find; add people")
    return query, gallery


def without_match(dataset: str, query: PictureSet, gallery: PictureSet) -> str:
    """One line on the queries that no gallery picture can answer, which no metric counts; empty if there are none.

    Raises DataError if there is no other query.
    """
    shown = Counter(gallery.identities.tolist())
    alike = Counter(zip(gallery.identities.tolist(), gallery.cameras.tolist(), strict=True))
    asked = list(zip(query.identities.tolist(), query.cameras.tolist(), strict=True))
    absent = sum(not shown[person] for person, _ in asked)
    excluded = record(dataset).cameras and sum(0 < shown[one[0]] == alike[one] for one in asked)
    causes = [f"{absent} show people who are not in the gallery"] * bool(absent)
    causes += [f"{excluded} match only pictures of their own camera, which do not count"] * bool(excluded)
    if absent + excluded == len(asked):
        raise DataError(f"{dataset}: no query has a match that counts: {' and '.join(causes)}")
    lost = f"{dataset}: {absent + excluded} of {len(asked)} queries have no match and are left out of all metrics"
    return f"{lost}: {' and '.join(causes)}" if causes else ""


def copies(dataset: str, data: Path | str, recipe: Recipe) -> tuple[str, ...]:
    """A line for copies of one picture on both sides of a test, and for those of pictures that the task trains on."""
    if record(dataset).protocol == "verification":
        faces, pairs = verification_set(dataset, data, recipe.data)
        one, other = (digests(faces.keep(side).paths, faces.kept) for side in (pairs.first, pairs.second))
        count = int(((one == other).all(1) & one.any(1)).sum())  # zeros: not readable
        counts = {f"pairs hold copies of one picture of {faces.name}": count}
        tested = [faces.keep(np.unique([pairs.first, pairs.second]))]
    else:
        query, gallery = tested = evaluation_sets(dataset, data, recipe)
        counts = {f"pictures of {query.name} are copies of pictures in {gallery.name}": query.copied_in(gallery)}
    with suppress(DataError):
        train = training_set(recipe.task, data, recipe.data)
        for one in tested:
            if train.name.split("/")[0] == (SETS[dataset].made_from or dataset):
                both = {*one.identities.tolist()} & {*train.identities.tolist()} - {0}
                counts[f"people of {one.name} are people of {train.name}, by their numbers"] = len(both)
            counts[f"pictures of {one.name} are copies of pictures in {train.name}"] = one.copied_in(train)
    return tuple(f"{dataset}: {count} {what}: they prove nothing" for what, count in counts.items() if count)


def print_notes(notes: Iterable[str]) -> None:
    """Print lines on what was left out, each once."""
    for note in notes:
        warn_once(note)


def verification_set(
    dataset: str, data: Path | str, settings: Data | None = None
) -> tuple[PictureSet, partial_protocol.Pairs]:
    """LFW and its pairs, or those of the folds in `data.folds`; `pairs.txt` lies in the set's folder or beside it.

    Raises DataError where one is missing.
    """
    faces = read(dataset, "all", data, settings)
    pairs = read_pairs(faces, data, SETS[dataset].how_to_get)
    return faces, pairs.of(settings.folds) if settings and settings.folds else pairs


def of_folds(dataset: str, data: Path | str, settings: Data, tested: bool) -> PictureSet:
    """The people of LFW who are in the pairs of the tested folds, or all others, who are trained on."""
    faces, pairs = verification_set(dataset, data, settings)
    people = np.unique(faces.identities[np.concatenate([pairs.first, pairs.second])])
    some = faces.keep(np.isin(faces.identities, people) == tested)
    return replace(some, name=f"{dataset}/{'test' if tested else 'train'}")


def truth_of(some: PictureSet, data: Path | str):
    """The rows of `truth.csv` of a drawn set's pictures, in their order."""
    table, names = truth(data), [path.relative_to(given_path(data)).as_posix() for path in some.paths]
    if unknown := [name for name in names if name not in table.index]:
        raise DataError(f"{data}: {unknown[0]} is not in truth.csv, so it was not drawn with its set; remove it")
    return table.loc[names]


def trained_on(task: str, data: Path | str, settings: Data | None = None) -> DataSet:
    """The set that a task is trained on: the one that `data.training` names, or the first that lies below `data`.

    With `data.folds` that is LFW, unless `data.training` names another.
    """
    settings = settings or Data()
    folded = {one.name: one for one in sets_of(task) if one.protocol == "verification" and settings.folds}
    known = folded | {one.name: one for one in sets_of(task) if "train" in one.parts}
    chosen = next(iter(folded), "auto") if settings.training == "auto" else settings.training
    if chosen in known:
        return known[chosen]
    if chosen != "auto" and (chosen not in SETS or SETS[chosen].of(task)):  # another task's set concerns that task
        raise DataError(f"data.training={chosen}: unknown training set; choose auto, {', '.join(known)}")
    there = [name for name in known if lies(record(name, settings=settings), "train", data)]
    if len(there) > 1:
        warn_once(
            f"{data}: {there[0]} is trained on; to train on {' or '.join(there[1:])}, --set data.training={there[1]}"
        )
    begun = [name for name in known if next(tops(SETS[name], given_path(data)), None)]  # to be told what is missing
    return known[(there or begun or [*known])[0]]


def training_set(task: str, data: Path | str, settings: Data | None = None) -> PictureSet:
    """The holistic pictures that every stage learns from. Raises DataError for fewer than two people."""
    found = trained_on(task, data, settings)
    folded = found.protocol == "verification"
    some = of_folds(found.name, data, settings, tested=False) if folded else read(found.name, "train", data, settings)
    if len(set(some.identities)) < 2:
        raise DataError(f"{found.name}: {some.folder} shows fewer than two identities; {found.how_to_get}")
    return some


def _offered(data: Path | str, task: str | None) -> list[DataSet]:
    """The sets (of a task) to look for: drawn people have partial sets of their own, so none are made of them."""
    return [one for one in sets_of(task) if one.folders or not is_drawn(data, one.made_from)]


def available(data: Path | str, task: str | None = None, settings: Data | None = None) -> list[str]:
    """The sets (of a task) that can be evaluated on: whose query and gallery, or pairs, can be read below `data`."""
    found, recipe = [], Recipe(task=task or "person", data=settings or Data())
    for one in _offered(data, task):
        try:
            if one.protocol == "verification":
                verification_set(one.name, data, recipe.data)
            elif one.protocol:
                without_match(one.name, *evaluation_sets(one.name, data, recipe))
            found += [one.name] if one.protocol else []
        except DataError as error:
            tested = [part for part in one.parts if part not in ("train", "occluded")]
            if any(lies(record(one.name, settings=recipe.data), part, data) for part in tested):
                warn_once(f"{one.name} is not evaluated: {error}")
    return found


def partial_sets(data: Path | str, task: str, settings: Data | None = None) -> list[str]:
    """The available sets of a task whose queries are partial. Raises DataError where there is none."""
    found = [name for name in available(data, task, settings) if SETS[name].partial]
    if not found:
        wanted = next(one for one in sets_of(task) if one.partial)
        wanted = SETS[wanted.made_from or wanted.name]
        raise DataError(f"{data} holds no partial set to evaluate on; {wanted.how_to_get}")
    return found


def is_drawn(data: Path | str, dataset: str | None = None) -> bool:
    """True if a set (or any) below `data` was drawn by this project: drawn sets stand in a table of their truth."""
    known = finished(given_path(data))
    if dataset is None:
        return bool(known)
    found = record(dataset)
    return (found.made_from if is_made(found, data) else dataset) in known


def check(data: Path | str, task: str | None = None) -> list[dict]:
    """List the sets below `data`: a row for each part of each set (of a task), with the published counts.

    Keys: dataset, part, folder, pictures, identities, published, published_identities, status (`complete`, `drawn`,
    `own`, `made` from another set, `differs`, `missing`, `unreadable`), note. Raises DataError if `data` is no folder.
    """
    if not given_path(data).is_dir():
        raise DataError(f"{data} is not a folder; give --data the folder that holds (or will hold) the sets")
    rows = []
    for one in _offered(data, task):
        lying = SETS[one.made_from] if one.made_from else one
        settings = variants(lying)
        there = [
            how for how in settings if any(lies(record(lying.name, settings=how), part, data) for part in lying.parts)
        ]
        if not there and not one.split and one.folders:  # nobody misses a folder of identities, or a test made of a set
            there = settings[:1]
        for how in there:
            rows += [_row(record(one.name, settings=how), part, given_path(data), how) for part in one.parts]
    return rows


def _row(found: DataSet, part: str, data: Path, settings: Data) -> dict:
    """A row of `check`."""
    published = found.parts[part].pictures, found.parts[part].identities
    row = {"dataset": found.name, "part": part, "folder": None, "pictures": 0, "identities": 0}
    row |= {"published": published[0], "published_identities": published[1], "status": "", "note": ""}
    bare = partial(re.sub, rf"^{found.name}(/\w+)?: ", "")  # a note without its set, which the row names
    recipe = Recipe(task="face" if found.task == "face" else "person", data=settings)
    files: list[str] = []
    try:
        if made := not found.split and is_made(found, data):
            row |= {"status": "made", "note": f"made from {found.made_from}"}
        else:
            folder = part_folder(found, part, data)
            row["folder"] = folder.relative_to(data).as_posix()
            files = [] if found.split else _files(found, folder)
            row["pictures"] = len(files)
        if made or part == "query":
            some = evaluation_sets(found.name, data, recipe)[part == "gallery"]
        else:
            some = verification_set(found.name, data)[0] if part == "all" else read(found.name, part, data, settings)
        if bad := [path for path in some.paths if not (os.path.isfile(path) and os.path.getsize(path))]:
            raise DataError(f"{len(bad)} pictures are empty or not there, such as {bad[0]}; replace or remove them")
        row["identities"] = len(set(some.identities) - ({0} if found.distractors else set()))
        row["pictures"] = row["pictures"] or len(some)
        if not made:
            same = (row["pictures"], row["identities"]) == published
            row["status"] = "own" if found.split else "complete" if same else "differs"
            row["status"] = "drawn" if is_drawn(data, found.name) else row["status"]
        if row["status"] == "differs":
            row["note"] = f"published: {published[0]} of {published[1]} people"
        notes = [*some.notes]
        names = map(os.path.basename, files)
        if junk := [name for name in names if found.distractors and name.startswith("-1")]:
            notes.append(f"{counted(junk)} junk, such as {junk[0]}, and left out")
        try:
            if part in ("query", "test"):
                notes.append(without_match(found.name, *evaluation_sets(found.name, data, recipe)))
            if part in ("query", "test", "all"):
                notes += copies(found.name, data, recipe)
        except DataError as error:  # the pictures can be read, and no test be made of them
            notes.append(str(error))
        row["note"] = "; ".join(filter(None, [row["note"], *map(bare, notes)]))
    except DataError as error:
        there = row["pictures"] or found.split or isinstance(error.__cause__, OSError)  # there, not readable
        row["status"] = "unreadable" if there else "missing"
        row["note"] = bare(str(error)) if there or next(tops(found, data), None) else found.how_to_get
    return row


def parts(data: Path | str) -> dict[str, tuple[int, str]]:
    """Number and fingerprint of all pictures of each part of each set below `data`; LFW's pairs are among them.

    Pictures that no test or training can use are counted, too.
    """
    known = {}
    sets = [(record(name, settings=how), how) for name, one in SETS.items() for how in variants(one)]
    for one, how in sets:
        for part in ["train"] if one.split else one.parts:  # both parts of own people lie in one folder
            if lies(one, part, data):
                name, folder = f"{one.name}/{'all' if one.split else part}", part_folder(one, part, data)
                name += f" ({getattr(how, one.name)})" if one.variants else ""
                files = _files(one, folder)
                pairs = [path for path in pairs_places(folder, data) if path.is_file()] if part == "all" else []
                known[name] = len(files), fingerprint(folder, [*files, *pairs[:1]], kept_below(data))
    return known


def contents(data: Path | str, known: dict[str, tuple[int, str]] | None = None) -> dict:
    """Counts and a hash of all pictures below `data`, for a run's manifest; `known`: its `parts`, where at hand."""
    known = parts(data) if known is None else known
    digest = hashlib.sha256(json.dumps({name: one for name, (_, one) in known.items()}).encode()).hexdigest()
    return {"pictures": {name: count for name, (count, _) in known.items()}, "sha256": digest, "drawn": is_drawn(data)}


def _files(found: DataSet, folder: Path) -> list[str]:
    """All pictures of a part: those of its folder, or of the identities' folders in it."""
    folders = _folders(found, folder)
    return [f"{each}/{name}" for each in folders for name in picture_names(each)]  # text: paths take twice as long


def _folders(found: DataSet, folder: Path) -> list[Path]:
    """The folders whose pictures are a part's: people's, or the part's own, unless it holds nothing but folders.

    Occluded-REID is in circulation in both forms.
    """
    inside = people(folder)
    return [folder] if found.pattern and (not inside or picture_names(folder)) else inside


def ready(recipe: Recipe, data: Path | str, run: Path | str = "", quiet: bool | None = None) -> Path:
    """Return the data folder of a run; except in the paper profile, pictures are drawn if it is RUN/data.

    Drawing does not depend on a run's seed, so that seeds can be compared; a folder with the user's own sets is left as
    it is. Raises DataError for a folder that is not there, or that says how to get the missing training set.
    """
    data = given_path(data)
    default = bool(run) and data.resolve() == (given_path(run) / "data").resolve()
    if not (default or data.is_dir()):
        raise DataError(f"{data} is not a folder: give --data (in a notebook: data) a folder that is there")
    drawn = is_drawn(data, trained_on(recipe.task, data, recipe.data).name)
    if recipe.profile != "paper" and not is_own(data) and not drawn and (default or (data / NOTE).is_file()):
        synthesise(recipe.task, data, 0, recipe.scale, quiet)
    training_set(recipe.task, data, recipe.data)
    return data


def is_own(data: Path) -> bool:
    """True if a folder holds something that was not drawn, hidden files aside: the user's own sets, left alone."""
    return occupied(data) and not (data / NOTE).is_file()


def synthesise(task: str, out: Path | str, seed: int = 0, scale: str = "demo", quiet: bool | None = None) -> None:
    """Draw a task's sets into a folder. Raises DataError for a folder that holds others."""
    from ..drawn import faces, people

    {"person": people.draw_people, "face": faces.draw_faces}[task](given_path(out), seed, scale, quiet)
