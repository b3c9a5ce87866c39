"""Settings that are ``auto``: what is chosen for which data and machine, and what is left as it was given."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from centernet import sizing
from centernet.errors import InputError
from centernet.models import build_network
from centernet.models.summary import build_counted, count_activations
from centernet.structures import Head
from tests.test_configs import compose_run


@pytest.fixture
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def on_a_gpu(on_a_cpu, monkeypatch):
    """One with 8 GiB."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=8 * 2**30))


def write_data(folder: Path, images: int, size: tuple[int, int], box: float, with_sizes: bool = True) -> Path:
    """A COCO data set of gray images (height, width) with a square box in each; both splits are the same."""
    height, width = size
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / split).mkdir()
        for n in range(images):
            Image.new("L", (width, height), n % 256).save(folder / split / f"{n}.png")
        announced = {"height": height, "width": width} if with_sizes else {}
        content = {
            "images": [{"id": n, "file_name": f"{n}.png", **announced} for n in range(images)],
            "annotations": [
                {
                    "id": n + 1,
                    "image_id": n,
                    "category_id": 1,
                    "bbox": [0, 0, box, box],
                    "area": box * box,
                    "iscrowd": 0,
                }
                for n in range(images)
            ],
            "categories": [{"id": 1, "name": "thing"}],
        }
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def settled(folder: Path, *overrides: str):
    cfg = compose_run(["data=coco", f"data.root={folder}", *overrides], settled=False)
    return cfg, sizing.settle(cfg)


def test_a_small_data_set_on_a_cpu_gets_the_light_network_and_many_epochs(on_a_cpu, tmp_path):
    cfg, chosen = settled(write_data(tmp_path, 20, (480, 640), 100))
    assert sizing.describe(chosen).splitlines() == [
        "chosen for this data and machine; KEY=VALUE on the command line changes it:",
        "  backbone=n            recommended without a GPU",
        "  pretrained=false      none for n",
        "  resolution=[256,320]  images of 640x480 pixels (width x height), reduced to 320 without a GPU",
        "  data.batch_size=4     for an epoch of 20 images",
        "  schedule.epochs=300   1500 steps, 5 per epoch",
    ]
    assert (cfg.backbone.name, cfg.pretrained, cfg.data.batch_size) == ("n", False, 4)
    assert list(cfg.data.resolution) == list(cfg.resolution) == [256, 320]
    assert cfg.trainer.max_epochs == cfg.schedule.epochs == 300


def test_with_a_time_limit_the_number_of_epochs_is_not_announced_as_if_it_decided(on_a_cpu, tmp_path):
    _, chosen = settled(write_data(tmp_path, 20, (480, 640), 100), "trainer.max_time=00:00:05:00")
    assert chosen[-1].reason == "for the warm-up only: trainer.max_time=00:00:05:00 ends the training"


def test_a_gpu_gets_a_larger_network_with_trained_weights_and_a_larger_input(on_a_gpu, tmp_path):
    cfg, chosen = settled(write_data(tmp_path, 600, (600, 800), 100))
    assert [str(choice) for choice in chosen] == [
        "backbone=m", "pretrained=true", "resolution=[480,640]", "data.batch_size=8", "schedule.epochs=40"
    ]  # fmt: skip
    assert cfg.schedule.backbone_lr_factor == sizing.TRAINED_RATE
    assert "as many as fit into memory" in chosen[3].reason


def test_what_is_given_is_left_alone(on_a_cpu, tmp_path):
    given = {"backbone": "resnet18", "pretrained": "false", "resolution": "[64,96]", "data.batch_size": "3"}
    words = [f"{key}={value}" for key, value in given.items()]
    cfg, chosen = settled(write_data(tmp_path, 6, (48, 64), 20), *words, "schedule.epochs=7")
    assert (cfg.backbone.name, cfg.pretrained, list(cfg.resolution), cfg.data.batch_size) == (
        "resnet18", False, [64, 96], 3
    )  # fmt: skip
    assert cfg.schedule.epochs == 7
    assert chosen == []


def test_nothing_is_read_where_everything_is_given():
    cfg = compose_run(
        ["experiment=ctdet_dla34", "data.root=nowhere", "trainer.check_val_every_n_epoch=1"], settled=False
    )
    assert sizing.settle(cfg) == []
    assert sizing.describe([]) == ""


