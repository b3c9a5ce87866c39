"""Hourglass-104: two stacked hourglasses, each giving a feature map at stride 4.

Stacked Hourglass Networks (Newell et al., 2016, arXiv:1603.06937) in the form of CornerNet (Law and Deng, 2018,
arXiv:1808.01244), Sec. 3.5, which Objects as Points takes over (Appendix A).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F

from centernet.models.backbones.registry import register_new
from centernet.models.layers import conv_block


def conv_norm(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """1x1 convolution without bias, batch norm."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        keeps_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if keeps_shape else conv_norm(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class Hourglass(nn.Module):
    """Down by a factor 2, an inner hourglass (or residuals at the bottom), up again, added to what stayed up here.

    ``widths`` and ``depths`` (residuals per step) of this resolution and all coarser ones, finest first. The input's
    height and width must be multiples of 2^(len(widths) - 1).
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        here, below = widths[:2]
        self.stay = nn.Sequential(*(Residual(here, here) for _ in range(depths[0])))
        self.down = nn.Sequential(
            Residual(here, below, stride=2), *(Residual(below, below) for _ in range(depths[0] - 1))
        )
        if len(widths) > 2:
            self.inner = Hourglass(widths[1:], depths[1:])
        else:
            self.inner = nn.Sequential(*(Residual(below, below) for _ in range(depths[1])))
        self.up = nn.Sequential(*(Residual(below, below) for _ in range(depths[0] - 1)), Residual(below, here))

    def forward(self, x: Tensor) -> Tensor:
        lower = self.up(self.inner(self.down(x)))
        return self.stay(x) + F.interpolate(lower, scale_factor=2.0, mode="nearest")


class StackedHourglass(nn.Module):
    """Hourglasses one after the other; the map of each is an output, all at stride 4 (intermediate supervision).

    ``divisor``: what height and width of the input must be multiples of.
    """

    def __init__(
        self,
        num_stacks: int = 2,
        widths: Sequence[int] = (256, 256, 384, 384, 384, 512),
        depths: Sequence[int] = (2, 2, 2, 2, 2, 4),
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        width = self.num_features = self.head_hidden_size = widths[0]
        self.stem = nn.Sequential(
            conv_block(in_chans, width // 2, kernel=7, stride=2), Residual(width // 2, width, stride=2)
        )
        self.hourglasses = nn.ModuleList(Hourglass(widths, depths) for _ in range(num_stacks))
        self.out = nn.ModuleList(conv_block(width, width) for _ in range(num_stacks))
        # Between two stacks, what went in and what came out are added.
        self.from_input = nn.ModuleList(conv_norm(width, width) for _ in range(num_stacks - 1))
        self.from_output = nn.ModuleList(conv_norm(width, width) for _ in range(num_stacks - 1))
        self.between = nn.ModuleList(Residual(width, width) for _ in range(num_stacks - 1))
        self.divisor = 4 << (len(widths) - 1)
        self.feature_info = [{"num_chs": width, "reduction": 4, "module": f"out.{n}"} for n in range(num_stacks)]
        self.head = ClassifierHead(width, num_classes, pool_type=global_pool, drop_rate=drop_rate)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a new one for ``num_classes`` (0: none)."""
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Maps of the stacks ``indices``, and the last stack's unless ``intermediates_only``."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        count = last + 1 if stop_early or intermediates_only else len(self.hourglasses)
        maps = self._maps(x, count)
        chosen = [maps[number] for number in wanted]
        return chosen if intermediates_only else (maps[-1], chosen)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stacks after the last of ``indices``."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        self.hourglasses, self.out = self.hourglasses[: last + 1], self.out[: last + 1]
        self.from_input, self.from_output, self.between = (
            self.from_input[:last], self.from_output[:last], self.between[:last],
        )  # fmt: skip
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    def forward_features(self, x: Tensor) -> Tensor:
        """The last stack's map ``[B, num_features, H / 4, W / 4]``."""
        return self._maps(x, len(self.hourglasses))[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features or class logits."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def _maps(self, x: Tensor, count: int) -> list[Tensor]:
        x = self.stem(x)
        maps: list[Tensor] = []
        for number in range(count):
            if number:
                both = self.from_input[number - 1](x) + self.from_output[number - 1](maps[-1])
                x = self.between[number - 1](F.relu(both, inplace=True))
            maps.append(self.out[number](self.hourglasses[number](x)))
        return maps


default_cfgs = generate_default_cfgs(
    {
        "hourglass104.untrained": {
            "input_size": (3, 256, 256),
            "fixed_input_size": False,
            "pool_size": (64, 64),
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "num_classes": 1000,
            "first_conv": "stem.0.0",
            "classifier": "head.fc",
        }
    }
)


@register_new
def hourglass104(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Two stacks of hourglasses of order 5 with 256 to 512 channels, 104 layers deep."""
    features = {"out_indices": tuple(range(kwargs.get("num_stacks", 2))), "feature_cls": "getter"}
    return build_model_with_cfg(StackedHourglass, "hourglass104", pretrained, feature_cfg=features, **kwargs)
