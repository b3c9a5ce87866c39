"""How networks start, where the originals' choice matters."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from centernet.models import ARCHITECTURES, build_network
from centernet.models.head import CenterHead
from centernet.models.layers import bilinear_kernel, bilinear_upsample
from centernet.structures import HEATMAP_BIAS, Head, InputError
from tests.places import REFERENCE

HEADS = {"heatmap": Head(5, "focal", bias=HEATMAP_BIAS), "size": Head(2, "l1")}


def convs(start: str, head: str) -> list[nn.Conv2d]:
    torch.manual_seed(0)
    branch = CenterHead(64, HEADS, 64, start=start).stacks[0][head]
    return [branch[0], branch[2]]


def default_bound(conv: nn.Conv2d) -> float:
    return 1 / conv.weight[0].numel() ** 0.5


@pytest.mark.parametrize("start", ["small_last", "small", "zero_bias", "kaiming", "default"])
def test_heatmaps_start_at_a_tenth_everywhere(start: str) -> None:
    _, last = convs(start, "heatmap")
    assert torch.equal(last.bias, torch.full((5,), HEATMAP_BIAS))
    assert last.weight.std() > 0.01


@pytest.mark.parametrize(
    ("start", "first_is_small", "last_is_small", "first_bias_is_zero", "last_bias_is_zero"),
    [
        ("small_last", False, True, False, True),
        ("small", True, True, True, True),
        ("zero_bias", False, False, True, True),
        ("kaiming", False, False, True, True),
        ("default", False, False, False, False),
    ],
)
def test_regressions_start_as_in_the_original(
    start: str, first_is_small: bool, last_is_small: bool, first_bias_is_zero: bool, last_bias_is_zero: bool
) -> None:
    first, last = convs(start, "size")
    assert (first.weight.std() < 0.002) == first_is_small
    assert (last.weight.std() < 0.002) == last_is_small
    assert (not first.bias.any()) == first_bias_is_zero
    assert (not last.bias.any()) == last_bias_is_zero


def test_hardnets_heads_start_uniform_for_relu() -> None:
    first, _ = convs("kaiming", "heatmap")
    bound = (6 / first.weight[0].numel()) ** 0.5
    assert 0.98 * bound < first.weight.abs().max() <= bound
    assert bound > 2 * default_bound(first)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("resnet18", "small_last"), ("resdcn101", "small"), ("dlav0_34", "small"), ("dla34", "zero_bias"),
        ("hourglass104", "default"), ("hardnet68", "kaiming"), ("hardnet85", "kaiming"),
    ],
)  # fmt: skip
def test_each_architecture_names_its_start(name: str, start: str) -> None:
    assert ARCHITECTURES[name].get("head_start", "small_last") == start


def test_a_tower_is_shared_by_the_branches() -> None:
    torch.manual_seed(0)
    head = CenterHead(8, HEADS, 12, num_stacks=2, tower=2)
    assert [[conv.in_channels for conv in tower.modules() if isinstance(conv, nn.Conv2d)] for tower in head.towers] == [
        [8, 12]
    ] * 2
    for branches in head.stacks:
        assert [(len(branch), branch[0].kernel_size, branch[0].in_channels) for branch in branches.values()] == [
            (1, (1, 1), 12)
        ] * 2
    assert torch.equal(head.stacks[0]["heatmap"][0].bias, torch.full((5,), HEATMAP_BIAS))
    first, second = head.eval()([torch.randn(1, 8, 6, 6)] * 2)
    assert first["size"].shape == (1, 2, 6, 6)
    assert not torch.equal(first["size"], second["size"])


@pytest.mark.parametrize(("tower", "width"), [(1, 0), (-1, 8), (1.5, 8), (1, {"at_least": 8, "per_channel": 1})])
def test_a_tower_that_cannot_be_built_is_refused(tower, width) -> None:
    with pytest.raises(InputError, match=r"head_tower=.* needs a positive number of layers, and head_"):
        CenterHead(8, HEADS, width, tower=tower)


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(InputError, match="head_start='zero' is unknown; choose one of small_last, small"):
        build_network({"name": "resnet18", "head_start": "zero"}, HEADS)


def upsamplings(backbone: dict | str) -> list[Tensor]:
    net = build_network(backbone, HEADS)
    return [layer.weight for layer in net.neck.modules() if isinstance(layer, nn.ConvTranspose2d)]


def test_resdcn_keeps_the_artifact_of_the_original_unless_it_is_mended() -> None:
    kernel = bilinear_kernel(4)
    for weight in upsamplings("resdcn18"):
        assert torch.equal(weight[:, 0], kernel.expand_as(weight[:, 0]))
        assert not torch.equal(weight[1, 1], kernel)
    for weight in upsamplings({"name": "resdcn18", "neck": {"bilinear": "all"}}):
        channels = torch.arange(len(weight))
        assert torch.equal(weight[channels, channels], kernel.expand(len(weight), 4, 4))
        weight.data[channels, channels] = 0
        assert not weight.any()


@pytest.mark.parametrize("name", ["dlav0_34", "dla34"])
def test_dla_upsamples_bilinearly_at_first(name: str) -> None:
    found = upsamplings(name)
    assert len(found) == (6 if name == "dlav0_34" else 8)
    for weight in found:
        assert torch.equal(weight, bilinear_kernel(weight.shape[-1]).expand_as(weight))


def test_plain_dla_up_starts_its_convolutions_by_their_fan_out() -> None:
    for layer in build_network("dlav0_34", HEADS).neck.modules():
        if isinstance(layer, nn.Conv2d):
            expected = (2 / (layer.kernel_size[0] ** 2 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_hardnets_neck_starts_uniform_for_relu() -> None:
    for layer in build_network("hardnet68", HEADS).neck.modules():
        if isinstance(layer, nn.Conv2d):
            bound = (6 / layer.weight[0].numel()) ** 0.5
            assert 0.97 * bound < layer.weight.abs().max() <= bound


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_learned_upsampling_starts_as_the_bilinear_one(factor: int) -> None:
    x = torch.randn(1, 3, 6, 7)
    inside = slice(factor, -factor)
    ours = bilinear_upsample(3, factor)(x)
    expected = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours[..., inside, inside], expected[..., inside, inside])


@pytest.mark.skipif(not (REFERENCE / "networks.json").is_file(), reason=f"no networks.json in {REFERENCE}")
def test_bilinear_kernels_are_the_originals() -> None:
    kernels = json.loads((REFERENCE / "networks.json").read_text())["initialisation"][
        "bilinear_upsampling_kernels_fill_up_weights"
    ]
    for values in kernels.values():
        torch.testing.assert_close(bilinear_kernel(len(values)), torch.tensor(values))
