"""Upsampling by transposed convolutions: the ResNet networks of CenterNet.

Objects as Points, Sec. 5 (ResNet): plain, after "Simple Baselines" (Xiao et al., 2018, arXiv:1804.06208), or with a
deformable convolution before each upsampling.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from centernet.models.layers import DeformConv2d, bilinear_kernel
from centernet.structures import InputError


class DeconvNeck(nn.Module):
    """Doubles the resolution of the deepest feature until its stride is 4.

    ``in_channels``, ``reductions`` of the backbone's levels; ``channels`` of the steps (the last one repeats when there
    are more steps than numbers); ``deformable`` puts a DCNv2 convolution before each step; ``bilinear`` says how
    transposed convolutions start: ``"first"`` keeps the original's artifact (bilinear weights in output channel 0 only,
    the rest random), ``"all"`` gives every channel its own bilinear upsampling, ``None`` leaves them random.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        reductions: Sequence[int],
        channels: Sequence[int] = (256, 256, 256),
        deformable: bool = False,
        bilinear: str | None = None,
        stride: int = 4,
    ) -> None:
        super().__init__()
        steps = (reductions[-1] // stride).bit_length() - 1
        if stride << steps != reductions[-1]:
            raise InputError(
                f"the backbone's deepest level has stride {reductions[-1]}, which doubling cannot bring to {stride}; "
                "choose a backbone with stride 8, 16 or 32"
            )
        self.stride = stride
        widths = [*channels, *[channels[-1]] * steps][:steps]
        layers: list[nn.Module] = []
        width = in_channels[-1]
        for out in widths:
            if deformable:
                layers += [DeformConv2d(width, out), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
                width = out
            layers += [_upsample(width, out, bilinear), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            width = out
        self.layers = nn.Sequential(*layers)
        self.out_channels = width

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [self.layers(features[-1])]


def _upsample(in_channels: int, out_channels: int, bilinear: str | None) -> nn.ConvTranspose2d:
    layer = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)
    if bilinear is None:
        nn.init.normal_(layer.weight, std=0.001)
    elif bilinear == "first":
        layer.weight.data[:, 0] = bilinear_kernel(4)
    elif bilinear == "all":
        nn.init.zeros_(layer.weight)
        for channel in range(min(in_channels, out_channels)):
            layer.weight.data[channel, channel] = bilinear_kernel(4)
    else:
        raise InputError(f"bilinear={bilinear!r} is unknown; choose first, all or null")
    return layer
