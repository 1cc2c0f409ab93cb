"""What holds for any file name, any pairs.txt, any distances: drawn by hypothesis, the same ones each time.

Boxes have theirs in test_geometry.py.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ppcl import metrics
from ppcl.data import datasets, partial_protocol
from ppcl.data.datasets import DataError, PictureSet
from ppcl.data.sets import SETS
from ppcl.disk.files import printable

PROPERTY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
letter = st.characters(exclude_characters="/\0", exclude_categories=["Cs"]) | st.sampled_from("\udc80\udcff")
ANY = st.text(letter, min_size=1, max_size=40)  # \udcff: a byte that is no UTF-8
FOLDERS = {dataset: Path(SETS[dataset].folders[0]) for dataset in ("market1501", "partial-reid", "partial-ilids")}


# --- file names ---


@pytest.fixture
def named(tmp_path):
    """Reads a set's part that holds files of these names: `(stem, identity, camera)` of each, in their order."""
    top = iter(range(10**6))

    def read(dataset, part, names):
        data = tmp_path / str(next(top))
        folder = data / FOLDERS[dataset] / SETS[dataset].parts[part].folders[0]
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
        found = datasets.read(dataset, part, data)
        stems = [path.stem for path in found.paths]
        return list(zip(stems, found.identities.tolist(), found.cameras.tolist(), strict=True))

    return read


numbers = st.integers(0, 10**18 - 1)
endings = st.sampled_from([".jpg", ".JPG", ".jpeg", ".png", ".bmp", ".Png"])


@PROPERTY
@given(st.integers(1, 10**18 - 1), numbers, st.integers(0, 99), numbers, numbers, endings)
def test_market_names_tell_identity_and_camera(named, person, camera, sequence, frame, box, ending):
    name = f"{person:04d}_c{camera}s{sequence}_{frame:06d}_{box:02d}"
    assert named("market1501", "train", [name + ending]) == [(name, person, camera)]


@PROPERTY
@given(numbers, numbers, st.integers(1, 18), endings)
def test_partial_names_tell_identity_and_in_ilids_the_camera(named, person, number, width, ending):
    name = f"{person:0{width}d}_{number:0{width}d}"
    assert named("partial-reid", "gallery", [name + ending]) == [(name, person, 1)]
    assert named("partial-reid", "query", [name + ending]) == [(name, person, 0)]
    assert named("partial-ilids", "query", [name + ending]) == [(name, person, number)]
    alone = f"{person:0{width}d}"
    assert named("partial-ilids", "gallery", [alone + ending]) == [(alone, person, 1)]


@PROPERTY
@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 6)), min_size=1, unique=True), st.randoms())
def test_pictures_come_by_name_in_whatever_order_they_were_made(named, people, random):
    names = [f"{person:04d}_c{camera}s1_000001_00.jpg" for person, camera in people]
    random.shuffle(names)
    expected = [(f"{p:04d}_c{c}s1_000001_00", p, c) for p, c in sorted(people)]
    assert named("market1501", "train", names) == expected


NAMES = {
    "market1501": r"(-1|[0-9]{4,18})_c[0-9]{1,18}s[0-9]+_[0-9]+_[0-9]+",
    "partial-reid": r"[0-9]{1,18}_[0-9]{1,18}",
    "partial-ilids": r"[0-9]{1,18}(_[0-9]{1,18})?",
}
RIGHT = {"market1501": "0002_c1s1_000451_03", "partial-reid": "001_001", "partial-ilids": "001"}


def other(named, dataset, stem):
    """It is of the layout, or named in one line."""
    assume(stem and not stem.startswith(".") and Path(f"{stem}.jpg").suffix == ".jpg")
    if re.fullmatch(NAMES[dataset], stem):
        assert [name for name, *_ in named(dataset, "gallery", [f"{stem}.jpg"])] == [stem]
        return
    with pytest.raises(DataError) as caught:
        named(dataset, "gallery", [f"{stem}.jpg"])
    assert str(caught.value).isprintable() and f"{printable(stem)}.jpg is not named like" in str(caught.value)


@PROPERTY
@given(st.sampled_from(sorted(NAMES)), ANY)
def test_any_other_name_is_named_in_one_line(named, dataset, stem):
    other(named, dataset, stem)


