"""Upsampling by iterative deep aggregation: the DLA networks of CenterNet.

Deep Layer Aggregation (Yu et al., 2018, arXiv:1707.06484), Sec. 3.1 and 4.3; deformable: Objects as Points,
Appendix A.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from centernet.models.layers import bilinear_upsample, conv_block, deform_block
from centernet.structures import InputError


class Aggregation(nn.Module):
    """Merges levels one by one, from the finest to the coarsest.

    ``in_channels`` of the levels, finest first (the finest must already have ``out_channels``); ``factors`` by which
    they are coarser than the finest. Returns the state after each merge, all at the finest resolution: one map less
    than there are levels. ``deformable`` merges by a sum and convolves with DCNv2; else by concatenation, with 1x1
    projections.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, factors: Sequence[int], deformable: bool) -> None:
        super().__init__()
        if deformable:
            self.project = nn.ModuleList(deform_block(width, out_channels) for width in in_channels[1:])
            self.node = nn.ModuleList(deform_block(out_channels, out_channels) for _ in in_channels[1:])
        else:
            self.project = nn.ModuleList(
                nn.Identity() if width == out_channels else conv_block(width, out_channels, kernel=1)
                for width in in_channels[1:]
            )
            self.node = nn.ModuleList(conv_block(2 * out_channels, out_channels) for _ in in_channels[1:])
        self.up = nn.ModuleList(
            nn.Identity() if factor == 1 else bilinear_upsample(out_channels, factor) for factor in factors[1:]
        )
        self.deformable = deformable

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        state, states = levels[0], []
        for level, project, up, node in zip(levels[1:], self.project, self.up, self.node, strict=True):
            finer = up(project(level))
            state = node(finer + state if self.deformable else torch.cat([state, finer], 1))
            states.append(state)
        return states


class DLAUp(nn.Module):
    """Aggregates the backbone's levels from the coarsest pair down to stride 4.

    ``in_channels``, ``reductions`` of levels that double in stride, such as 4, 8, 16, 32. ``channels``: width of every
    level (one number) or of each (a list), brought about by 1x1 convolutions where the backbone's differs; ``None``
    keeps the backbone's. ``deformable`` uses DCNv2 throughout and aggregates all but the coarsest result once more.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        reductions: Sequence[int],
        channels: int | Sequence[int] | None = None,
        deformable: bool = False,
    ) -> None:
        super().__init__()
        steps = len(reductions) - 1
        if steps < 1 or any(fine * 2 != coarse for fine, coarse in itertools.pairwise(reductions)):
            raise InputError(
                f"dla_up needs levels that double in stride, such as 4, 8, 16, 32, but the backbone's are "
                f"{', '.join(map(str, reductions))}; choose another backbone or neck=deconv"
            )
        widths = [channels] * (steps + 1) if isinstance(channels, int) else list(channels or in_channels)
        if len(widths) != steps + 1:
            raise InputError(
                f"dla_up got {len(widths)} channels for {steps + 1} levels; give one number or {steps + 1}"
            )
        self.enter = nn.ModuleList(
            nn.Identity() if given == width else conv_block(given, width, kernel=1)
            for given, width in zip(in_channels, widths, strict=True)
        )
        self.steps = nn.ModuleList()
        current = list(widths)
        for finest in reversed(range(steps)):
            # After a step, everything from `finest` on has its width and resolution: the next one is a factor 2 away.
            self.steps.append(
                Aggregation(
                    [widths[finest], *current[finest + 1 :]],
                    widths[finest],
                    [1, *[2] * (steps - finest)],
                    deformable,
                )
            )
            current[finest:] = [widths[finest]] * (steps + 1 - finest)
        self.last = None
        if deformable and steps > 1:
            self.last = Aggregation(widths[:-1], widths[0], [2**level for level in range(steps)], deformable)
        if not deformable:
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        self.out_channels, self.stride = widths[0], reductions[0]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = [enter(feature) for enter, feature in zip(self.enter, features, strict=True)]
        results: list[Tensor] = []
        for finest, step in zip(reversed(range(len(self.steps))), self.steps, strict=True):
            levels[finest + 1 :] = step(levels[finest:])
            results.insert(0, levels[-1])
        if self.last is not None:
            return [self.last(results)[-1]]
        return [results[0]]
