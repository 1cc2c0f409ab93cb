import tracemalloc

import numpy as np
import pytest

from ppcl import metrics


def random_case(seed, people=6, queries=15, gallery=30):
    """Integer distances, so that ties abound; the last identity of the queries is not in the gallery."""
    rng = np.random.default_rng(seed)
    query_ids, gallery_ids = rng.integers(people + 1, size=queries), rng.integers(people, size=gallery)
    cameras = rng.integers(3, size=queries), rng.integers(3, size=gallery)
    return rng.integers(8, size=(queries, gallery)), query_ids, gallery_ids, *cameras


def test_ranks_and_average_precision_by_hand():
    distances = [
        [0.1, 0.2, 0.3, 0.4],  # right, wrong, right, wrong: (1/1 + 2/3) / 2
        [0.4, 0.1, 0.3, 0.2],  # id 2 at places 1 and 2 of 1..4: (1/1 + 2/2) / 2
        [0.3, 0.1, 0.4, 0.2],  # id 1 at places 3 and 4: (1/3 + 2/4) / 2
    ]
    found = metrics.cmc_map(distances, [1, 2, 1], [1, 2, 1, 2])
    assert found.first.tolist() == [0, 0, 2]
    assert found.average_precision == pytest.approx([5 / 6, 1, 5 / 12])
    assert found.mAP == pytest.approx((5 / 6 + 1 + 5 / 12) / 3)
    assert found.cmc(4) == pytest.approx([2 / 3, 2 / 3, 1, 1])
    assert found.rank(3) == 1 and found.hits(1).tolist() == [1, 1, 0]


def test_ties_count_against_the_query():
    """Right and wrong at the same distance: the wrong one stands first, wherever it lies in the gallery."""
    for ids in ([1, 2], [2, 1]):
        found = metrics.cmc_map([[0.5, 0.5]], [1], ids)
        assert found.first.tolist() == [1]
        assert found.mAP == pytest.approx(1 / 2)
    all_equal = metrics.cmc_map(np.zeros((1, 4)), [1], [1, 2, 1, 2])
    assert all_equal.mAP == pytest.approx((1 / 3 + 2 / 4) / 2)


def sorted_oracle(distances, query_ids, gallery_ids, query_cameras, gallery_cameras):
    """First hit and average precision of each query: one stable float64 sort a row, wrong before right in a tie."""
    first, precision = [], []
    for i, row in enumerate(distances.astype(np.float64)):
        right = gallery_ids == query_ids[i]
        kept = ~(right & (gallery_cameras == query_cameras[i]))
        order = np.lexsort((right[kept], row[kept]))
        places = np.flatnonzero(right[kept][order])
        first.append(places[0] if len(places) else -1)
        precision.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)) if len(places) else np.nan)
    return np.array(first), np.array(precision)


@pytest.fixture(scope="module")
def many():
    """Float32 distances of 300 queries to 3,000 pictures of 40 people and of strangers, rounded so that many tie."""
    rng = np.random.default_rng(0)
    query_ids, gallery_ids = rng.integers(1, 41, 300), rng.integers(41, size=3000)
    near = query_ids[:, None] == gallery_ids
    distances = (rng.random((300, 3000)) - 0.4 * near).astype(np.float16).astype(np.float32)
    return distances, query_ids, gallery_ids, rng.integers(6, size=300), rng.integers(6, size=3000)


def test_many_pictures_agree_with_a_stable_sort(many):
    first, precision = sorted_oracle(*many)
    found = metrics.cmc_map(*many)
    assert np.array_equal(found.first, first)
    np.testing.assert_allclose(found.average_precision, precision, atol=1e-12)
    everyone = sorted_oracle(*many[:3], np.zeros(300), np.ones(3000))  # nobody is in the same camera
    np.testing.assert_allclose(metrics.cmc_map(*many[:3]).average_precision, everyone[1], atol=1e-12)


