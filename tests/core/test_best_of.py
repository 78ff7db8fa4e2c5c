"""Which picture is the best, and how its scores are shown."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from lumina_core.errors import InputError
from lumina_core.pictures.best_of import Verifier, flat_scores, places, rank_pictures


def test_places_run_from_0_to_1_and_equals_share_theirs() -> None:
    assert places([3.0, -1.0, 100.0]) == [0.5, 0.0, 1.0]
    assert places([0, 1, 0, 1, 1]) == [0.125, 0.75, 0.125, 0.75, 0.75]
    assert places([2.0, 2.0]) == [0.5, 0.5] and places([-7.0]) == [1.0]


def test_one_verifier_is_followed_exactly() -> None:
    scores = [random.Random(seed).gauss(0, 10) for seed in range(9)]
    for weight in (0.01, 1.0, 7.0):
        order = rank_pictures([Verifier("a", tuple(scores), weight)], 9).order
        assert [scores[index] for index in order] == sorted(scores, reverse=True)
    order = rank_pictures([Verifier("a", tuple(scores), -2.0)], 9).order
    assert [scores[index] for index in order] == sorted(scores)


def test_weights_decide_between_verifiers() -> None:
    first, second = (1.0, 2.0, 3.0), (3.0, 2.0, 1.0)
    for weights, best in (((2.0, 1.0), 2), ((1.0, 2.0), 0), ((1.0, -0.5), 2), ((0.0, 1.0), 0)):
        verifiers = [Verifier("a", first, weights[0]), Verifier("b", second, weights[1])]
        assert rank_pictures(verifiers, 3).order[0] == best, weights


def test_neither_scale_nor_one_far_out_score_outweighs_the_others() -> None:
    agreeing = [Verifier("a", (0.1, 0.3, 0.2, 0.0)), Verifier("b", (0.4, 0.9, 0.5, 0.1))]
    for far_out in ((1.0, 0.0, 1e30, 0.5), (1e-30, 0.0, 2e-30, 0.0)):
        assert rank_pictures([*agreeing, Verifier("c", far_out)], 4).order[0] in (1, 2)
        assert rank_pictures([*agreeing, Verifier("c", far_out, 0.5)], 4).order[0] == 1


def test_combined_scores_are_a_weighted_mean_and_ties_go_to_the_earlier() -> None:
    ranking = rank_pictures([Verifier("a", (1.0, 2.0, 3.0), 3.0), Verifier("b", (3.0, 2.0, 1.0), 1.0)], 3)
    assert ranking.combined == (0.25, 0.5, 0.75) and ranking.order == (2, 1, 0)
    assert rank_pictures([Verifier("a", (5.0,) * 4)], 4).order == (0, 1, 2, 3)


def test_table_and_caption_show_every_score() -> None:
    ranking = rank_pictures([Verifier("likelihood", (-2.5, -2.25)), Verifier("scores_1", (0.125, 1e6), 0.0)], 2)
    header, best, worst = ranking.table().splitlines()
    assert "likelihood (weight 1)" in header and "scores_1 (weight 0)" in header
    assert best.split() == ["1", "1", "1.000", "-2.25", "1e+06"] and worst.split()[:2] == ["2", "0"]
    assert len({len(line) for line in (header, best, worst)}) == 1
    assert ranking.caption(0) == "#0  score 0.000\nlikelihood -2.5\nscores_1 0.125"


def test_scores_come_in_any_wrapping() -> None:
    wrapped = [[0.5, 1], torch.tensor([2.0, 3.0]), np.array([[4.0]]), (True,), torch.tensor(6.0)]
    assert flat_scores("a", wrapped) == (0.5, 1, 2, 3, 4, 1, 6)
    assert flat_scores("a", 2) == (2.0,) and flat_scores("a", []) == ()
    for bad in ("0.5", ["0.5"], None, {"a": 1}):
        with pytest.raises(InputError, match="a holds"):
            flat_scores("a", bad)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused_whatever_its_weight(value: float) -> None:
    with pytest.raises(InputError, match=f"scores_1 holds {value} for picture 1"):
        rank_pictures([Verifier("likelihood", (1.0, 2.0)), Verifier("scores_1", (1.0, value), 0.0)], 2)


def test_another_number_of_scores_than_pictures_is_refused() -> None:
    with pytest.raises(InputError, match="scores_2 holds 3 scores; expected 4"):
        rank_pictures([Verifier("scores_2", (1.0, 2.0, 3.0))], 4)


def test_nothing_to_choose_by_is_refused() -> None:
    for verifiers in ([], [Verifier("likelihood", (1.0, 2.0), 0.0)]):
        with pytest.raises(InputError, match="no score to choose by"):
            rank_pictures(verifiers, 2)
