"""HarDNet-68 and HarDNet-85, as CenterNet-HarDNet uses them: the first blocks, average pooling, four taps.

HarDNet: A Low Memory Traffic Network (Chao et al., 2019, arXiv:1909.00948), Sec. 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from centernet.models.backbones.registry import register_new
from centernet.models.layers import conv_block

Stage = Sequence[tuple[int | None, int, int]]
"""The blocks of one resolution: width of the 1x1 transition before it (None: no transition), growth rate, layers."""


def harmonic_links(layer: int) -> list[int]:
    """The earlier layers that layer ``layer`` (counted from 1; 0 is the block's input) reads: those 2^n before it.

    A link of length 2^n exists where 2^n divides the layer's number (Sec. 3.1). Nearest first.
    """
    return [layer - (1 << n) for n in range(layer.bit_length()) if layer % (1 << n) == 0]


class HarDBlock(nn.Module):
    """A harmonic dense block: every layer reads few earlier ones, and the more links it ends the wider it is.

    ``in_channels``; ``growth`` width of an ordinary layer, multiplied by ``multiplier`` for each link beyond the first;
    ``num_layers``. Odd layers and the last one are concatenated: ``[B, in, H, W] -> [B, out_channels, H, W]``.
    """

    def __init__(self, in_channels: int, growth: int, num_layers: int, multiplier: float = 1.7) -> None:
        super().__init__()
        self.links = [harmonic_links(layer) for layer in range(1, num_layers + 1)]
        self.widths = [in_channels]
        for links in self.links:
            width = float(growth)
            for _ in links[1:]:
                width *= multiplier
            self.widths.append(int(width + 1) // 2 * 2)  # to an even number
        self.layers = nn.ModuleList(
            conv_block(sum(self.widths[link] for link in links), width)
            for links, width in zip(self.links, self.widths[1:], strict=True)
        )
        self.outputs = [layer for layer in range(1, num_layers + 1) if layer % 2 == 1 or layer == num_layers]
        self.out_channels = sum(self.widths[layer] for layer in self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for links, layer in zip(self.links, self.layers, strict=True):
            inputs = [states[link] for link in links]
            states.append(layer(torch.cat(inputs, 1) if len(inputs) > 1 else inputs[0]))
        return torch.cat([states[layer] for layer in self.outputs], 1)


class HarDNet(nn.Module):
    """HarDNet for classification, or through ``features_only`` for maps at strides 2, 4, 8 and 16."""

    def __init__(
        self,
        stem: tuple[int, int],
        stages: Sequence[Stage],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Sequential(conv_block(in_chans, stem[0], stride=2), conv_block(*stem))
        width, reduction = stem[1], 2
        self.feature_info = [{"num_chs": width, "reduction": reduction, "module": "stem"}]
        self.stages = nn.ModuleList()
        for number, blocks in enumerate(stages):
            layers: list[nn.Module] = []
            for place, (transition, growth, depth) in enumerate(blocks):
                if transition is not None:
                    layers.append(conv_block(width, transition, kernel=1))
                    width = transition
                if place == 0:
                    layers.append(nn.AvgPool2d(3, stride=2, padding=1) if number == 0 else nn.AvgPool2d(2))
                layers.append(HarDBlock(width, growth, depth))
                width = layers[-1].out_channels
            self.stages.append(nn.Sequential(*layers))
            reduction *= 2
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"stages.{number}"})
        self.num_features = self.head_hidden_size = width
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
        """Maps of the levels ``indices`` of ``feature_info``, and the last map unless ``intermediates_only``."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        levels = [self.stem, *self.stages]
        maps = []
        for number, level in enumerate(levels[: last + 1] if stop_early or intermediates_only else levels):
            x = level(x)
            if number in wanted:
                maps.append(x)
        return maps if intermediates_only else (x, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the levels ``indices`` do not need."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        self.stages = self.stages[:last]
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map ``[B, num_features, H / 16, W / 16]``."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooled features or class logits."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs(
    {
        f"hardnet{depth}.untrained": {
            "input_size": (3, 224, 224),
            "pool_size": (14, 14),
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "num_classes": 1000,
            "first_conv": "stem.0.0",
            "classifier": "head.fc",
        }
        for depth in (68, 85)
    }
)


def _create(name: str, pretrained: bool, stem: tuple[int, int], stages: Sequence[Stage], **kwargs: Any) -> nn.Module:
    features = {"out_indices": tuple(range(len(stages) + 1)), "feature_cls": "getter"}
    return build_model_with_cfg(HarDNet, name, pretrained, feature_cfg=features, stem=stem, stages=stages, **kwargs)


@register_new
def hardnet68(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HarDNet-68 up to stride 16, 654 channels."""
    stages = [[(None, 14, 8)], [(128, 16, 16), (256, 20, 16)], [(320, 40, 16)]]
    return _create("hardnet68", pretrained, (32, 64), stages, **kwargs)


@register_new
def hardnet85(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """HarDNet-85 up to stride 16, 784 channels."""
    stages = [[(None, 24, 8)], [(192, 24, 16), (256, 28, 16)], [(320, 36, 16), (480, 48, 16)]]
    return _create("hardnet85", pretrained, (48, 96), stages, **kwargs)