def test_the_matrix_is_neither_copied_nor_changed(many):
    before = many[0].copy()
    tracemalloc.start()
    metrics.cmc_map(*many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < many[0].nbytes / 10
    assert np.array_equal(many[0], before)


def test_same_person_in_same_camera_is_neither_right_nor_wrong():
    """Gallery by distance: same camera (left out), another person, the same person elsewhere: second of two."""
    distances, ids, cameras = [[0.1, 0.2, 0.3]], [1, 2, 1], [7, 7, 8]
    excluded = metrics.cmc_map(distances, [1], ids, [7], cameras)
    assert excluded.first.tolist() == [1] and excluded.mAP == pytest.approx(1 / 2)
    assert metrics.cmc_map(distances, [1], ids).first.tolist() == [0]
    assert metrics.same_camera([1], ids, [7], cameras).tolist() == [[True, False, False]]


def test_query_without_a_valid_match_is_counted_and_left_out_of_the_means():
    """The second identity is not there; the third's only picture is from the query's own camera."""
    distances = [[0.1, 0.2], [0.1, 0.2], [0.2, 0.1]]
    found = metrics.cmc_map(distances, [1, 9, 2], [1, 2], [0, 0, 5], [1, 5])
    assert found.unmatched == 2 and found.matched.tolist() == [True, False, False]
    assert found.first.tolist() == [0, -1, -1]
    assert found.rank(1) == 1 and found.mAP == 1
    assert np.isnan(found.hits(1)).tolist() == [False, True, True]


def test_single_query():
    found = metrics.cmc_map([[0.2, 0.1]], [3], [3, 4])
    assert found.rank(1) == 0 and found.rank(2) == 1 and found.mAP == pytest.approx(1 / 2)


def test_no_match_at_all_is_nan_not_zero():
    found = metrics.cmc_map([[0.1, 0.2]], [1], [2, 3])
    assert np.isnan([found.mAP, found.rank(1), *found.cmc(3)]).all()
    assert found.unmatched == 1


def test_distances_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="1 distances are NaN"):
        metrics.cmc_map([[0.1, np.nan]], [1], [1, 2])
    with pytest.raises(ValueError, match="3 distances are NaN"):
        metrics.cmc_map(np.array([[0.1, np.nan], [np.nan, np.nan]], np.float32), [1, 2], [1, 2])


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2,), (3, 2)])
def test_shapes_that_do_not_agree_are_refused(shape):
    with pytest.raises(ValueError, match="2 queries and 2 gallery"):
        metrics.cmc_map(np.zeros(shape), [1, 2], [1, 2])


def test_cameras_of_one_side_alone_are_refused():
    with pytest.raises(ValueError, match="cameras"):
        metrics.cmc_map([[0.1]], [1], [1], query_cameras=[0])


@pytest.mark.parametrize("cameras", [([0], [0, 1]), ([0, 1, 2], [0, 1]), ([0, 1], [0]), ([0, 1], [0, 1, 2])])
def test_cameras_of_others_are_refused(cameras):
    with pytest.raises(ValueError, match="cameras"):
        metrics.cmc_map(np.zeros((2, 2)), [1, 2], [1, 2], *cameras)


# --- single-shot ---


def single_shot(distances, query_ids, gallery_ids, **how):
    """A ranking for each gallery of the protocol."""
    distances, gallery_ids = np.asarray(distances), np.asarray(gallery_ids)
    every = metrics.single_shot_columns(gallery_ids, **how)
    return [metrics.cmc_map(distances[:, columns], query_ids, gallery_ids[columns]) for columns in every]


def test_single_shot_takes_one_picture_an_identity():
    """A query's own identity has pictures at distances 0 and 9, two others stand at 1 and 2."""
    distances = np.array([[0, 9, 1, 2]])
    found = single_shot(distances, [1], np.array([1, 1, 2, 3]), draws=40)
    places = [ranking.first[0] for ranking in found]
    assert len(found) == 40
    assert set(places) == {0, 2}
    assert 8 < places.count(0) < 32
    assert all(r.average_precision[0] == pytest.approx(1 / (r.first[0] + 1)) for r in found)


def test_single_shot_is_the_all_shot_where_everyone_has_one_picture():
    rng = np.random.default_rng(0)
    distances, ids = rng.random((5, 5)), np.array([4, 2, 0, 1, 3])
    whole = metrics.cmc_map(distances, np.arange(5), ids)
    for ranking in single_shot(distances, np.arange(5), ids, draws=3):
        assert np.array_equal(ranking.first, whole.first)


def test_single_shot_draws_depend_on_the_seed_alone():
    distances, query_ids, gallery_ids, *_ = random_case(3)
    distances = distances + np.random.default_rng(0).random(distances.shape)

    def precisions(**how):
        np.random.rand()  # the global generator is neither read nor needed
        return [r.mAP for r in single_shot(distances, query_ids, gallery_ids, **how)]

    assert precisions() == precisions()
    assert precisions(draws=4) == precisions()[:4]
    assert precisions(seed=1) != precisions()
    assert len(set(precisions())) > 5  # each draw its own pictures


