"""scripts/convert_checkpoint.py: what it writes is an ordinary checkpoint."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from centernet.data.transforms import eval_pipeline, warp_image
from centernet.detector import NORMALIZATIONS
from centernet.fields import unbatch
from centernet.inference import Predictor
from centernet.models import CenterNet, build_network
from centernet.models.convert import convert_checkpoint
from centernet.models.originals import HEADS
from centernet.module import load_module
from centernet.structures import HEATMAP_BIAS, Head
from centernet.tasks.base import build_task
from tests.places import ROOT

NAMES = ["cat", "dog", "cow"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    script = ROOT / "scripts" / "convert_checkpoint.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    runpy.run_path(str(script), run_name="__main__")


def write_original(path: Path) -> CenterNet:
    """A file as the original repository writes it, and the network that it comes from (which reads BGR)."""
    torch.manual_seed(0)
    heads = {
        "heatmap": Head(len(NAMES), "focal", bias=HEATMAP_BIAS),
        "size": Head(2, "l1", bias=20.0),
        "offset": Head(2, "l1"),
    }
    net = build_network("resnet18", heads).eval()
    # A fresh network says the same everywhere; this one has an order of peaks that rounding does not change.
    for layer in net.neck.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.05)
    state: dict[str, Tensor] = {}
    names = {
        "backbone.body.": "",
        "neck.layers.": "deconv_layers.",
        "head.stacks.0.heatmap.": "hm.",
        "head.stacks.0.size.": "wh.",
        "head.stacks.0.offset.": "reg.",
    }
    for key, value in net.state_dict().items():
        ours = next(prefix for prefix in names if key.startswith(prefix))
        state[f"module.{names[ours]}{key.removeprefix(ours)}"] = value
    torch.save({"epoch": 140, "state_dict": state}, path)
    return net


def test_a_converted_file_predicts_what_its_maps_decode_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "model_best.pth", tmp_path / "new" / "model.ckpt"
    bgr_network = write_original(source)
    run(monkeypatch, source, out, "--classes", *NAMES, "--resolution", 96, 128, "--mode", "fit")
    printed = capsys.readouterr().out
    assert "resnet18, task ctdet, 3 classes: 150 tensors matched" in printed
    assert "predicts in mode fit at 96x128" in printed

    image = np.random.default_rng(0).integers(0, 256, (110, 150, 3), dtype=np.uint8)
    predictor = Predictor.from_checkpoint(out, device="cpu")
    found = predictor(image)

    # By hand: the original's network sees BGR, normalized in BGR.
    pixels, matrix = warp_image(eval_pipeline((96, 128), "fit", 32), image)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALIZATIONS["coco"])
    with torch.inference_mode():
        maps = bgr_network(((pixels / 255 - mean) / std).flip(0)[None])[-1]
    task = build_task("ctdet", len(NAMES))
    (expected,) = unbatch(task.lift(task.detect(maps), {"input_from_image": matrix[None]}), 0.0)
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["boxes"], expected["boxes"], rtol=1e-3, atol=1e-2)
    assert found["names"] == [NAMES[label] for label in expected["labels"].tolist()]


def test_a_converted_file_is_read_like_one_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = tmp_path / "model_best.pth", tmp_path / "model.ckpt"
    write_original(source)
    run(monkeypatch, source, out)
    module, evaluation = load_module(out)
    assert module.class_names == ["0", "1", "2"]
    assert evaluation == {"resolution": [512, 512], "mode": "keep", "divisor": 32}
    weights = convert_checkpoint(source).state_dict
    assert all(torch.equal(value, weights[name]) for name, value in module.detector.network.state_dict().items())


def test_bad_input_is_one_sentence_and_a_failing_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, out = tmp_path / "none.pth", tmp_path / "out.ckpt"
    for source, target, sentence in (
        (original, out, f"{original}: the file does not exist; give a checkpoint"),
        (__file__, tmp_path, f"OUT={tmp_path} is a folder; give the name of a file"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(monkeypatch, source, target)
        assert stop.value.code == 2
        assert capsys.readouterr().err == f"error: {sentence}\n"
    assert not out.exists()


def write_original_of(task: str, path: Path, **options: Any) -> CenterNet:
    """As ``write_original``, with the heads of another task."""
    torch.manual_seed(0)
    net = build_network("resnet18", build_task(task, 3, **options).heads).eval()
    for layer in net.neck.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, std=0.05)
    theirs = {ours: name for name, ours in HEADS.items()}
    state: dict[str, Tensor] = {}
    for key, value in net.state_dict().items():
        if key.startswith("head.stacks.0."):
            head, _, rest = key.removeprefix("head.stacks.0.").partition(".")
            state[f"{theirs[head]}.{rest}"] = value
        else:
            state[key.removeprefix("backbone.body.").replace("neck.layers.", "deconv_layers.")] = value
    torch.save({"state_dict": state}, path)
    return net


@pytest.mark.parametrize(
    ("task", "options", "size", "mode"),
    [
        ("multi_pose", {}, [512, 512], "keep"),
        ("multi_pose", {"joint_offset": None}, [512, 512], "keep"),
        ("multi_pose", {"joint_heatmap": None, "offset": None}, [512, 512], "keep"),
        ("multi_pose", {"facts": {"joints": {"names": ["joint_0", "joint_1"]}}}, [512, 512], "keep"),
        ("ddd", {}, [384, 1280], "width"),
        ("ddd", {"size": None}, [384, 1280], "width"),
    ],
    ids=str,
)
def test_pose_and_3d_checkpoints_become_ordinary_ones(task, options, size, mode, tmp_path, monkeypatch):
    source, out = tmp_path / "model_best.pth", tmp_path / "model.ckpt"
    bgr_network = write_original_of(task, source, **options)
    run(monkeypatch, source, out)
    module, evaluation = load_module(out)
    assert (module.task.name, module.task.heads) == (task, build_task(task, 3, **options).heads)
    assert evaluation == {"resolution": size, "mode": mode, "divisor": 32}
    image = np.random.default_rng(0).integers(0, 256, (60, 150, 3), dtype=np.uint8)
    camera = np.array([[100.0, 0, 75, 1], [0, 100, 30, 0], [0, 0, 1, 0.01]])
    predictor = Predictor.from_checkpoint(out, resolution=[64, 160], device="cpu")
    found = predictor(image, **({"calibration": camera} if task == "ddd" else {}))

    pixels, matrix = warp_image(eval_pipeline((64, 160), mode, 32), image)
    normalization = "coco" if task == "multi_pose" else "imagenet_swapped"
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in NORMALIZATIONS[normalization])
    with torch.inference_mode():
        maps = bgr_network(((pixels / 255 - mean) / std).flip(0)[None])[-1]
    batch = {"input_from_image": matrix[None], "calibration": torch.from_numpy(camera)[None]}
    (expected,) = unbatch(module.task.lift(module.task.detect(maps), batch), 0.0)
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-4, atol=1e-5)
    extra = "joints" if task == "multi_pose" else "location"
    torch.testing.assert_close(found[extra][:5], expected[extra][:5], rtol=1e-3, atol=1e-2)