@pytest.mark.parametrize(
    ("words", "trained", "factor"),
    [
        (["backbone=resnet18"], True, sizing.TRAINED_RATE),
        (["backbone=resnet18", "schedule.backbone_lr_factor=0.5"], True, 0.5),
        (["backbone=resnet18", "schedule=auto"], True, 1.0),
        (["backbone=resnet18", "pretrained=false"], False, 1.0),
        (["backbone=n"], False, 1.0),
        (["backbone=hourglass104"], False, 1.0),
    ],
)
def test_weights_are_asked_for_where_there_are_some_and_learn_more_slowly(words, trained, factor, on_a_cpu, tmp_path):
    cfg, _ = settled(write_data(tmp_path, 4, (64, 64), 20), *words)
    assert (cfg.pretrained, cfg.schedule.backbone_lr_factor) == (trained, factor)


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((480, 640), 100, [256, 320]),  # three quarters of 320 are 240, in the middle between two multiples
        ((1080, 1920), 400, [192, 320]),
        ((1920, 1080), 400, [320, 192]),
        ((1200, 1600), 20, [640 * 3 // 4, 640]),  # objects of 4 pixels at 320: larger, and larger again
        ((900, 1200), 24, [352, 480]),  # of 6.4 pixels: larger
        ((100, 100), 2, [96, 96]),  # never larger than the images
        ((20, 50), 10, [32, 64]),
    ],
)
def test_the_input_has_the_shape_of_the_images_and_shows_their_objects(size, box, expected, on_a_cpu, tmp_path):
    cfg, _ = settled(write_data(tmp_path, 2, size, box))
    assert list(cfg.resolution) == expected


def test_the_input_fits_the_network(on_a_cpu, tmp_path):
    cfg, _ = settled(write_data(tmp_path, 2, (480, 640), 100), "backbone=hourglass104")
    assert list(cfg.resolution) == [256, 384]


def test_sizes_that_the_annotations_lack_are_read_from_the_images(on_a_cpu, tmp_path):
    cfg, _ = settled(write_data(tmp_path, 3, (90, 160), 20, with_sizes=False))
    assert list(cfg.resolution) == [96, 160]


def test_a_missing_folder_is_named_as_ever(on_a_cpu):
    with pytest.raises(InputError, match=r"data.root=nowhere is not an existing folder"):
        settled(Path("nowhere"))


@pytest.mark.parametrize(
    ("images", "usual", "fitting", "processes", "batch"),
    [
        (10_000, 32, 1000, 1, 32),
        (10_000, 32, 20, 1, 16),
        (10_000, 32, 0, 1, 1),
        (292, 8, 1000, 1, 8),
        (292, 32, 1000, 1, 16),
        (292, 32, 1000, 4, 4),
        (5, 32, 1000, 1, 4),
    ],
)
def test_a_batch_fits_into_memory_and_leaves_an_epoch_some_steps(images, usual, fitting, processes, batch):
    assert sizing.choose_batch(images, usual, fitting, processes)[0] == batch


def test_where_only_tiny_batches_fit_their_gradients_are_accumulated(on_a_gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(sizing, "fitting_batch", lambda *_: 1)
    cfg, chosen = settled(write_data(tmp_path, 40, (64, 64), 20))
    assert (cfg.data.batch_size, cfg.trainer.accumulate_grad_batches) == (1, 4)
    assert "trainer.accumulate_grad_batches=4" in [str(choice) for choice in chosen]
    assert cfg.schedule.epochs == 300  # of 10 steps


def test_accumulated_gradients_count_as_one_step(on_a_cpu, tmp_path):
    cfg, _ = settled(write_data(tmp_path, 320, (32, 32), 20), "trainer.accumulate_grad_batches=4")
    assert cfg.data.batch_size == 8
    assert cfg.schedule.epochs == 300  # of 10 steps


@pytest.mark.parametrize(
    ("trainer", "environment", "processes"),
    [
        ({"devices": 1, "num_nodes": 1}, {}, 1),
        ({"devices": 4, "num_nodes": 2}, {}, 8),
        ({"devices": [0, 2], "num_nodes": 1}, {}, 2),
        ({"devices": 1, "num_nodes": 1}, {"WORLD_SIZE": "6"}, 6),
        ({"devices": 1, "num_nodes": 1}, {"SLURM_NTASKS": "3"}, 3),
        ({"devices": -1, "num_nodes": 2}, {}, 2),
    ],
)
def test_processes_are_counted_as_the_launcher_says(trainer, environment, processes, on_a_gpu, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert sizing.count_processes(trainer) == processes


def test_activations_are_the_outputs_of_all_layers():
    network = build_counted("n", {"heatmap": Head(3, "focal")})
    once, twice = (count_activations(network, (side, 64)) for side in (64, 128))
    assert twice == 2 * once
    real = build_network("n", {"heatmap": Head(3, "focal")})
    total = []
    for layer in real.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda *given: total.append(given[2].numel()))
    real.eval()(torch.zeros(1, 3, 64, 64))
    assert once == sum(total)


def test_a_run_records_what_was_chosen(on_a_cpu, tmp_path):
    cfg, _ = settled(write_data(tmp_path, 4, (64, 64), 20))
    assert "auto" not in {str(OmegaConf.select(cfg, key)) for key in sizing.KEYS}
    assert cfg.trainer.max_epochs == cfg.schedule.epochs
