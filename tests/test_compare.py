"""The comparison with another detector: the data that it is given is ours, in its own format."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
import yaml

from centernet.data.coco import CocoDataModule
from tests.places import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "compare" / "yolo.py"))


def test_every_object_is_written_as_class_center_and_size(shapes, tmp_path):
    data = CocoDataModule(shapes, resolution=(64, 64))
    data.setup("fit")
    description = yaml.safe_load(SCRIPT["write_yolo"](data, tmp_path).read_text())
    assert list(description["names"].values()) == data.class_names
    for split, dataset in data.datasets.items():
        assert description[split] == f"images/{split}"
        for n, file in enumerate(dataset.files.tolist()):
            objects, (height, width) = dataset.objects(n), dataset.sizes[n].tolist()
            objects = {name: value[~objects["crowd"]] for name, value in objects.items()}
            lines = (tmp_path / "labels" / split / f"{Path(file).stem}.txt").read_text().splitlines()
            rows = torch.tensor([[float(word) for word in line.split()] for line in lines]).reshape(-1, 5)
            assert rows[:, 0].tolist() == objects["labels"].tolist()
            center, size = rows[:, 1:3], rows[:, 3:]
            boxes = torch.cat([center - size / 2, center + size / 2], 1) * torch.tensor([width, height] * 2)
            assert torch.allclose(boxes.double(), objects["boxes"], atol=1e-3)
            assert (tmp_path / "images" / split / Path(file).name).resolve() == Path(file).resolve()


def test_a_model_that_fails_is_said_in_a_sentence(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["yolo.py", str(shapes), "--out", str(tmp_path), "--environment", str(tmp_path / "e")]
    )
    folder = tmp_path / "e" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text("#!/bin/sh\nexit 3\n")
    (folder / "python").chmod(0o755)
    with pytest.raises(SystemExit) as ended:
        SCRIPT["main"]()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: yolo11n ended with status 3; its messages are above\n"


def test_what_it_finds_is_judged_by_our_metric(shapes, tmp_path, monkeypatch, capsys):
    data = CocoDataModule(shapes, resolution=(64, 64))
    data.setup("fit")
    val = data.datasets["val"]
    rows = [
        [val.objects(n)["boxes"].tolist(), [0.9] * len(val.objects(n)["labels"]), val.objects(n)["labels"].tolist()]
        for n in range(len(val))
    ]
    (tmp_path / "found.json").write_text(json.dumps({"rows": rows, "seconds": 1.0, "threads": 3}))
    folder = tmp_path / "e" / "bin"
    folder.mkdir(parents=True)
    told = 'printf "%s\\n%s" "$OMP_NUM_THREADS" "$3" > told'
    (folder / "python").write_text(f"#!/bin/sh\ncp {tmp_path}/found.json found.json\n{told}\n")
    (folder / "python").chmod(0o755)
    words = [str(shapes), "--out", str(tmp_path), "--environment", str(tmp_path / "e"), "--minutes", "1"]
    monkeypatch.setattr("sys.argv", ["yolo.py", *words, "--threads", "3"])
    SCRIPT["main"]()
    assert "3 threads, AP 1.000, AP50 1.000, AP75 1.000" in capsys.readouterr().out
    written = json.loads((tmp_path / "yolo11n_1min_0" / "metrics.json").read_text())
    assert written["metrics"]["AP"] == pytest.approx(1)
    assert written["threads"] == 3
    threads, given = (tmp_path / "yolo11n_1min_0" / "told").read_text().split("\n", 1)
    assert threads == "3"
    assert json.loads(given)["threads"] == 3


def test_data_that_is_not_there_is_said_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["yolo.py", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        SCRIPT["main"]()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")
