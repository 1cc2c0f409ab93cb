"""Distances and identities -> CMC, mAP, verification and their intervals. No model is known here.

Ties count against the query: a wrong picture at a true match's distance ranks before it. So neither the gallery's order
nor the sorting algorithm can change a result.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """Ranks of each query. Queries without a valid match are counted in `unmatched` and left out of all means.

    first `(Q,)`: 0-based rank of the first true match, -1 without one; average_precision `(Q,)`, NaN without one.
    """

    first: np.ndarray
    average_precision: np.ndarray

    @classmethod
    def joined(cls, parts, order: np.ndarray) -> "Ranking":
        """Rankings of several groups of queries as one, in the order `(Q,)` of their concatenation."""
        names = ("first", "average_precision")
        return cls(*(np.concatenate([getattr(one, name) for one in parts])[order] for name in names))

    @property
    def matched(self) -> np.ndarray:
        """Mask `(Q,)` of the queries that have a valid match."""
        return self.first >= 0

    @property
    def unmatched(self) -> int:
        """Number of queries without a valid match."""
        return int((~self.matched).sum())

    @property
    def mAP(self) -> float:  # noqa: N802 - the field's name
        """Mean average precision over matched queries; NaN without any."""
        return float(self.average_precision[self.matched].mean()) if self.matched.any() else np.nan

    def hits(self, k: int) -> np.ndarray:
        """1 if the first true match is among the first k, else 0; NaN without a valid match: `(Q,)`."""
        return np.where(self.matched, (self.first < k).astype(float), np.nan)

    def rank(self, k: int) -> float:
        """rank-k over matched queries; NaN without any."""
        return float(np.mean(self.first[self.matched] < k)) if self.matched.any() else np.nan

    def cmc(self, length: int = 50) -> np.ndarray:
        """The cumulative match characteristic, rank-1 to rank-`length`."""
        return np.array([self.rank(k) for k in range(1, length + 1)])


def same_camera(query_ids, gallery_ids, query_cameras, gallery_cameras) -> np.ndarray:
    """Market-1501's excluded pairs `(Q, G)`: the same person seen by the same camera."""
    people = np.asarray(query_ids)[:, None] == np.asarray(gallery_ids)[None]
    return people & (np.asarray(query_cameras)[:, None] == np.asarray(gallery_cameras)[None])


def cmc_map(distances, query_ids, gallery_ids, query_cameras=None, gallery_cameras=None) -> Ranking:
    """Rank a `(Q, G)` distance matrix. With cameras, `same_camera` pairs are left out (give both or neither).

    Only a query's own matches are sorted: the rank of each is the number of other people's pictures that are no
    farther. The matrix is read row by row and never copied. Raises ValueError for shapes that disagree and for NaN.
    """
    distances = np.asarray(distances)
    query_ids, gallery_ids = np.asarray(query_ids), np.asarray(gallery_ids)
    if distances.shape != (len(query_ids), len(gallery_ids)):
        raise ValueError(
            f"distances are {distances.shape}, for {len(query_ids)} queries and {len(gallery_ids)} gallery pictures"
        )
    if np.isnan(distances.min(initial=0)):  # NaN if any is; `isnan` of all would be a second matrix
        raise ValueError(f"{sum(np.count_nonzero(np.isnan(row)) for row in distances)} distances are NaN")
    if (query_cameras is None) != (gallery_cameras is None):
        raise ValueError("give the cameras of both query and gallery, or of neither")
    if query_cameras is not None:
        query_cameras, gallery_cameras = np.asarray(query_cameras), np.asarray(gallery_cameras)
        if (len(query_cameras), len(gallery_cameras)) != distances.shape:
            raise ValueError(f"{len(query_cameras)} and {len(gallery_cameras)} cameras, distances {distances.shape}")
    for both in ((query_ids, gallery_ids), (query_cameras, gallery_cameras)):
        if len({np.asarray(one).dtype.kind in "biuf" for one in both}) > 1:
            raise ValueError(f"{both[0][:1]} and {both[1][:1]} never match: give numbers on both sides, or text")
    order = np.argsort(gallery_ids, kind="stable")  # so that each identity's columns are contiguous
    begin, end = (np.searchsorted(gallery_ids[order], query_ids, side) for side in ("left", "right"))
    first = np.full(len(query_ids), -1)
    precision = np.full(len(query_ids), np.nan)
    for i, row in enumerate(distances):
        columns = order[begin[i] : end[i]]
        own = valid = row[columns]
        if query_cameras is not None:
            person, camera = query_ids[i : i + 1], query_cameras[i : i + 1]
            valid = own[~same_camera(person, gallery_ids[columns], camera, gallery_cameras[columns])[0]]
        if len(valid) == 0:
            continue
        found = np.sort(valid)
        nearer = np.array([np.count_nonzero(row <= distance) for distance in found])
        before = nearer - np.searchsorted(np.sort(own), found, "right")  # other people's pictures only
        first[i] = before[0]
        place = np.arange(1, len(found) + 1)
        precision[i] = np.mean(place / (place + before))
    return Ranking(first, precision)