@PROPERTY
@given(st.sampled_from(sorted(NAMES)), st.data())
def test_a_name_with_one_change_is_named_or_of_the_layout(named, dataset, data):
    right = RIGHT[dataset]
    at = data.draw(st.one_of(st.just(0), st.just(len(right)), st.integers(0, len(right))), "at")
    new = data.draw(st.sampled_from(["_", "-", "+", " ", "\n", "a", "٣", "²", ".", "9" * 19, "c", "\udcff"]), "text")
    other(named, dataset, right[:at] + new + right[at + data.draw(st.integers(0, 2), "cut") :])


@given(st.text())
@PROPERTY
def test_what_is_printed_is_one_line_of_utf8(text):
    shown = printable(text)
    assert shown.isprintable() and len((shown + "|").splitlines()) == 1
    assert shown.encode() and printable(shown) == shown if shown else text == ""
    assert not text.isprintable() or shown == text


# --- pairs.txt ---

words = st.text(st.characters(categories=["L"], max_codepoint=0x24F), min_size=1, max_size=6)
people = st.dictionaries(
    words.map(lambda word: partial_protocol.composed(word)[0]), st.integers(2, 4), min_size=2, max_size=5
)


@st.composite
def tables(draw):
    """(people with their number of pictures, folds, pairs as (name, i, other, j)) of a whole table."""
    known = draw(people)
    names, pairs = sorted(known), []
    folds, each = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    for _ in range(folds):
        for same in (True, False):
            for _ in range(each):
                first, second = draw(st.permutations(names))[:2]
                if same:
                    i, j = draw(st.permutations(range(1, known[first] + 1)))[:2]
                    pairs.append((first, i, first, j))
                else:
                    i, j = draw(st.integers(1, known[first])), draw(st.integers(1, known[second]))
                    pairs.append((first, i, second, j))
    return known, folds, pairs


def written(folds, pairs, tab="\t"):
    rows = [(a, str(i), str(j)) if a == b else (a, str(i), b, str(j)) for a, i, b, j in pairs]
    return [f"{folds}{tab}{len(pairs) // (2 * folds)}", *(tab.join(row) for row in rows)]


def lfw(known):
    paths = tuple(Path(f"lfw/{name}/{name}_{i:04d}.jpg") for name, count in known.items() for i in range(1, count + 1))
    return PictureSet("lfw/all", Path("lfw"), paths, np.zeros(len(paths), int), np.zeros(len(paths), int))


def read_back(path, lines, pictures, newline="\n"):
    path.write_bytes(newline.join(lines).encode())
    found = partial_protocol.read_pairs(pictures, path.parent, "")
    sides = [[pictures.paths[i] for i in side] for side in (found.first, found.second)]
    pairs = [(a.parent.name, int(a.stem[-4:]), b.parent.name, int(b.stem[-4:])) for a, b in zip(*sides, strict=True)]
    assert found.same.tolist() == [a == b for a, _, b, _ in pairs]
    return found.folds, pairs


@PROPERTY
@given(tables(), st.sampled_from("\t "), st.sampled_from(["\n", "\r\n", "\n\n", "\r", " \n\t"]), st.booleans())
def test_written_pairs_are_read_back(tmp_path, table, tab, newline, mark):
    known, folds, pairs = table
    lines = written(folds, pairs, tab)
    assert read_back(tmp_path / "pairs.txt", ["\ufeff" * mark + lines[0], *lines[1:]], lfw(known), newline) == (
        folds,
        pairs,
    )


