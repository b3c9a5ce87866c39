"""Tracking: numbers stay with their objects when those move, cross, hide, and leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from centernet.structures import InputError
from centernet.tracking import Tracker


def frame(*rows: tuple[float, float, float, int], side: float = 20) -> dict[str, torch.Tensor]:
    """Detections: left, top, score, label."""
    boxes = torch.tensor([[x, y, x + side, y + side] for x, y, _, _ in rows]).reshape(-1, 4)
    return {
        "boxes": boxes,
        "scores": torch.tensor([row[2] for row in rows]),
        "labels": torch.tensor([row[3] for row in rows]),
    }


def follow(tracker: Tracker, frames) -> list[list[int]]:
    return [tracker.update(frame(*rows)).tolist() for rows in frames]


def test_objects_keep_their_numbers_whatever_their_order():
    frames = [
        [(0, 0, 0.9, 0), (100, 0, 0.8, 0)],
        [(104, 0, 0.9, 0), (4, 0, 0.8, 0)],
        [(8, 0, 0.9, 0), (108, 0, 0.8, 0)],
    ]
    assert follow(Tracker(), frames) == [[1, 2], [2, 1], [1, 2]]


def test_objects_that_cross_keep_their_direction():
    frames = [[(10.0 * n, 0, 0.9, 0), (100 - 10.0 * n, 8, 0.9, 0)] for n in range(11)]
    assert follow(Tracker(), frames) == [[1, 2]] * 11


def test_a_fast_object_is_where_its_motion_takes_it():
    frames = [[(0, 0, 0.9, 0)], [(14, 0, 0.9, 0)], [(40, 0, 0.9, 0)], [(68, 0, 0.9, 0)]]
    assert follow(Tracker(), frames) == [[1]] * 4
    assert follow(Tracker(reach=0.3), frames)[1] == [2]


def test_a_hidden_object_comes_back_with_its_number_if_it_is_not_away_for_long():
    hidden = [[(4.0 * n, 0, 0.9, 0)] for n in range(4)] + [[]] * 3 + [[(28, 0, 0.9, 0)]]
    assert follow(Tracker(patience=4), hidden)[-1] == [1]
    assert follow(Tracker(patience=2), hidden)[-1] == [2]


def test_an_unsure_detection_continues_a_track_but_begins_none():
    frames = [[(0, 0, 0.9, 0)], [(2, 0, 0.3, 0), (200, 0, 0.3, 0)], [(4, 0, 0.9, 0)], [(6, 0, 0.05, 0)]]
    assert follow(Tracker(), frames) == [[1], [1, 0], [1], [0]]


def test_an_unsure_detection_continues_only_what_it_overlaps_and_was_seen_just_before():
    assert follow(Tracker(), [[(0, 0, 0.9, 0)], [(14, 0, 0.3, 0)]]) == [[1], [0]]
    assert follow(Tracker(), [[(0, 0, 0.9, 0)], [], [(0, 0, 0.3, 0)]]) == [[1], [], [0]]
    assert follow(Tracker(), [[(0, 0, 0.9, 0)], [], [(0, 0, 0.9, 0)]]) == [[1], [], [1]]


def test_a_track_of_unsure_detections_alone_ends():
    frames = [[(0, 0, 0.9, 0)]] + [[(0, 0, 0.3, 0)]] * 4
    assert follow(Tracker(patience=2), frames) == [[1], [1], [1], [1], [0]]


def test_no_track_begins_on_top_of_a_surer_detection():
    assert follow(Tracker(), [[(1, 0, 0.6, 1), (0, 0, 0.9, 0), (40, 0, 0.6, 1)]]) == [[0, 1, 2]]


def test_a_sure_detection_comes_before_an_unsure_one_that_fits_better():
    frames = [[(0, 0, 0.9, 0)], [(0, 0, 0.3, 0), (4, 0, 0.9, 0)]]
    assert follow(Tracker(), frames) == [[1], [0, 1]]


def test_an_object_of_another_class_is_another_object():
    assert follow(Tracker(), [[(0, 0, 0.9, 0)], [(0, 0, 0.9, 1)], [(0, 0, 0.9, 0)]]) == [[1], [2], [1]]


def test_pairs_are_chosen_together_not_one_after_the_other():
    # The first detection is nearest to the second track, which is the only one that the other detection can continue.
    frames = [[(0, 0, 0.9, 0), (12, 0, 0.9, 0)], [(8, 0, 0.9, 0), (24, 0, 0.9, 0)]]
    assert follow(Tracker(), frames) == [[1, 2], [1, 2]]


def test_two_trackers_count_for_themselves_and_an_empty_video_has_no_tracks():
    first, second = Tracker(), Tracker()
    assert follow(first, [[(0, 0, 0.9, 0)]]) == follow(second, [[(0, 0, 0.9, 0)]]) == [[1]]
    assert follow(Tracker(), [[], []]) == [[], []]
    assert Tracker().update({"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0)}).shape == (0,)


@pytest.mark.parametrize(
    "options", [{"sure": 0.1, "unsure": 0.2}, {"sure": 1.5}, {"unsure": -0.1}, {"patience": -1}, {"reach": 0}]
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(InputError, match="tracking: "):
        Tracker(**options)
