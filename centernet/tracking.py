"""Tracking by detection: the same object keeps its number from frame to frame.

Two rounds of association as in ByteTrack (Zhang et al., 2022, arXiv:2110.06864, Sec. 3): confident detections first,
then, for tracks that are left, uncertain ones, which are often the same objects half hidden. Pairs are chosen together
(``scipy.optimize.linear_sum_assignment``), by the overlap and distance of a detection and a track's predicted box.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from centernet.errors import InputError
from centernet.ops.boxes import pairwise_iou

NEVER = 1e6  # the cost of a pair that is not possible
SMOOTHING = 0.5  # how much of the newest motion enters a track's velocity
FITS = 0.5  # overlap that an unsure detection needs with a track's predicted box
ON_TOP = 0.7  # overlap from which a detection is taken for the same object as a surer one of its frame


@dataclass
class Track:
    """An object over time: its number, class, newest box (x1, y1, x2, y2 in image pixels), motion per frame, and the
    numbers of the frames in which it was last seen, and last seen surely."""

    number: int
    label: int
    box: np.ndarray
    velocity: np.ndarray
    seen: int
    sure: int

    def predicted(self, frame: int) -> np.ndarray:
        """Where the box should be in a frame."""
        return self.box + self.velocity * (frame - self.seen)


class Tracker:
    """Numbers the detections of successive frames; ``update`` once per frame.

    ``sure``: score from which a detection is matched first, and may begin a track, unless it lies on a surer one;
    ``unsure``: score from which one may continue a track of the frame before that has no sure detection and that it
    overlaps; ``patience``: frames for which a track without a sure detection is kept; ``reach``: how far the middle of
    a sure detection may be from the predicted one, in widths and heights of the box. Tracks never change their class.
    Raises ``InputError`` for options out of range.
    """

    def __init__(self, sure: float = 0.5, unsure: float = 0.25, patience: int = 30, reach: float = 0.75) -> None:
        if not 0 <= unsure <= sure <= 1:
            raise InputError(f"tracking: unsure={unsure} and sure={sure} must be 0 <= unsure <= sure <= 1")
        if patience < 0 or reach <= 0:
            raise InputError(f"tracking: patience={patience} must be at least 0, reach={reach} above 0")
        self.sure, self.unsure, self.patience, self.reach = sure, unsure, patience, reach
        self.tracks: list[Track] = []
        self._frame, self._next = -1, 1

    def update(self, found: Mapping[str, Any]) -> np.ndarray:
        """The number of each detection of the next frame, int64 ``[N]``; 0 for one that belongs to no track.

        ``found``: ``boxes [N, 4]`` in image pixels, ``scores [N]``, ``labels [N]``, as tensors or arrays.
        """
        self._frame += 1
        boxes, scores, labels = (np.asarray(found[name], float) for name in ("boxes", "scores", "labels"))
        boxes = boxes.reshape(-1, 4)
        numbers = np.zeros(len(scores), np.int64)
        sure, unsure = scores >= self.sure, (scores < self.sure) & (scores >= self.unsure)
        for row, track in self._pairs(boxes, labels, np.flatnonzero(sure), self.tracks):
            self._follow(track, boxes[row])
            track.sure, numbers[row] = self._frame, track.number
        left = [track for track in self.tracks if track.seen == self._frame - 1]
        for row, track in self._pairs(boxes, labels, np.flatnonzero(unsure), left, least=FITS):
            self._follow(track, boxes[row])
            numbers[row] = track.number
        for row in np.flatnonzero(sure & (numbers == 0))[np.argsort(-scores[sure & (numbers == 0)], kind="stable")]:
            if _overlaps(boxes[row : row + 1], boxes[numbers > 0]).max(initial=0) >= ON_TOP:
                continue
            track = Track(self._next, int(labels[row]), boxes[row], np.zeros(4), self._frame, self._frame)
            self._next += 1
            self.tracks.append(track)
            numbers[row] = track.number
        self.tracks = [track for track in self.tracks if self._frame - track.sure <= self.patience]
        return numbers

    def _pairs(
        self, boxes: np.ndarray, labels: np.ndarray, rows: np.ndarray, tracks: list[Track], least: float = 0.0
    ) -> list[tuple[int, Track]]:
        """Detections and the tracks that they continue, overlapping them by ``least``, which together cost least."""
        if not len(rows) or not tracks:
            return []
        theirs = np.stack([track.predicted(self._frame) for track in tracks])
        overlap = _overlaps(boxes[rows], theirs)
        middle, theirs_middle = ((each[:, :2] + each[:, 2:]) / 2 for each in (boxes[rows], theirs))
        sides = (theirs[:, 2:] - theirs[:, :2]).clip(min=1)
        away = (np.abs(middle[:, None] - theirs_middle) / sides).max(-1) / self.reach
        same = labels[rows][:, None] == np.array([track.label for track in tracks])
        cost = np.where(same & (away <= 1) & (overlap >= least), 1 - overlap + away, NEVER)
        chosen = zip(*linear_sum_assignment(cost), strict=True)
        return [(int(rows[a]), tracks[b]) for a, b in chosen if cost[a, b] < NEVER]

    def _follow(self, track: Track, box: np.ndarray) -> None:
        passed = self._frame - track.seen
        motion = (box - track.box) / passed
        track.velocity = motion if not track.velocity.any() else track.velocity + SMOOTHING * (motion - track.velocity)
        track.box, track.seen = box, self._frame


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    return pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(others)).numpy()