# --- bootstrap ---


def test_bootstrap_interval_holds_the_mean_and_narrows_with_people():
    rng = np.random.default_rng(0)
    widths = []
    for people in (20, 500):
        values = rng.random(people)
        mean, low, high = metrics.bootstrap(values, np.arange(people))
        assert mean == pytest.approx(values.mean())
        assert low < mean < high
        widths.append(high - low)
    assert widths[1] == pytest.approx(2 * 1.96 * np.sqrt(1 / 12 / 500), rel=0.15)  # of uniform values
    assert widths[1] < widths[0] / 3


def test_bootstrap_of_a_constant_is_exact():
    assert metrics.bootstrap([0.25] * 10, np.arange(10) // 2) == (0.25, 0.25, 0.25)


def test_bootstrap_resamples_identities_not_queries():
    """Ten people, all 50 queries of one alike: there are ten independent facts, not 500."""
    people = np.repeat(np.arange(10), 50)
    values = (people < 5).astype(float)
    _, low, high = metrics.bootstrap(values, people)
    _, low_once, high_once = metrics.bootstrap([1.0] * 5 + [0.0] * 5, np.arange(10))
    assert (low, high) == (low_once, high_once)
    _, low_apart, high_apart = metrics.bootstrap(values, np.arange(500))
    assert high - low > 4 * (high_apart - low_apart)


def test_bootstrap_weighs_a_person_by_their_queries():
    """One person with nine failures, one with a success: the mean is 1/10 and a draw of either alone is 0 or 1."""
    mean, low, high = metrics.bootstrap([0.0] * 9 + [1.0], [1] * 9 + [2])
    assert (mean, low, high) == (pytest.approx(0.1), 0, 1)


def test_bootstrap_leaves_nan_out():
    values, people = [1.0, np.nan, 0.0, 1.0], [1, 1, 2, 3]
    assert metrics.bootstrap(values, people) == metrics.bootstrap([1.0, 0.0, 1.0], [1, 2, 3])
    assert np.isnan(metrics.bootstrap([np.nan, np.nan], [1, 2])).all()


def test_bootstrap_is_seeded():
    values, people = np.random.default_rng(0).random(30), np.arange(30)
    assert metrics.bootstrap(values, people) == metrics.bootstrap(values, people)
    assert metrics.bootstrap(values, people, seed=1) != metrics.bootstrap(values, people)


# --- nothing to divide by ---


@pytest.mark.parametrize("queries, gallery", [(0, 3), (2, 0), (0, 0)])
def test_no_query_and_no_gallery_are_no_number(queries, gallery):
    distances, asked, there = np.zeros((queries, gallery)), np.arange(queries), np.arange(gallery)
    for found in (metrics.cmc_map(distances, asked, there), *single_shot(distances, asked, there, draws=2)):
        assert np.isnan([found.mAP, found.rank(1), *found.cmc(3)]).all()
        assert found.unmatched == len(found.hits(1)) == queries
    assert np.isnan(metrics.accepted(distances, asked, there, 1e-3)).tolist() == [True] * queries
    assert np.isnan(metrics.bootstrap([], [])).all()


def test_one_identity_is_always_found():
    """One query of the only person: rank-1 and mAP are 1, and no false pair is there for a threshold to keep out."""
    found = metrics.cmc_map([[0.3, 0.1]], [7], [7, 7])
    assert found.rank(1) == found.mAP == 1 and found.unmatched == 0
    assert metrics.accepted([[0.3, 0.1]], [7], [7, 7], 1e-3).tolist() == [1]
    assert metrics.bootstrap([0.5], [7]) == (0.5, 0.5, 0.5)
    assert [one.rank(1) for one in single_shot([[0.3, 0.1]], [7], [7, 7], draws=3)] == [1, 1, 1]


def test_numbers_and_text_are_never_compared():
    distances = [[0.1, 0.5], [0.4, 0.2]]
    for given in (([2, 9], ["2", "9"]), ([2, 9], [2, 9], ["1", "1"], [1, 2])):
        with pytest.raises(ValueError, match="never match"):
            metrics.cmc_map(distances, *given)
    assert metrics.cmc_map(distances, ["a", "b"], ["a", "b"]).mAP == 1
