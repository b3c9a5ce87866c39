"""CenterHead: one small branch of convolutions per output map, shared in form by all tasks.

Objects as Points, Sec. 4 and Appendix A: 3x3 convolution, ReLU, 1x1 convolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from centernet.models.layers import conv_block
from centernet.structures import Head, InputError

STARTS = ("small_last", "small", "zero_bias", "kaiming", "default")
# Standard deviation of regression weights under the two "small" rules.
SMALL = 0.001


class CenterHead(nn.Module):
    """Maps features to raw output maps (logits for heatmaps), one set of branches per stack.

    ``heads`` name -> ``Head``; ``hidden_channels`` width of the 3x3 convolution: a number (0: a single 1x1
    convolution), or ``{at_least, per_channel}`` for max(at_least, per_channel * the head's channels). ``start``:
    initialization of the branches, except the last biases, which come from ``heads`` (-2.19 for heatmaps):

    - ``small_last``: last weights of regressions N(0, 0.001), so the first steps train the heatmap
    - ``small``: all weights of regressions N(0, 0.001), biases 0
    - ``zero_bias``: biases of regressions 0
    - ``kaiming``: all weights uniform for ReLU, biases 0
    - ``default``: PyTorch's, for the last biases of regressions too

    ``tower``: how many 3x3 convolutions with batch norm, ``hidden_channels`` (a number) wide, all branches share; each
    branch is then a 1x1 convolution. Cheaper than a 3x3 convolution per branch.

    Forward: a list of features ``[B, in_channels, h, w]``, one per stack, to a list of ``{name: [B, C, h, w]}``.
    """

    def __init__(
        self,
        in_channels: int,
        heads: Mapping[str, Head],
        hidden_channels: int | Mapping[str, int] = 64,
        num_stacks: int = 1,
        start: str = "small_last",
        tower: int = 0,
    ) -> None:
        super().__init__()
        if start not in STARTS:
            raise InputError(f"head_start={start!r} is unknown; choose one of {', '.join(STARTS)}")
        if tower and not (
            isinstance(tower, int) and isinstance(hidden_channels, int) and hidden_channels and tower > 0
        ):
            raise InputError(f"head_tower={tower!r} needs a positive number of layers, and head_channels a number")
        if tower:
            widths = [in_channels] + [hidden_channels] * tower
            self.towers = nn.ModuleList(
                nn.Sequential(*(conv_block(a, b) for a, b in itertools.pairwise(widths))) for _ in range(num_stacks)
            )
            in_channels, hidden_channels = widths[-1], 0
        self.stacks = nn.ModuleList(
            nn.ModuleDict(
                {name: _branch(in_channels, head, hidden_width(hidden_channels, head.channels), start)
                 for name, head in heads.items()}
            )
            for _ in range(num_stacks)
        )  # fmt: skip

    def forward(self, features: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        if hasattr(self, "towers"):
            features = [tower(feature) for tower, feature in zip(self.towers, features, strict=True)]
        return [
            {name: branch(feature) for name, branch in branches.items()}
            for branches, feature in zip(self.stacks, features, strict=True)
        ]


def hidden_width(rule: int | Mapping[str, int], channels: int) -> int:
    """Width of the hidden convolution of a head with ``channels`` output channels."""
    return rule if isinstance(rule, int) else max(rule["at_least"], rule["per_channel"] * channels)


def _branch(in_channels: int, head: Head, hidden: int, start: str) -> nn.Sequential:
    if hidden:
        layers = [
            nn.Conv2d(in_channels, hidden, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, head.channels, 1),
        ]
    else:
        layers = [nn.Conv2d(in_channels, head.channels, 1)]
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    if start == "kaiming":
        for conv in convs:
            nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
    elif not head.is_heatmap:
        if start in ("small", "zero_bias"):
            for conv in convs:
                nn.init.zeros_(conv.bias)
        for conv in {"small": convs, "small_last": convs[-1:]}.get(start, []):
            nn.init.normal_(conv.weight, std=SMALL)
    if head.is_heatmap or head.bias or start != "default":
        nn.init.constant_(convs[-1].bias, head.bias)
    return nn.Sequential(*layers)
