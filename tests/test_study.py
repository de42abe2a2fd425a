"""The study: intervals, verdicts, budgets.    python -m pytest -q tests/test_study.py"""

import pytest

import study


def test_intervals_and_verdicts():
    """Bug: a normal's 1.96 for five seeds, a population's deviation, a sign turned around."""
    mean, half = study.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0 and abs(half - 1.9632) < 1e-3  # t(4) = 2.7764, deviation 1.5811
    assert study.verdict([0.1, 0.2, 0.15], 1) == "reproduced"
    assert study.verdict([0.1, 0.2, 0.15], -1) == "opposite"
    assert study.verdict([-0.1, 0.2, 0.15], 1).startswith("not reproduced")
    assert study.verdict([0.5], 1).startswith("not reproduced")  # one seed shows nothing


def test_equal_budgets_are_read_between_evaluations():
    """Bug: a budget compared with updates, or with what the run had spent before the update."""
    run = {"curve": [{"step": 0, "avg_at_k": 0.2, "tokens": 0, "seconds": 0.0},
                     {"step": 2, "avg_at_k": 0.6, "tokens": 40, "seconds": 2.0}]}  # fmt: skip
    assert study.at_budget(run, "tokens", 20) == pytest.approx(0.4)
    assert study.at_budget(run, "seconds", 1.5) == pytest.approx(0.5)
    assert study.at(run, 2, "tokens") == 40
