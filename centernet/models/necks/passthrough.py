"""No neck: for backbones whose maps already have the output's stride, one per stack (hourglass)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from centernet.structures import InputError


class Passthrough(nn.Module):
    """Hands the backbone's maps on as they are, each as a stack of its own.

    ``in_channels``, ``reductions`` of the maps: all the same, or there is nothing to supervise together.
    """

    def __init__(self, in_channels: Sequence[int], reductions: Sequence[int]) -> None:
        super().__init__()
        if len(set(in_channels)) != 1 or len(set(reductions)) != 1:
            raise InputError(
                f"neck passthrough needs maps of one stride and width, but the backbone's strides are "
                f"{', '.join(map(str, reductions))}; choose neck=deconv or neck=dla_up"
            )
        self.out_channels, self.stride, self.num_stacks = in_channels[0], reductions[0], len(in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return list(features)
