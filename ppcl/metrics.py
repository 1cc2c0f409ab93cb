"""Distances + identities (+ exclusion mask) -> CMC, mAP and their intervals. Nothing in here knows a model.

Ties are counted against the query: a wrong picture at a true match's distance stands before it. So no order of the
gallery, and no sorting algorithm, can change a result.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """What each query found. NaN / -1 where a query has no valid match: counted in `unmatched`, in no mean.

    first `(Q,)`: 0-based rank of the first true match; average_precision `(Q,)`.
    """

    first: np.ndarray
    average_precision: np.ndarray

    @property
    def matched(self) -> np.ndarray:
        """`(Q,)`: which queries have a valid match."""
        return self.first >= 0

    @property
    def unmatched(self) -> int:
        """How many queries have none."""
        return int((~self.matched).sum())

    @property
    def mAP(self) -> float:  # noqa: N802 - the field's name
        """Mean average precision over the queries that have a valid match; NaN if none has."""
        return float(self.average_precision[self.matched].mean()) if self.matched.any() else float("nan")

    def hits(self, k: int) -> np.ndarray:
        """`(Q,)`: 1 where the first true match is among the first k, 0 where not, NaN without a valid match."""
        return np.where(self.matched, (self.first < k).astype(float), np.nan)

    def rank(self, k: int) -> float:
        """rank-k over the queries that have a valid match; NaN if none has."""
        return float(np.mean(self.first[self.matched] < k)) if self.matched.any() else float("nan")

    def cmc(self, length: int = 50) -> np.ndarray:
        """The cumulative match characteristic, rank-1 to rank-`length`."""
        return np.array([self.rank(k) for k in range(1, length + 1)])


def same_camera(query_ids, gallery_ids, query_cameras, gallery_cameras) -> np.ndarray:
    """Market-1501's exclusion `(Q, G)`: the same person in the same camera may not be matched."""
    people = np.asarray(query_ids)[:, None] == np.asarray(gallery_ids)[None]
    return people & (np.asarray(query_cameras)[:, None] == np.asarray(gallery_cameras)[None])


def cmc_map(distances, query_ids, gallery_ids, query_cameras=None, gallery_cameras=None) -> Ranking:
    """Rank a `(Q, G)` distance matrix. With cameras, `same_camera` pairs are left out (give both or neither).

    Nothing is sorted but a query's own few matches: the rank of each is how many others lie no farther. The matrix is
    read row by row, in its own dtype, and never copied. Raises ValueError for shapes that do not agree and for
    distances that are not numbers.
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
    order = np.argsort(gallery_ids, kind="stable")  # so that an identity's columns stand together
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
        before = nearer - np.searchsorted(np.sort(own), found, "right")  # other people's alone
        first[i] = before[0]
        place = np.arange(1, len(found) + 1)
        precision[i] = np.mean(place / (place + before))
    return Ranking(first, precision)


def single_shot_columns(gallery_ids, draws: int = 10, seed: int = 0) -> list[np.ndarray]:
    """The galleries of the single-shot protocol, as indices: in each of `draws` draws one random picture an identity.

    What is found in one of them must not depend on the rest: with a shortlist, match in each
    (`matching.match_within`).
    """
    gallery_ids = np.asarray(gallery_ids)
    groups = [np.flatnonzero(gallery_ids == person) for person in np.unique(gallery_ids)]
    each = [np.random.default_rng([seed, draw]) for draw in range(draws)]
    return [np.array([rng.choice(group) for group in groups], int) for rng in each]  # of an empty gallery none


@dataclass(frozen=True)
class Verification:
    """Same or different, by a threshold. accuracy `(folds,)`; far and tar `(T,)`: the ROC, both rising."""

    accuracy: np.ndarray
    far: np.ndarray
    tar: np.ndarray

    @property
    def mean(self) -> float:
        """Accuracy, mean over the folds."""
        return float(self.accuracy.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean over folds."""
        return float(self.accuracy.std(ddof=1) / len(self.accuracy) ** 0.5)

    def tar_at(self, far: float) -> float:
        """The largest true accept rate whose false accept rate is at most `far`."""
        return float(self.tar[self.far <= far].max())


