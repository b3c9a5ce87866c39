"""A light pyramid: levels of one width, added from the coarsest to the finest.

Feature Pyramid Networks (Lin et al., 2017, arXiv:1612.03144), Sec. 3, with one output instead of one per level.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from centernet.models.layers import conv_block
from centernet.structures import InputError


class FPN(nn.Module):
    """Brings every level to ``channels`` by a 1x1 convolution, adds them from the coarsest to the finest, enlarged to
    the nearest cell, and smooths what comes out with a 3x3 convolution.

    ``in_channels``, ``reductions`` of levels that double in stride, such as 4, 8, 16, 32. A fraction of the cost of
    ``dla_up``, as only the last convolution works at the finest resolution.
    """

    def __init__(self, in_channels: Sequence[int], reductions: Sequence[int], channels: int = 64) -> None:
        super().__init__()
        if any(fine * 2 != coarse for fine, coarse in itertools.pairwise(reductions)):
            raise InputError(
                f"fpn needs levels that double in stride, such as 4, 8, 16, 32, but the backbone's are "
                f"{', '.join(map(str, reductions))}; choose another backbone or neck=deconv"
            )
        self.enter = nn.ModuleList(conv_block(width, channels, kernel=1) for width in in_channels)
        self.smooth = conv_block(channels, channels)
        self.out_channels, self.stride = channels, reductions[0]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = [enter(feature) for enter, feature in zip(self.enter, features, strict=True)]
        state = levels.pop()
        while levels:
            state = levels.pop() + F.interpolate(state, scale_factor=2.0, mode="nearest")
        return [self.smooth(state)]
