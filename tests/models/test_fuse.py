"""The inference form computes what the network computes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from centernet.models import CenterNet, build_network
from centernet.models.backbones.hardnet import HarDBlock
from centernet.models.fuse import SplitHarDBlock, fold, fuse
from centernet.models.layers import DeformConv2d
from centernet.structures import HEATMAP_BIAS, Head

HEADS = {"heatmap": Head(3, "focal", bias=HEATMAP_BIAS), "size": Head(2, "l1")}
NETWORKS: list[Any] = [
    "resnet18",
    "resdcn18",
    "dlav0_34",
    "dla34",
    "hardnet68",
    pytest.param("hardnet85", marks=pytest.mark.slow),
    pytest.param("resnet101", marks=pytest.mark.slow),
    pytest.param("resdcn101", marks=pytest.mark.slow),
    pytest.param("hourglass104", marks=pytest.mark.slow),
    {"name": "mobilenetv3_small_050", "neck": "dla_up"},
    {"name": "convnext_atto", "neck": "deconv"},
    {"name": "lcnet_050", "neck": {"name": "fpn", "channels": 16}, "head_channels": 16, "head_tower": 1},
]


def look_trained(module: nn.Module) -> None:
    """Give batch norms statistics and weights that do something."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)


def assert_close(old: Tensor, new: Tensor, tolerance: float = 1e-4) -> None:
    assert (old - new).abs().max() <= tolerance * old.abs().max()


@pytest.mark.parametrize("backbone", NETWORKS, ids=str)
def test_a_fused_network_computes_the_same_without_batch_norm(backbone: Any) -> None:
    torch.manual_seed(0)
    net = build_network(backbone, HEADS)
    look_trained(net)
    fused = fuse(net)

    assert net.training, "the network itself is left as it was"
    assert any(isinstance(layer, _BatchNorm) for layer in net.modules())
    assert not any(isinstance(layer, _BatchNorm) for layer in fused.modules())
    assert not any(isinstance(layer, HarDBlock) for layer in fused.modules())
    assert not any(
        p.requires_grad for name, p in fused.named_parameters() if isinstance(name, str) and ".convs." in name
    )
    x = torch.randn(1, 3, net.divisor, 2 * net.divisor)
    with torch.inference_mode():
        for old, new in zip(net.eval()(x), fused(x), strict=True):
            for head in old:
                assert_close(old[head], new[head])


@pytest.mark.parametrize(
    "convolution",
    [
        partial(nn.Conv2d, 4, 6, 3),
        partial(nn.Conv2d, 4, 6, 3, groups=2, bias=False),
        partial(nn.ConvTranspose2d, 4, 6, 4, stride=2),
        partial(nn.ConvTranspose2d, 4, 6, 4, stride=2, groups=2, bias=False),
        partial(DeformConv2d, 4, 6),
    ],
)
def test_every_kind_of_convolution_takes_a_batch_norm_in(convolution: partial) -> None:
    torch.manual_seed(0)
    layer, norm = convolution(), nn.BatchNorm2d(6).eval()
    if isinstance(layer, DeformConv2d):
        nn.init.normal_(layer.conv_offset_mask.weight)
        nn.init.normal_(layer.bias)
    look_trained(norm)
    x = torch.randn(2, 4, 7, 9)
    with torch.no_grad():
        expected = norm(layer(x))
        fold(layer, norm)
        assert_close(expected, layer(x), 1e-5)


@pytest.mark.parametrize(("growth", "layers"), [(6, 4), (8, 8), (4, 16)])
def test_a_split_block_reads_no_concatenation_and_computes_the_same(growth: int, layers: int) -> None:
    torch.manual_seed(0)
    block = HarDBlock(12, growth, layers).eval()
    look_trained(block)
    x = torch.randn(2, 12, 9, 11)
    with torch.no_grad():
        expected = block(x)
        for layer in block.layers:
            fold(layer[0], layer[1])
            layer[1] = nn.Identity()
        split = SplitHarDBlock(block)
        assert_close(expected, split(x), 1e-5)
    assert [conv.in_channels for conv in split.convs] == block.widths[:-1]


class ReadsTwice(CenterNet):
    """A network in which something besides the batch norm reads a convolution's output, unseen by hooks."""

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        raw = self.backbone(images)
        return [{"heatmap": self.neck(raw) + raw}]


def test_a_network_that_folding_would_change_is_refused() -> None:
    net = ReadsTwice.__new__(ReadsTwice)
    nn.Module.__init__(net)
    net.backbone, net.neck, net.divisor = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), 8
    look_trained(net)
    with pytest.raises(RuntimeError, match="folding batch norm changes the output 'heatmap'"):
        fuse(net)