def verification(scores, same, folds: int = 10) -> Verification:
    """LFW's protocol: each fold's pairs are judged by the threshold that is best on all other folds.

    scores `(N,)`: similarity of each pair, large for the same person; same `(N,)`: the truth. Folds are consecutive, as
    in `pairs.txt`. Raises ValueError if lengths differ, a fold would be empty, or all pairs are of one kind.
    """
    scores, same = np.asarray(scores, float), np.asarray(same, bool)
    if scores.shape != same.shape or scores.ndim != 1:
        raise ValueError(f"{scores.shape} scores for {same.shape} pairs")
    if np.isnan(scores).any() or len(scores) < 2 * folds or folds < 2 or same.all() or not same.any():
        raise ValueError("verification needs numbers, two pairs a fold or more, and pairs of both kinds")
    fold = np.arange(len(scores)) * folds // len(scores)
    right = [
        np.mean((scores[fold == k] >= _best_threshold(scores[fold != k], same[fold != k])) == same[fold == k])
        for k in range(folds)
    ]
    values = np.unique(scores)[::-1]
    accepted = [
        np.concatenate([[0], np.searchsorted(np.sort(-scores[kind]), -values, "right")]) for kind in (~same, same)
    ]
    return Verification(np.array(right), accepted[0] / (~same).sum(), accepted[1] / same.sum())


def _best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The lowest score such that accepting it and all above judges the most pairs rightly."""
    values = np.unique(scores)
    below_different = np.searchsorted(np.sort(scores[~same]), values, "left")
    above_same = same.sum() - np.searchsorted(np.sort(scores[same]), values, "left")
    return float(values[np.argmax(below_different + above_same)])


def accepted(distances, query_ids, gallery_ids, far: float) -> np.ndarray:
    """TAR@FAR of a search, by query `(Q,)`: the share of its true matches nearer than all but `far` of the false pairs.

    One threshold for all queries. NaN for a query without a true match; without a false pair, of one identity alone,
    every match is accepted.
    """
    distances = np.asarray(distances)
    same = np.asarray(query_ids)[:, None] == np.asarray(gallery_ids)[None]
    threshold = _threshold(distances[~same], far)
    with np.errstate(invalid="ignore"):
        return ((distances < threshold) & same).sum(1) / np.where(same.any(1), same.sum(1), np.nan)


def _threshold(false: np.ndarray, far: float) -> float:
    """The distance of false pairs that no accepted pair may reach: a true match tied with it is out."""
    allowed = int(far * len(false) + 1e-9)
    return np.sort(false)[allowed] if allowed < len(false) else np.inf


def tar_interval(scores, same, far: float, folds: int = 10, draws: int = 500, seed: int = 0):
    """TAR at a false accept rate, with its 95 % interval: folds are resampled. -> (value, low, high).

    NaN without a pair of the same person; draws of folds that hold none are left out of the interval.
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
    """Mean of per-query values `(Q,)` with its 95 % interval: identities are resampled, with all their queries.

    For a paired difference give the difference of two methods' values. NaN values are left out. -> (mean, low, high).
    """
    values, identities = np.asarray(values, float), np.asarray(identities)
    kept = ~np.isnan(values)
    values, identities = values[kept], identities[kept]
    if len(values) == 0:
        return float("nan"), float("nan"), float("nan")
    _, group = np.unique(identities, return_inverse=True)
    total, count = np.bincount(group, values), np.bincount(group).astype(float)
    picks = np.random.default_rng(seed).integers(len(total), size=(draws, len(total)))
    means = total[picks].sum(1) / count[picks].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)
