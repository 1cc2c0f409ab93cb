"""Verification and TAR@FAR against naive loops and points worked out by hand."""

import numpy as np
import pytest

from ppcl.metrics import accepted, tar_interval, verification


def test_roc_by_hand():
    """Scores .9 + .8 - .7 + .6 - : after each threshold, (1/2, 0), (1/2, 1/2), (1, 1/2), (1, 1)."""
    found = verification([0.9, 0.8, 0.7, 0.6], [True, False, True, False], folds=2)
    np.testing.assert_allclose(found.far, [0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(found.tar, [0, 0.5, 0.5, 1, 1])
    assert found.tar_at(0) == 0.5 and found.tar_at(0.5) == 1 and found.tar_at(0.49) == 0.5


def test_perfect_scores_are_always_right():
    same = np.tile([True, False], 20)
    found = verification(same.astype(float), same)
    assert found.mean == 1 and found.tar_at(1e-3) == 1


def test_a_folds_own_labels_do_not_move_its_threshold():
    rng = np.random.default_rng(0)
    same = np.tile([True, False], 50)
    scores = rng.normal(same * 1.0, 1)
    changed = same.copy()
    changed[:10] = ~changed[:10]
    first, second = verification(scores, same).accuracy[0], verification(scores, changed).accuracy[0]
    assert first == pytest.approx(1 - second)


@pytest.mark.parametrize(
    "scores, same", [([1, 2], [True]), ([1.0] * 20, [True] * 20), ([np.nan] * 20, [True, False] * 10)]
)
def test_what_cannot_be_judged_is_refused(scores, same):
    with pytest.raises(ValueError):
        verification(scores, same)


def naive_tar(scores, same, far):
    """The most true pairs that any threshold accepts without accepting more than `far` of the false ones."""
    best = 0.0
    for threshold in scores:
        if np.mean(scores[~same] >= threshold) <= far:
            best = max(best, np.mean(scores[same] >= threshold))
    return best


@pytest.mark.parametrize("far", [0, 1e-3, 0.01, 0.1, 0.37, 1])
@pytest.mark.parametrize("seed", range(3))
def test_tar_is_the_naive_loop_and_stands_in_its_interval(seed, far):
    rng = np.random.default_rng(seed)
    same = np.arange(400) // 20 % 2 == 0
    scores = np.round(rng.normal(same * 2.0, 1), 1)
    value, low, high = tar_interval(scores, same, far)
    assert value == pytest.approx(naive_tar(scores, same, far)) == verification(scores, same).tar_at(far)
    assert low <= value <= high


def test_tar_interval_by_hand():
    """Two folds, (.9 .7 + / .8 .1 -) and (.6 .5 + / .4 .3 -): of both 1/4 lie above .8, of the first alone 1/2, of the
    second alone all."""
    scores, same = [0.9, 0.7, 0.8, 0.1, 0.6, 0.5, 0.4, 0.3], [True, True, False, False] * 2
    assert tar_interval(scores, same, 0, folds=2) == (0.25, 0.25, 1)
    assert tar_interval(scores, same, 0.25, folds=2)[0] == 1
    assert tar_interval(scores, same, 0.1, 2, seed=3) == tar_interval(scores, same, 0, 2, seed=3)


def test_accepted_by_hand():
    """Nine false pairs at .2 .4 .5 .6 .7 .8 .9 .95 1; the first person's match at .1, the second's at .3 and .6, the
    third's nowhere."""
    distances = [[0.1, 0.5, 0.9, 0.95], [0.2, 0.3, 0.8, 0.6], [0.4, 0.6, 0.7, 1.0]]

    def shares(far):
        found = accepted(distances, [1, 2, 9], [1, 2, 3, 2], far)
        assert np.isnan(found).tolist() == [False, False, True]
        return found[:2].tolist()

    assert shares(0) == shares(0.1) == [1, 0]  # nearer than .2
    assert shares(1 / 9) == shares(2 / 9) == [1, 0.5]  # nearer than .4, than .5
    assert shares(3 / 9) == [1, 0.5]  # nearer than .6: the match at .6 is tied with a false pair
    assert shares(4 / 9) == shares(1) == [1, 1]


def test_accepted_is_one_threshold_for_all_queries():
    """The second query ranks its match first, but at a distance at which the first accepts a stranger."""
    assert accepted([[0.1, 0.2], [0.9, 0.3]], [1, 2], [1, 2], 0).tolist() == [1, 0]


@pytest.mark.parametrize("far", [0, 0.05, 0.3, 1])
def test_accepted_is_the_naive_loop(far):
    rng = np.random.default_rng(0)
    query, gallery = rng.integers(6, size=12), rng.integers(5, size=20)
    distances = rng.integers(9, size=(12, 20)) / 10
    same = query[:, None] == gallery[None]
    allowed = [t for t in {*distances.ravel().tolist(), -1.0} if np.mean(distances[~same] <= t) <= far]
    near = distances <= max(allowed)
    expected = [np.mean(row[own]) if own.any() else np.nan for row, own in zip(near, same, strict=True)]
    np.testing.assert_allclose(accepted(distances, query, gallery, far), expected)
    assert np.isnan(expected).any()


def test_folds_of_one_kind_are_no_number_or_left_out():
    """Without a pair of the same person NaN; a draw of folds that hold none says nothing about the interval."""
    assert np.isnan(tar_interval([0.1, 0.2], [False, False], 1e-3, 2)).all()
    assert np.isnan(tar_interval([], [], 1e-3, 2)).all()
    assert tar_interval([0.1, 0.2], [True, True], 1e-3, 2) == (1, 1, 1)  # nothing false that a threshold must keep out
    assert tar_interval([0.9, 0.8, 0.2, 0.1], [True, True, False, False], 1e-3, 2) == (1, 1, 1)