@PROPERTY
@given(tables(), st.data())
def test_one_changed_line_is_named_by_its_number_or_read_as_it_says(tmp_path, table, data):
    known, folds, pairs = table
    lines = written(folds, pairs)
    at = data.draw(st.integers(0, len(lines) - 1), "line")
    fields = lines[at].split("\t")
    field = data.draw(st.integers(0, len(fields) - 1), "field")
    odd = st.sampled_from(["..", "", "0", "٢", "²", "+2", "02", "2.0", "2" * 400])
    arabic = st.integers(1, 4).map(lambda number: chr(0x660 + number))  # which `int` takes, too
    small = st.integers(1, 4).map(str)
    anything = st.one_of(st.text(max_size=8), small, arabic, st.sampled_from(sorted(known)), odd)
    change = data.draw(st.sampled_from(["replace", "remove", "add"]), "change")
    new = data.draw(anything.filter(lambda text: not set(text) & set("\r\n")), "text")
    assume(not any("\ud800" <= letter <= "\udfff" for letter in new))
    fields[field : field + (change != "add")] = [] if change == "remove" else [new]
    line = "\t".join(fields)
    assume(line.strip())  # a blank line is none: then the counts differ, which the tests of face_sets have
    lines[at] = line
    try:
        found = read_back(tmp_path / "pairs.txt", lines, lfw(known))
    except DataError as error:
        said = str(error)
        assert said.isprintable() and "\n" not in said and len(said) < 1000
        assert f"pairs.txt, line {at + 1}: " in said or (at == 0 and "pairs, but line 1 speaks of" in said)
    else:
        again = written(found[0], found[1])
        split = [part.strip() for part in (line.split() if len(line.split()) in (2, 3, 4) else line.split("\t"))]
        plain = [
            partial_protocol.composed(part)[0].lstrip("0") if part.isdecimal() else partial_protocol.composed(part)[0]
            for part in split
        ]
        assert again[at].split("\t") == plain and [*again[:at], *again[at + 1 :]] == [*lines[:at], *lines[at + 1 :]]


# --- metrics ---


@st.composite
def searches(draw, cameras=True):
    """Distances of few values, so that ties abound; identities that may be on one side alone; cameras or none."""
    count, size = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    few = st.integers(0, 4)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    distances = rng.integers(draw(st.sampled_from([1, 3, 50])), size=(count, size)) / 8
    ids = [np.array(draw(st.lists(few, min_size=n, max_size=n))) for n in (count, size)]
    where = [rng.integers(3, size=n) for n in (count, size)] if cameras and draw(st.booleans()) else [None, None]
    return distances, *ids, *where


def naive(distances, query, gallery, query_cameras=None, gallery_cameras=None):
    """First hit and average precision of each query, from a stable sort in which wrong pictures stand before right."""
    for i, row in enumerate(distances):
        listed = []
        for j, distance in enumerate(row):
            own = query[i] == gallery[j]
            if not (own and query_cameras is not None and query_cameras[i] == gallery_cameras[j]):
                listed.append((distance, own))
        order = [own for _, own in sorted(listed, key=lambda one: one)]
        places = [place for place, own in enumerate(order, 1) if own]
        precision = sum(hit / place for hit, place in enumerate(places, 1)) / len(places) if places else math.nan
        yield places[0] - 1 if places else -1, precision


@PROPERTY
@given(searches())
def test_cmc_and_map_are_the_naive_sort(case):
    found = metrics.cmc_map(*case)
    first, precision = zip(*naive(*case), strict=True)
    assert found.first.tolist() == list(first)
    np.testing.assert_allclose(found.average_precision, precision, rtol=1e-12)
    valid = [value for value in precision if not math.isnan(value)]
    assert found.unmatched == len(first) - len(valid)
    assert found.mAP == pytest.approx(np.mean(valid), nan_ok=True) if valid else math.isnan(found.mAP)


@PROPERTY
@given(searches())
def test_cmc_rises_to_one_and_everything_is_a_share(case):
    found = metrics.cmc_map(*case)
    curve = found.cmc(case[0].shape[1])
    if not found.matched.any():
        assert np.isnan(curve).all() and np.isnan(found.mAP)
        return
    assert (np.diff(curve) >= 0).all() and 0 <= curve[0] and curve[-1] == 1
    assert 0 < found.mAP <= 1 and found.mAP <= 1 - (1 - curve[0]) / case[0].shape[1] + 1e-12
    assert (found.average_precision[found.first == 0] > 0).all() and np.nanmax(found.average_precision) <= 1
    for k in (1, 3):
        assert found.rank(k) == pytest.approx(np.nanmean(found.hits(k)))


@PROPERTY
@given(
    searches(), st.randoms(), st.sampled_from([np.exp, np.sqrt, lambda d: 3 * d - 7, lambda d: d.astype(np.float32)])
)
def test_ranks_know_neither_the_gallerys_order_nor_the_distances_scale(case, random, scale):
    distances, query, gallery, *cameras = case
    before = metrics.cmc_map(*case)
    order = list(range(len(gallery)))
    random.shuffle(order)
    if cameras[0] is not None:
        cameras = [cameras[0], cameras[1][order]]
    for after in (
        metrics.cmc_map(distances[:, order], query, gallery[order], *cameras),
        metrics.cmc_map(scale(distances), query, gallery, *case[3:]),
    ):
        assert after.first.tolist() == before.first.tolist()
        np.testing.assert_array_equal(after.average_precision, before.average_precision)


