"""Weights from a file: a line says how many tensors matched, and nothing that does not fit passes in silence."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from centernet.detector import build_detector
from centernet.errors import InputError
from centernet.models import build_network
from centernet.module import CtdetModule
from centernet.structures import Head
from tests import tiny

HEADS = {"size": Head(2, "l1")}
BODY = tiny.NETWORK["name"]


def weights_of(name: str = BODY) -> dict[str, Tensor]:
    """A classifier's weights, with other values than those of any initialization."""
    return {key: torch.full_like(value, 0.5) for key, value in timm.create_model(name).state_dict().items()}


def is_taken(network: nn.Module) -> bool:
    return all(
        bool((value == 0.5).all()) for name, value in network.backbone.named_parameters() if "num_batches" not in name
    )


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this package said, not timm."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("centernet")]


def save(folder: Path, content: object, name: str = "weights.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w}, lambda w: {"model": w, "epoch": 3}])
def test_a_line_says_how_many_tensors_of_a_file_matched(tmp_path, caplog, wrap):
    path = save(tmp_path, wrap(weights_of()))
    with caplog.at_level(logging.INFO, "centernet"):
        network = build_network(tiny.NETWORK, HEADS, path)
    assert is_taken(network)
    (line,) = lines(caplog)
    count = line.split(": ")[1].split(" ")[0]
    assert int(count) > 30
    assert line.startswith(
        f"pretrained={path}: {count} of {count} tensors of {BODY} matched; not used: 5 of the file ("
    )


def test_safetensors_are_read_too(tmp_path, caplog):
    save_file(weights_of(), tmp_path / "weights.safetensors")
    with caplog.at_level(logging.INFO, "centernet"):
        assert is_taken(build_network(tiny.NETWORK, HEADS, tmp_path / "weights.safetensors"))
    assert "tensors of test_efficientnet matched" in caplog.text


def test_what_is_missing_and_what_is_not_used_is_named(tmp_path, caplog):
    weights = {name: value for name, value in weights_of().items() if name != "conv_stem.weight"}
    path = save(tmp_path, {**weights, "neck.weight": torch.zeros(3)})
    with caplog.at_level(logging.INFO, "centernet"):
        build_network(tiny.NETWORK, HEADS, path)
    (line,) = lines(caplog)
    assert "; as initialized: conv_stem.weight; not used: 6 of the file (conv_head.weight, bn2.weight, " in line


def test_a_file_of_which_nothing_fits_is_refused_with_what_was_looked_for_and_found(tmp_path):
    path = save(tmp_path, {f"encoder.{name}": value for name, value in weights_of().items()})
    with pytest.raises(InputError) as raised:
        build_network(tiny.NETWORK, HEADS, path)
    said = str(raised.value)
    assert said.startswith(f"pretrained={path}: none of the ")
    assert "looked for conv_stem.weight, bn1.weight, bn1.bias, ...; found encoder.conv_stem.weight, " in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"hm.0.weight": torch.zeros(1)}, r"found hm\.0\.weight; .*convert it with scripts/convert_checkpoint\.py"),
        ({"detector.network.a": torch.zeros(1)}, r"is a checkpoint of this project, .*: call it NAME\.ckpt"),
        ({}, "found nothing; give weights of this network"),
        ({"conv_stem.weight": torch.zeros(1, 2, 3)}, r"does not fit 'test_efficientnet' \(.*conv_stem.weight"),
        ([1, 2], "does not fit 'test_efficientnet'"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as raised:
        build_network(tiny.NETWORK, HEADS, save(tmp_path, content))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"no checkpoint", b"PK\x03\x04 cut", b""])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pth: the file is ") as raised:
        build_network(tiny.NETWORK, HEADS, tmp_path / "weights.pth")
    assert "\n" not in str(raised.value)


def test_loading_is_not_watched_afterward(tmp_path):
    original = nn.Module.load_state_dict
    with pytest.raises(InputError):
        build_network(tiny.NETWORK, HEADS, save(tmp_path, {}))
    assert nn.Module.load_state_dict is original


def test_a_module_starts_from_a_checkpoint_by_the_names_of_classes(tmp_path, caplog):
    old = CtdetModule(class_names=["cat", "dog"], backbone=tiny.NETWORK)
    tiny.enliven(old.detector.network)
    content = {"state_dict": old.state_dict(), "pytorch-lightning_version": "2.6.0"}
    old.on_save_checkpoint(content)
    path = save(tmp_path, content, "best.ckpt")
    with caplog.at_level(logging.INFO, "centernet"):
        new = CtdetModule(class_names=["dog", "cow"], backbone=tiny.NETWORK, pretrained=path)
    assert f"pretrained={path}: copied " in caplog.text
    assert "head rows copied by class name: dog; new classes, as initialized: cow" in caplog.text
    mine, theirs = (module.detector.network.head.stacks[0]["heatmap"][-1].weight for module in (new, old))
    assert torch.equal(mine[0], theirs[1])
    assert new.hparams["pretrained"] == str(path)
    with pytest.raises(InputError, match="are matched by their names; give class_names"):
        CtdetModule(num_classes=2, backbone=tiny.NETWORK, pretrained=path)
    with pytest.raises(InputError, match=r"best\.ckpt: no tensor of the checkpoint's backbone fits this one"):
        CtdetModule(class_names=["dog"], backbone={**tiny.NETWORK, "name": "test_resnet"}, pretrained=path)


def test_random_weights_need_no_line(caplog):
    with caplog.at_level(logging.INFO, "centernet"):
        build_detector("ctdet", 2, tiny.NETWORK)
    assert not lines(caplog)
