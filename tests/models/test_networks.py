"""Every network by its behavior: shapes, sizes, gradients, number formats, compilation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from centernet.models import ARCHITECTURES, CenterNet, build_network, centernet
from centernet.models.layers import DeformConv2d, PointConv2d, guard_point_convolutions
from centernet.models.necks import FPN
from centernet.structures import HEATMAP_BIAS, Head, InputError

HEADS = {"heatmap": Head(3, "focal", bias=HEATMAP_BIAS), "size": Head(2, "l1")}
SMALLEST = [
    "resnet18",
    "resdcn18",
    "dlav0_34",
    "dla34",
    "hardnet68",
    pytest.param("hourglass104", marks=pytest.mark.slow),
]
# Not published: any timm backbone takes the deconv, the DLA-up or the FPN neck by naming it.
OTHERS = [
    {"name": "convnext_atto", "neck": "deconv"},
    {"name": "convnext_atto", "neck": "dla_up"},
    {"name": "mobilenetv3_small_050", "neck": "deconv"},
    {"name": "mobilenetv3_small_050", "neck": "fpn"},
    {"name": "lcnet_050", "neck": {"name": "fpn", "channels": 16}, "head_channels": 16, "head_tower": 2},
    {"name": "mobilenetv3_small_050", "neck": {"name": "dla_up", "channels": 32}},
    {"name": "lcnet_050", "neck": {"name": "dla_up", "channels": [16, 24, 32, 48], "deformable": True}},
]


@cache
def network(name: str) -> CenterNet:
    """A network whose batch norms look trained, shared by the tests that do not change it."""
    torch.manual_seed(0)
    built = build_network(name, HEADS).eval()
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
    return built


def images(net: CenterNet, height: int = 1, width: int = 2, batch: int = 1) -> Tensor:
    """Random images ``height`` x ``width`` divisors large."""
    side = max(net.divisor, 64)
    return torch.randn(batch, 3, height * side, width * side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_maps_have_a_quarter_of_any_input_size(name: str) -> None:
    with torch.device("meta"):
        net = build_network(name, HEADS).eval()
        for height, width in ((1, 1), (3, 2), (2, 5)):
            outputs = net(torch.empty(2, 3, height * net.divisor, width * net.divisor))
            for maps in outputs:
                grid = (height * net.divisor // 4, width * net.divisor // 4)
                assert {head: tuple(out.shape) for head, out in maps.items()} == {
                    "heatmap": (2, 3, *grid),
                    "size": (2, 2, *grid),
                }
    assert net.stride == 4
    assert len(outputs) == (2 if name == "hourglass104" else 1)
    assert net.divisor == (128 if name == "hourglass104" else 32)


@pytest.mark.parametrize("backbone", OTHERS, ids=lambda b: f"{b['name']}-{b['neck']}")
def test_other_backbones_take_both_necks_by_name(backbone: dict) -> None:
    net = build_network(backbone, HEADS)
    outputs = net(torch.randn(2, 3, 64, 96))
    assert outputs[0]["heatmap"].shape == (2, 3, 16, 24)
    sum(out.sum() for out in outputs[0].values()).backward()
    assert all(p.grad is not None for name, p in net.named_parameters() if name.startswith("neck."))


@pytest.mark.parametrize("name", SMALLEST)
def test_a_gradient_reaches_every_parameter(name: str) -> None:
    net = network(name)
    net.zero_grad()
    net.train()
    try:
        sum(
            (out * torch.randn_like(out)).sum() for maps in net(images(net, batch=2)) for out in maps.values()
        ).backward()
    finally:
        net.eval()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    net.zero_grad()
    assert without == []


@pytest.mark.parametrize("name", SMALLEST)
def test_channels_last_changes_nothing(name: str) -> None:
    net = network(name)
    x = images(net)
    with torch.no_grad():
        before = net(x)
        after = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        net.to(memory_format=torch.contiguous_format)
    for old, new in zip(before, after, strict=True):
        for head in old:
            torch.testing.assert_close(new[head], old[head], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALLEST)
def test_bfloat16_autocast_runs_and_trains(name: str) -> None:
    net = network(name)
    net.train()
    try:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = net(images(net, batch=2))
        sum(out.float().mean() for maps in outputs for out in maps.values()).backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    finally:
        net.eval()
        net.zero_grad()
    for maps in outputs:
        for out in maps.values():
            assert out.dtype == torch.bfloat16
            assert torch.isfinite(out).all()


def test_deformable_convolution_computes_in_float32_under_autocast() -> None:
    layer = DeformConv2d(4, 6)
    nn.init.normal_(layer.conv_offset_mask.weight)
    x = torch.randn(1, 4, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer(x.float()))
        assert layer(x.bfloat16()).dtype == torch.bfloat16


def test_a_deformable_convolution_starts_as_a_plain_one_at_half_strength() -> None:
    layer = DeformConv2d(4, 6)
    x = torch.randn(2, 4, 9, 9)
    plain = nn.functional.conv2d(x, layer.weight, padding=1)
    torch.testing.assert_close(layer(x), 0.5 * plain + layer.bias.view(-1, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resdcn18", "dlav0_34", "dla34", "hardnet68", "hourglass104"])
def test_the_whole_network_is_one_graph_for_torch_compile(name: str) -> None:
    check_compiled(network(name), backend="aot_eager")


@pytest.mark.slow
def test_a_compiled_network_computes_the_same() -> None:
    check_compiled(network("resdcn18"), backend="inductor")


def check_compiled(net: CenterNet, backend: str) -> None:
    torch._dynamo.reset()
    compiled: Callable = torch.compile(net, backend=backend, fullgraph=True)
    x = images(net, 1, 1)
    with torch.no_grad():
        for old, new in zip(net(x), compiled(x), strict=True):
            for head in old:
                torch.testing.assert_close(new[head], old[head], rtol=1e-3, atol=1e-4)


def test_a_backbone_that_does_not_double_its_strides_is_refused_by_dla_up() -> None:
    wanted = pytest.raises(InputError, match=r"dla_up needs levels that double in stride.*choose another backbone")
    with wanted, torch.device("meta"):
        build_network({"name": "hourglass104", "neck": "dla_up"}, HEADS)


def test_fpn_refuses_it_too() -> None:
    wanted = pytest.raises(InputError, match=r"fpn needs levels that double in stride.*choose another backbone")
    with wanted, torch.device("meta"):
        build_network({"name": "hourglass104", "neck": "fpn"}, HEADS)


def test_every_level_reaches_the_maps_of_an_fpn() -> None:
    neck = FPN([4, 6, 8], [4, 8, 16], channels=5).eval()
    levels = [torch.randn(1, width, 8 // 2**n, 12 // 2**n) for n, width in enumerate((4, 6, 8))]
    (plain,) = neck(levels)
    assert plain.shape == (1, 5, 8, 12)
    assert (neck.stride, neck.out_channels) == (4, 5)
    for n in range(3):
        (changed,) = neck([level + (1 if n == m else 0) for m, level in enumerate(levels)])
        assert not torch.equal(changed, plain)


def test_dla_up_wants_one_width_or_one_for_each_level() -> None:
    with pytest.raises(InputError, match="dla_up got 2 channels for 4 levels"):
        build_network({"name": "lcnet_050", "neck": {"name": "dla_up", "channels": [8, 16]}}, HEADS)


def test_no_neck_at_all_needs_maps_of_one_stride() -> None:
    with pytest.raises(InputError, match="passthrough needs maps of one stride"):
        build_network({"name": "lcnet_050", "neck": "passthrough"}, HEADS)


def test_unknown_options_of_a_neck_are_named() -> None:
    with pytest.raises(InputError, match=r"neck 'deconv' does not take these options.*widths"):
        build_network({"name": "lcnet_050", "neck": {"name": "deconv", "widths": [8]}}, HEADS)


def test_an_unknown_option_of_a_network_is_named():
    with pytest.raises(InputError, match="backbone 'resnet18' has no option 'nek'; choose from body, options, neck, "):
        build_network({"name": "resnet18", "nek": "deconv"}, HEADS)


@pytest.mark.parametrize("name", ["hrnet_w18_small", "test_efficientnet", "resdcn18"])
def test_every_parameter_that_is_trained_gets_a_gradient(name):
    network = build_network(name, {"heatmap": Head(2, "focal"), "size": Head(2, "l1")})
    sum(value.square().mean() for value in network(torch.randn(2, 3, 64, 64))[0].values()).backward()
    assert not [key for key, value in network.named_parameters() if (value.grad is None) == value.requires_grad]
    frozen = [key for key, value in network.named_parameters() if not value.requires_grad]
    # With the coarsest level alone, HRNet's other branches end in layers that nobody reads.
    assert bool(frozen) == (name == "hrnet_w18_small")


def test_the_look_for_unused_parameters_leaves_no_trace(monkeypatch):
    name = {"name": "test_efficientnet", "options": {"drop_path_rate": 0.5}}
    torch.manual_seed(0)
    network = build_network(name, HEADS)
    drawn = torch.rand(3)
    assert not network.backbone.body.bn1.num_batches_tracked
    assert not network.backbone.body.bn1.running_mean.any()
    monkeypatch.setattr(centernet, "_freeze_unused", lambda *_: None)
    torch.manual_seed(0)
    build_network(name, HEADS)
    assert (torch.rand(3) == drawn).all()


class OneSize(nn.Module):
    """Takes images of 96x96 only, and has a layer that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.unread = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        assert images.shape[-2:] == (96, 96)
        return [self.read(images)]


