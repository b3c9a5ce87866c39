"""The U-shaped neck of CenterNet-HarDNet.

After FC-HarDNet (Chao et al., 2019, arXiv:1909.00948, Sec. 4.2), with context branches and shortcut channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from centernet.models.backbones.hardnet import HarDBlock
from centernet.models.layers import conv_block
from centernet.structures import InputError

# Added to the sum of a map before dividing by it: the original's guard for an empty map.
SUM_MARGIN = 0.1


class Context(nn.Module):
    """Appends a 9x9 average and the map divided by its own sum: ``[B, C, H, W] -> [B, 3 C, H, W]``."""

    def __init__(self) -> None:
        super().__init__()
        self.average = nn.AvgPool2d(9, stride=1, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        share = x / (x.sum((2, 3), keepdim=True) + SUM_MARGIN)
        return torch.cat([x, self.average(x), share.to(x.dtype)], 1)


class HarDNetUp(nn.Module):
    """One block a level below the backbone's coarsest map, then up, merging the backbone's maps on the way.

    ``in_channels``, ``reductions`` of the backbone's levels, finest first. ``project``: width of the coarsest map when
    it enters; ``growth`` and ``depths`` of the blocks, coarsest first; ``widths`` after each merge, of which
    ``shortcuts`` channels bypass everything after it and join the output; ``skips``: how many levels, coarsest first,
    are merged (the others only give their resolution).
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        reductions: Sequence[int],
        project: int = 256,
        growth: Sequence[int] = (80, 64, 48, 28),
        depths: Sequence[int] = (8, 8, 8, 4),
        widths: Sequence[int] = (256, 192, 96),
        shortcuts: Sequence[int] = (32, 32, 0),
        skips: int = 3,
    ) -> None:
        super().__init__()
        steps = len(in_channels)
        if not len(growth) - 1 == len(depths) - 1 == len(widths) == len(shortcuts) == steps:
            raise InputError(
                f"hardnet_up got a backbone with {steps} levels, so it needs {steps} widths and shortcuts and "
                f"{steps + 1} growth rates and depths; given: {len(widths)}, {len(shortcuts)}, {len(growth)}, "
                f"{len(depths)}"
            )
        self.shortcuts, self.skips = list(shortcuts), skips
        self.project = nn.Sequential(conv_block(in_channels[-1], project, kernel=1), nn.AvgPool2d(2))
        self.context = Context()
        self.bottom = HarDBlock(3 * project, growth[0], depths[0])
        self.merges, self.blocks = nn.ModuleList(), nn.ModuleList()
        width = self.bottom.out_channels
        for step, skip in enumerate(reversed(in_channels)):
            self.merges.append(conv_block(width + (skip if step < skips else 0), widths[step], kernel=1))
            block = HarDBlock(3 * (widths[step] - shortcuts[step]), growth[step + 1], depths[step + 1])
            self.blocks.append(block)
            width = block.out_channels
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        self.out_channels, self.stride, self.divisor = width + sum(shortcuts), reductions[0], 2 * reductions[-1]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        x = self.bottom(self.context(self.project(features[-1])))
        bypass: list[Tensor] = []
        for step, (skip, merge, block) in enumerate(zip(reversed(features), self.merges, self.blocks, strict=True)):
            x = _resize(x, skip)
            x = merge(torch.cat([x, skip], 1) if step < self.skips else x)
            kept = self.shortcuts[step]
            if kept:
                x, shortcut = x.split([x.shape[1] - kept, kept], 1)
                bypass.insert(0, shortcut)
            x = block(self.context(x))
        return [torch.cat([*(_resize(shortcut, x) for shortcut in bypass), x], 1)]


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=True)