@PROPERTY
@given(searches(cameras=False), st.integers(0, 3))
def test_a_farther_stranger_changes_nothing_and_a_nearer_match_helps(case, person):
    distances, query, gallery, *_ = case
    before = metrics.cmc_map(distances, query, gallery)
    farther = np.concatenate([distances, np.full((len(query), 1), distances.max() + 1)], 1)
    after = metrics.cmc_map(farther, query, np.append(gallery, 99))
    np.testing.assert_array_equal(after.average_precision, before.average_precision)
    nearer = np.concatenate([distances, np.full((len(query), 1), distances.min() - 1)], 1)
    after = metrics.cmc_map(nearer, query, np.append(gallery, person))
    assert (after.first[query == person] == 0).all()
    assert (after.first[query != person] == np.where(before.first < 0, -1, before.first + 1)[query != person]).all()


@st.composite
def judged(draw):
    """Scores of few values, both kinds of pairs, some folds of two pairs or more."""
    folds = draw(st.integers(2, 5))
    count = draw(st.integers(2 * folds, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    same = rng.random(count) < 0.5
    same[:2] = True, False
    return rng.integers(draw(st.sampled_from([1, 4, 100])), size=count) / 4, rng.permutation(same), folds


@PROPERTY
@given(judged())
def test_verification_is_the_naive_search_for_a_threshold(case):
    scores, same, folds = case
    found = metrics.verification(scores, same, folds)
    fold = [i * folds // len(scores) for i in range(len(scores))]
    for k, accuracy in enumerate(found.accuracy):
        own = [i for i in range(len(scores)) if fold[i] == k]
        others = [i for i in range(len(scores)) if fold[i] != k]
        tried = sorted({scores[i] for i in others})  # the lowest of the best
        best = max(tried, key=lambda threshold: sum((scores[i] >= threshold) == same[i] for i in others))
        assert accuracy == pytest.approx(np.mean([(scores[i] >= best) == same[i] for i in own]))
    assert 0 <= found.mean <= 1
    for rate in (found.far, found.tar):
        assert rate[0] == 0 and rate[-1] == 1 and (np.diff(rate) >= 0).all()
    for far in (0, 0.3, 1):
        tried = [t for t in {*scores, math.inf} if np.mean(scores[~same] >= t) <= far]
        assert found.tar_at(far) == pytest.approx(max(np.mean(scores[same] >= t) for t in tried))
        value, low, high = metrics.tar_interval(scores, same, far, folds, draws=20)
        assert value == pytest.approx(found.tar_at(far)) and 0 <= low <= high <= 1


@PROPERTY
@given(searches(cameras=False), st.floats(0, 1))
def test_accepted_is_a_share_that_grows_with_the_rate(case, far):
    distances, query, gallery, *_ = case
    found = metrics.accepted(distances, query, gallery, far)
    matched = np.isin(query, gallery)
    assert np.isnan(found).tolist() == (~matched).tolist()
    assert ((found[matched] >= 0) & (found[matched] <= 1)).all()
    assert (found[matched] >= metrics.accepted(distances, query, gallery, far / 2)[matched]).all()
    assert (metrics.accepted(distances, query, gallery, 1)[matched] == 1).all()


@PROPERTY
@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), min_size=1, max_size=12), st.data())
def test_a_bootstrap_interval_lies_within_the_values(values, data):
    people = data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
    mean, low, high = metrics.bootstrap(values, people, draws=50)
    kept = [value for value in values if not math.isnan(value)]
    if not kept:
        assert math.isnan(mean) and math.isnan(low) and math.isnan(high)
        return
    assert mean == pytest.approx(np.mean(kept))
    assert min(kept) - 1e-12 <= low <= high <= max(kept) + 1e-12
    if len({person for person, value in zip(people, values, strict=True) if not math.isnan(value)}) == 1:
        assert low == pytest.approx(mean) == high