@pytest.mark.parametrize(("usual", "is_known"), [(96, True), ((96, 96), True), ((96, 128), False)])
def test_networks_that_take_one_size_only_are_looked_at_in_that_size(usual, is_known):
    network = nn.Module()
    network.backbone, network.neck, network.divisor = OneSize(), nn.Identity(), 32
    centernet._freeze_unused(network, usual)
    assert network.backbone.read.weight.requires_grad
    # Where nothing is known, everything is trained.
    assert network.backbone.unread.weight.requires_grad is not is_known


def test_building_a_network_does_not_import_what_only_compilers_need():
    code = (
        "import sys; from centernet.deferred import defer_compiler; defer_compiler();"
        "from centernet.models.centernet import build_network; build_network('lcnet_050', {});"
        "sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", ["fastvit_t8", "repvgg_a0", "mobileone_s0"])
def test_networks_that_begin_with_a_strided_point_convolution_train_in_channels_last_layout(name):
    # A crash of the process otherwise, in torch's own gradient.
    network = build_network(name, HEADS).to(memory_format=torch.channels_last)
    points = [module for module in network.modules() if isinstance(module, PointConv2d)]
    assert len(points) == 1
    images = torch.rand(2, 3, 64, 64).to(memory_format=torch.channels_last)
    network(images)[-1]["heatmap"].square().sum().backward()
    assert points[0].weight.grad.abs().sum() > 0


def test_a_guarded_point_convolution_has_the_same_outputs_and_gradients():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(6, 8, 1, stride=(2, 3), groups=2), nn.Conv2d(8, 4, 3, stride=2, padding=1))
    guarded = deepcopy(plain)
    guard_point_convolutions(guarded)
    assert [type(module) for module in guarded] == [PointConv2d, nn.Conv2d]
    images = torch.randn(2, 6, 15, 20)
    wanted, found = plain(images), guarded(images)
    torch.testing.assert_close(found, wanted)
    wanted.square().sum().backward()
    found.square().sum().backward()
    for mine, theirs in zip(guarded.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
