"""The table of networks."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import pytest
import torch
from torch import nn

from centernet.models import build_network
from centernet.models.layers import DeformConv2d
from centernet.models.originals import published_task
from centernet.models.summary import build_counted, count_macs, count_parameters
from centernet.structures import Head, InputError
from centernet.tasks import build_task
from tests.places import ROOT


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    script = ROOT / "scripts" / "model_info.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 8 * 6 * 4 * 3 * 9),
        (nn.Conv2d(3, 9, 3, stride=2, padding=1, groups=3), 9 * 3 * 2 * 1 * 9),
        (nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1), 3 * 6 * 4 * 8 * 16),
        (nn.ConvTranspose2d(3, 3, 4, stride=2, padding=1, groups=3), 3 * 6 * 4 * 1 * 16),
        (DeformConv2d(3, 8), (8 + 27) * 6 * 4 * 3 * 9),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2)), 0),
    ],
)
def test_only_convolutions_count_each_by_its_kind(layer: nn.Module, macs: int) -> None:
    assert count_macs(layer, (6, 4)) == macs
    assert layer.training


def test_hardnet85_is_as_large_as_published() -> None:
    net = build_counted("hardnet85", build_task(published_task("hardnet85"), 80).heads)
    assert count_parameters(net) == 37_274_988
    published = {416: 57.9, 512: 87.7, 608: 123.7}
    assert {side: round(count_macs(net, (side, side)) / 1e9, 1) for side in published} == published


def test_the_script_prints_a_row_for_each_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "resnet18", "lcnet_050", "hourglass104", "--resolution", 512, "--resolution", 64, 96)
    title, *rows = capsys.readouterr().out.splitlines()
    assert " ".join(title.split()) == "network parameters GMACs 512x512 GMACs 64x96 stride divisor stacks"
    assert rows[0].split() == ["resnet18", "15.82", "M", "22.7", "0.5", "4", "32", "1"]
    assert rows[1].startswith("lcnet_050")
    assert rows[2].split() == ["hourglass104", "191.28", "M", "292.7", "-", "4", "128", "2"]


def test_the_script_answers_an_unknown_name_with_close_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "hardnet86")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown backbone 'hardnet86'; did you mean hardnet")


def test_a_backbone_that_takes_one_input_size_only_is_refused() -> None:
    wanted = pytest.raises(InputError, match="'vit_tiny_patch16_224' takes 224x224 images only; choose a convolutional")
    with wanted, torch.device("meta"):
        build_network("vit_tiny_patch16_224", {"size": Head(2, "l1")})
