"""Verification against a naive loop and points worked out by hand."""

import numpy as np
import pytest

from ppcl.metrics import verification


def naive(scores, same, folds):
    """Each fold's accuracy, trying every score of the other folds as the threshold."""
    fold = np.arange(len(scores)) * folds // len(scores)
    found = []
    for k in range(folds):
        best, chosen = -1.0, None
        for threshold in sorted(set(scores[fold != k])):
            accuracy = np.mean((scores[fold != k] >= threshold) == same[fold != k])
            if accuracy > best:
                best, chosen = accuracy, threshold
        found.append(np.mean((scores[fold == k] >= chosen) == same[fold == k]))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_ten_folds_are_the_naive_loop(seed):
    rng = np.random.default_rng(seed)
    same = rng.random(200) < 0.5
    scores = np.round(rng.normal(same * 1.0, 1), 1)  # rounded: many ties
    np.testing.assert_allclose(verification(scores, same).accuracy, naive(scores, same, 10))


def test_roc_by_hand():
    """Scores .9 + .8 - .7 + .6 - : after each threshold, (1/2, 0), (1/2, 1/2), (1, 1/2), (1, 1)."""
    found = verification([0.9, 0.8, 0.7, 0.6], [True, False, True, False], folds=2)
    np.testing.assert_allclose(found.far, [0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(found.tar, [0, 0.5, 0.5, 1, 1])
    assert found.tar_at(0) == 0.5 and found.tar_at(0.5) == 1 and found.tar_at(0.49) == 0.5


def test_perfect_scores_are_always_right():
    same = np.tile([True, False], 20)
    found = verification(same.astype(float), same)
    assert found.mean == 1 and found.standard_error == 0 and found.tar_at(1e-3) == 1


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
