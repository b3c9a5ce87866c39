"""Our backbones as ordinary timm models."""

from __future__ import annotations

import pytest
import timm
import torch

import centernet.models  # noqa: F401  registers them
from centernet.models.backbones.hardnet import HarDBlock, harmonic_links
from centernet.models.backbones.hourglass import StackedHourglass
from centernet.models.backbones.registry import register_new

OURS = ["hardnet68", "hardnet85", "hourglass104"]


@pytest.mark.parametrize("name", OURS)
def test_timm_builds_them_for_classification(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7).eval()
        assert model(torch.empty(1, 3, 128, 128)).shape == (1, 7)
        assert model.get_classifier().out_features == 7
        assert timm.create_model(name, num_classes=0).eval()(torch.empty(1, 3, 128, 128)).shape == (
            1,
            model.num_features,
        )


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("hardnet68", [64, 124, 328, 654], [2, 4, 8, 16]),
        ("hardnet85", [96, 214, 458, 784], [2, 4, 8, 16]),
        ("hourglass104", [256, 256], [4, 4]),
    ],
)
def test_timm_gives_their_feature_maps(name: str, channels: list[int], strides: list[int]) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, features_only=True).eval()
        maps = model(torch.empty(2, 3, 128, 256))
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == strides
    assert [tuple(m.shape) for m in maps] == [
        (2, width, 128 // stride, 256 // stride) for width, stride in zip(channels, strides, strict=True)
    ]


def test_levels_that_are_not_asked_for_are_dropped() -> None:
    with torch.device("meta"):
        model = timm.create_model("hardnet68", features_only=True, out_indices=(1,), in_chans=1).eval()
        (only,) = model(torch.empty(1, 1, 64, 64))
    assert only.shape == (1, 124, 16, 16)
    assert not any("stages.1" in key for key in model.state_dict())


def test_intermediate_maps_are_the_ones_of_the_forward_pass() -> None:
    model = StackedHourglass(widths=(8, 8, 12), depths=(1, 1, 2), num_classes=4).eval()
    x = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        last, maps = model.forward_intermediates(x)
        assert torch.equal(last, model.forward_features(x))
        assert torch.equal(maps[-1], last)
        (first,) = model.forward_intermediates(x, indices=[0], intermediates_only=True)
        assert torch.equal(first, maps[0])
    assert model.divisor == 16


def test_a_name_that_timm_already_has_is_refused() -> None:
    def resnet18(pretrained: bool = False) -> None: ...

    with pytest.raises(RuntimeError, match=r"timm .* already has a model 'resnet18'"):
        register_new(resnet18)
    assert timm.models.model_entrypoint("resnet18").__module__ == "timm.models.resnet"


def test_registering_again_is_allowed_to_the_same_module() -> None:
    with pytest.warns(UserWarning, match="Overwriting hardnet68"):  # a module that is loaded anew
        register_new(timm.models.model_entrypoint("hardnet68"))


@pytest.mark.parametrize(
    ("layer", "links"), [(1, [0]), (2, [1, 0]), (3, [2]), (4, [3, 2, 0]), (6, [5, 4]), (8, [7, 6, 4, 0])]
)
def test_harmonic_links_reach_back_by_the_powers_of_two_that_divide_the_layer(layer: int, links: list[int]) -> None:
    assert harmonic_links(layer) == links


def test_a_harmonic_block_widens_its_layers_by_their_links() -> None:
    block = HarDBlock(96, 24, 8)
    assert block.widths == [96, 24, 40, 24, 70, 24, 40, 24, 118]
    assert block.outputs == [1, 3, 5, 7, 8]
    assert block.out_channels == 4 * 24 + 118
