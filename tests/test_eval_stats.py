"""The statistics of an evaluation: known answers, and intervals that hold what they promise."""

import math

import numpy as np
import pytest

from metaaligner_lite.evaluation.stats import at_equal_length, difference, holm, kappa, share, sign_flip, t_quantile


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1000, 1.962)]
)
def test_quantiles_as_tables_have_them(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=0.004)


def test_shares():
    found = share([(f"q{i}", float(i < 30)) for i in range(100)])
    assert (found.value, found.n, found.queries) == (0.3, 100, 100)
    assert (found.low, found.high) == pytest.approx((0.218, 0.397), abs=0.01)  # Wilson's
    assert found.p is None
    assert share([]) is None
    alone = share([("q", 1.0), ("q", 0.0)])
    assert (alone.value, alone.low, alone.high, alone.n, alone.queries) == (0.5, None, None, 2, 1)


def test_a_share_of_all_or_none_is_not_certain():
    none, every = (share([(f"q{i}", value) for i in range(20)]) for value in (0.0, 1.0))
    assert (none.value, none.low) == (0.0, 0.0)
    assert 0.1 < none.high < 0.25
    assert every.low == pytest.approx(1 - none.high)
    still = difference([(f"q{i}", 0.0) for i in range(20)])
    assert still.value == 0
    assert still.low == -still.high < -0.05
    assert still.p == 1


def test_answers_to_one_query_count_once():
    """Ten copies of each answer tell no more than one."""
    one = difference([(f"q{i}", float(i % 3 - 1 or 1)) for i in range(30)])
    ten = difference([(f"q{i}", float(i % 3 - 1 or 1)) for i in range(30) for _ in range(10)])
    assert (one.low, one.high, one.p) == pytest.approx((ten.low, ten.high, ten.p))
    assert (ten.n, ten.queries) == (300, 30)


def test_p_values_as_counted_by_hand():
    assert sign_flip([(f"q{i}", 1.0) for i in range(5)]) == 2 / 32
    assert sign_flip([("a", 1.0), ("b", 1.0), ("c", -1.0)]) == 1.0
    assert sign_flip([("a", 0.0), ("b", 0.0)]) == 1.0
    assert sign_flip([]) == 1.0
    # 40 queries, 29 for and 11 against: the sign test's two-sided p is 0.0064
    many = [(f"q{i}", 1.0 if i < 29 else -1.0) for i in range(40)]
    assert sign_flip(many) == pytest.approx(0.0064, abs=0.003)
    assert sign_flip(many) == sign_flip(many)
    assert sign_flip([(f"q{i}", 1.0) for i in range(100)]) == 0.0001


def test_holm_as_in_a_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_kappa():
    assert kappa([("1", "1")] * 20 + [("2", "2")] * 20) == 1
    assert kappa([("1", "1"), ("1", "2"), ("2", "1"), ("2", "2")]) == 0
    assert kappa([("1", "2")] * 5 + [("2", "1")] * 5) == -1
    # 20 yes-yes, 5 and 10 apart, 15 no-no: 0.4
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert kappa(pairs) == pytest.approx(0.4)
    assert kappa([("1", "1")] * 5) is None
    assert kappa([]) is None


def test_a_rate_that_length_explains():
    """Who wins by being longer alone does not win at equal length; who wins whatever the length still does."""
    rng = np.random.default_rng(1)
    lengths = rng.normal(30, 60, 400)
    by_length = [(f"q{i}", float(x > rng.logistic(0, 10)), x) for i, x in enumerate(lengths)]
    better = [(f"q{i}", float(rng.random() < 0.8), x) for i, x in enumerate(lengths)]
    assert np.mean([score for _, score, _ in by_length]) > 0.65
    longer, good = at_equal_length(by_length), at_equal_length(better)
    assert longer.low < 0.5 < longer.high
    assert good.value == pytest.approx(0.8, abs=0.06)
    assert good.low > 0.7
    certain = at_equal_length([(f"q{i}", float(i > 5), float(i - 5)) for i in range(30)])
    assert 0 < certain.value < 1
    assert math.isfinite(certain.low)
    assert at_equal_length([(f"q{i}", 1.0, 3.0) for i in range(9)]) is None
    assert at_equal_length([(f"q{i}", i % 2, 0.0) for i in range(30)]) is None
    assert at_equal_length([(f"q{i}", 0.5, float(i)) for i in range(30)]) is None
    # Nearly all are shorter: nothing tells what would be at equal length.
    assert at_equal_length([(f"q{i}", i % 3 > 0, -50.0 + i % 5) for i in range(200)]) is None
    assert at_equal_length([(f"q{i}", i % 3 > 0, -50.0 + i % 5 + 60 * (i < 5)) for i in range(200)]) is None
    assert at_equal_length([(f"q{i}", i % 3 > 0, -50.0 + i % 5 + 60 * (i < 20)) for i in range(200)]) is not None


def runs(draw, count=1000):
    """How many of `count` intervals hold the true value, `draw` giving (an interval, the value)."""
    held = 0
    for run in range(count):
        found, true = draw(np.random.default_rng(run))
        held += found.low <= true <= found.high
    return held / count


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "rate"), [(40, 0.5), (100, 0.3), (200, 0.1)])
def test_intervals_of_shares_hold_what_they_promise(queries, rate):
    """1 to 4 answers to a query, which win together or not at all half of the time."""

    def draw(rng):
        values = []
        for i in range(queries):
            together = rng.random() < rate
            for _ in range(rng.integers(1, 5)):
                values.append((f"q{i}", float(together if rng.random() < 0.5 else rng.random() < rate)))
        return share(values), rate

    assert 0.93 <= runs(draw) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "win", "lose"), [(40, 0.4, 0.3), (100, 0.5, 0.1), (200, 0.1, 0.1)])
def test_intervals_of_differences_hold_what_they_promise(queries, win, lose):
    def draw(rng):
        values = []
        for i in range(queries):
            shared = rng.random()
            for _ in range(rng.integers(1, 5)):
                x = shared if rng.random() < 0.5 else rng.random()
                values.append((f"q{i}", 1.0 if x < win else -1.0 if x < win + lose else 0.0))
        return difference(values), win - lose

    assert 0.93 <= runs(draw) <= 0.97


@pytest.mark.slow
def test_p_values_of_no_difference_are_below_a_twentieth_once_in_twenty():
    found = [
        sign_flip([(f"q{i // 2}", x) for i, x in enumerate(np.random.default_rng(run).choice([-1.0, 0.0, 1.0], 80))])
        for run in range(1000)
    ]
    assert 0.03 <= np.mean(np.array(found) <= 0.05) <= 0.07