def single_shot_columns(gallery_ids, draws: int = 10, seed: int = 0) -> list[np.ndarray]:
    """Galleries of the single-shot protocol, as indices: one random picture of each identity, drawn `draws` times.

    With a shortlist, match within each (`matching.match_within`): no result may depend on pictures outside it.
    """
    gallery_ids = np.asarray(gallery_ids)
    groups = [np.flatnonzero(gallery_ids == person) for person in np.unique(gallery_ids)]
    each = [np.random.default_rng([seed, draw]) for draw in range(draws)]
    return [np.array([rng.choice(group) for group in groups], int) for rng in each]


@dataclass(frozen=True)
class Verification:
    """Same or different, by a threshold: accuracy `(folds,)`; the ROC as far and tar `(T,)`, both rising."""

    accuracy: np.ndarray
    far: np.ndarray
    tar: np.ndarray

    @property
    def mean(self) -> float:
        """Mean accuracy over the folds."""
        return float(self.accuracy.mean())

    def tar_at(self, far: float) -> float:
        """Largest true accept rate at a false accept rate of at most `far`."""
        return float(self.tar[self.far <= far].max())


def verification(scores, same, folds: int = 10) -> Verification:
    """LFW's protocol: each fold's pairs are judged by the threshold that is best on the other folds.

    scores `(N,)`: similarity of each pair; same `(N,)`: True for the same person. Folds are consecutive, as in
    `pairs.txt`. Raises ValueError if lengths differ, a fold has fewer than two pairs, or all pairs are of one kind.
    """
    scores, same = np.asarray(scores, float), np.asarray(same, bool)
    if scores.shape != same.shape or scores.ndim != 1:
        raise ValueError(f"{scores.shape} scores for {same.shape} pairs")
    if np.isnan(scores).any() or len(scores) < 2 * folds or folds < 2 or same.all() or not same.any():
        raise ValueError(
            "verification needs scores that are numbers, at least two pairs in each fold, and pairs of both kinds"
        )
    fold = np.arange(len(scores)) * folds // len(scores)
    right = [
        np.mean((scores[fold == k] >= _best_threshold(scores[fold != k], same[fold != k])) == same[fold == k])
        for k in range(folds)
    ]
    thresholds = -np.unique(scores)[::-1]
    counts = (np.searchsorted(np.sort(-scores[kind]), thresholds, "right") for kind in (~same, same))
    return Verification(np.array(right), *(np.append(0, count) / count[-1] for count in counts))


def _best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """Lowest threshold that judges the most pairs correctly; scores at the threshold are accepted."""
    values = np.unique(scores)
    below_different = np.searchsorted(np.sort(scores[~same]), values, "left")
    above_same = same.sum() - np.searchsorted(np.sort(scores[same]), values, "left")
    return float(values[np.argmax(below_different + above_same)])


def accepted(distances, query_ids, gallery_ids, far: float) -> np.ndarray:
    """TAR@FAR of a search for each query `(Q,)`: share of its matches nearer than all but `far` of all false pairs.

    One threshold for all queries. NaN for a query without a true match; without false pairs every match is accepted.
    """
    distances = np.asarray(distances)
    same = np.asarray(query_ids)[:, None] == np.asarray(gallery_ids)[None]
    threshold = _threshold(distances[~same], far)
    with np.errstate(invalid="ignore"):
        return ((distances < threshold) & same).sum(1) / np.where(same.any(1), same.sum(1), np.nan)


def _threshold(false: np.ndarray, far: float) -> float:
    """Distance below which pairs are accepted; a true match tied with a rejected false pair is rejected."""
    allowed = int(far * len(false) + 1e-9)
    return np.sort(false)[allowed] if allowed < len(false) else np.inf


def tar_interval(scores, same, far: float, folds: int = 10, draws: int = 500, seed: int = 0):
    """TAR at a false accept rate with its 95 % interval, from resampled folds: (value, low, high).

    NaN without a pair of the same person; resamples without one are left out of the interval.
    """
    scores, same = np.asarray(scores, float), np.asarray(same, bool)

    def tar(positive: np.ndarray, negative: np.ndarray) -> float:
        return float(np.mean(-positive < _threshold(-negative, far))) if len(positive) else float("nan")

    fold = np.arange(len(scores)) * folds // len(scores)
    parts = [(scores[(fold == k) & same], scores[(fold == k) & ~same]) for k in range(folds)]
    rng, found = np.random.default_rng(seed), []
    for _ in range(draws):
        chosen = [parts[k] for k in rng.integers(folds, size=folds)]
        found.append(tar(*(np.concatenate(kind) for kind in zip(*chosen, strict=True))))
    found = [value for value in found if not np.isnan(value)] or [float("nan")]
    return (tar(scores[same], scores[~same]), *(float(value) for value in np.quantile(found, [0.025, 0.975])))


def bootstrap(values, identities, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean of per-query values `(Q,)` with its 95 % interval, from resampled identities: (mean, low, high).

    An identity is resampled with all its queries; NaN values are left out. For a paired difference, give the
    difference of two methods' values.
    """
    values, identities = np.asarray(values, float), np.asarray(identities)
    kept = ~np.isnan(values)
    values, identities = values[kept], identities[kept]
    if len(values) == 0:
        return np.nan, np.nan, np.nan
    _, group = np.unique(identities, return_inverse=True)
    total, count = np.bincount(group, values), np.bincount(group).astype(float)
    picks = np.random.default_rng(seed).integers(len(total), size=(draws, len(total)))
    means = total[picks].sum(1) / count[picks].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)
