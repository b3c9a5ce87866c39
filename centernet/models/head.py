"""CenterHead: one small branch of convolutions per output map, shared in form by all tasks.

Objects as Points, Sec. 4 and Appendix A: 3x3 convolution, ReLU, 1x1 convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from centernet.structures import Head


class CenterHead(nn.Module):
    """Maps features to raw output maps (logits for heatmaps), one set of branches per stack.

    ``heads`` name -> ``Head``; ``hidden_channels`` width of the 3x3 convolution (0: a single 1x1 convolution).
    Forward: a list of features ``[B, in_channels, h, w]``, one per stack, to a list of ``{name: [B, C, h, w]}``.
    """

    def __init__(
        self, in_channels: int, heads: Mapping[str, Head], hidden_channels: int = 64, num_stacks: int = 1
    ) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(
            nn.ModuleDict({name: _branch(in_channels, head, hidden_channels) for name, head in heads.items()})
            for _ in range(num_stacks)
        )

    def forward(self, features: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        return [
            {name: branch(feature) for name, branch in branches.items()}
            for branches, feature in zip(self.stacks, features, strict=True)
        ]


def _branch(in_channels: int, head: Head, hidden_channels: int) -> nn.Sequential:
    if hidden_channels:
        layers = [
            nn.Conv2d(in_channels, hidden_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_channels, head.channels, 1),
        ]
    else:
        layers = [nn.Conv2d(in_channels, head.channels, 1)]
    last = layers[-1]
    if not head.is_heatmap:
        # Regressions start at zero: the first steps then belong to the heatmap, as in the original.
        nn.init.normal_(last.weight, std=0.001)
    nn.init.constant_(last.bias, head.bias)
    return nn.Sequential(*layers)
