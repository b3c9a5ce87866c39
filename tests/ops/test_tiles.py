"""Tiles cover an axis, overlap as asked, and hand over in the middle of what they share."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from centernet.ops.tiles import Tile, tile_axis


def test_one_tile_is_enough_for_what_fits_into_it():
    assert tile_axis(96, 96, 0.2, 32, 4) == tile_axis(96, 128, 0.2, 32, 4) == [Tile(0, 96, 0, 96)]


def test_two_tiles_meet_in_the_middle_of_what_they_share():
    assert tile_axis(160, 96, 0.2, 32, 4) == [Tile(0, 96, 0, 80), Tile(64, 96, 80, 160)]


@given(st.integers(1, 40), st.integers(1, 12), st.floats(0, 0.9), st.sampled_from([(32, 4), (32, 8), (128, 4)]))
def test_every_pixel_comes_from_one_tile_that_sees_it(sides, tile, overlap, steps):
    step, stride = steps
    length, size = sides * step, tile * step
    tiles = tile_axis(length, size, overlap, step, stride)
    assert [tiles[0].first, tiles[-1].last] == [0, length]
    assert all(a.last == b.first for a, b in itertools.pairwise(tiles))
    for each in tiles:
        assert each.start % step == each.first % stride == each.last % stride == 0
        assert 0 <= each.start <= each.first < each.last <= each.start + each.size <= length
    for a, b in itertools.pairwise(tiles):
        # A whole number of steps may be all that fits between: a tile of one step shares nothing.
        assert a.start + a.size - b.start >= min(overlap * size, size - step) - step / 2 - 1e-6
        assert a.last - b.start == pytest.approx((a.start + a.size - b.start) / 2, abs=stride)
