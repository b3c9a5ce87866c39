"""The comparison with another detector: the data that it is given is ours, in its own format."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml

from centernet.benchmark.record import read_record
from centernet.data.coco import CocoDataModule
from centernet.errors import InputError
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
    assert written["share_lost"] == 0  # no record of epochs
    threads, given = (tmp_path / "yolo11n_1min_0" / "told").read_text().split("\n", 1)
    assert threads == "3"
    assert json.loads(given)["threads"] == 3


def test_epochs_of_the_other_package_take_the_time_between_its_rows(tmp_path):
    (tmp_path / "results.csv").write_text("epoch,      time, loss\n 1, 12.5, 5\n 2, 22.5, 4\n 3, 42.5, 3\n")
    assert SCRIPT["epochs"](tmp_path / "results.csv") == [12.5, 10, 20]


def test_data_that_is_not_there_is_said_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["yolo.py", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        SCRIPT["main"]()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


FAKE = """#!{python}
import json, os, sys
if "find_spec" in sys.argv[2]:
    sys.exit()
given = json.loads(sys.argv[3])
if "broken" in given["models"]:
    sys.exit(3)
print(json.dumps({{name: 2.5 for name in given["models"]}}), flush=True)
for line in sys.stdin:
    name, form, image = json.loads(line)
    assert os.path.isfile(image) and os.environ["OMP_NUM_THREADS"] == str(given["threads"])
    parts = {{"read": 1.0, "pre": 2.0, "network": 4.0 if form == "torch" else 3.0, "post": 0.5}}
    print(json.dumps(parts), flush=True)
"""


@pytest.fixture
def speed(tmp_path, monkeypatch):
    """`yolo_speed.py` with another package that is always equally fast; returns its main function with few rounds."""
    monkeypatch.syspath_prepend(ROOT / "scripts" / "compare")
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None, raising=False)
    python = tmp_path / "e" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE.format(python=sys.executable))
    python.chmod(0o755)
    script = runpy.run_path(str(ROOT / "scripts" / "compare" / "yolo_speed.py"))

    def run(*words: object) -> None:
        few = ["--environment", str(tmp_path / "e"), "--rounds", "2", "--warmup", "1", "--size", "64"]
        few += ["--ours", "test_efficientnet", "--our-forms", "fused"]
        monkeypatch.setattr("sys.argv", ["yolo_speed.py", *few, *map(str, words)])
        threads = torch.get_num_threads()
        script["main"]()
        torch.set_num_threads(threads)

    return run


def test_both_detectors_are_timed_by_part_on_the_same_images(speed, tmp_path, capsys):
    speed("--models", "yolo11n", "--forms", "torch", "openvino", "--json", tmp_path / "speed.json", "--threads", 1)
    record = read_record(tmp_path / "speed.json")
    found = {
        (row.labels["network"], row.labels["form"], row.labels["part"]): row
        for row in record.rows
        if row.quantity == "time"
    }
    assert found["yolo11n", "torch", "whole"].value == pytest.approx(7.5)
    assert found["yolo11n", "openvino", "network"].value == 3
    ours = found["test_efficientnet", "fused", "whole"]
    assert ours.spread.rounds == 2
    assert ours.value > found["test_efficientnet", "fused", "network"].value > 0
    assert [row.value for row in record.rows if row.quantity == "parameters"] == [2.5]
    told = capsys.readouterr().out
    assert told.index("yolo11n                 openvino") < told.index(
        "yolo11n                 torch"
    )  # the fastest first


def test_what_cannot_be_compared_is_said_in_a_sentence(speed, tmp_path):
    with pytest.raises(InputError, match="ultralytics ended with status 3; its messages are above"):
        speed("--models", "broken", "--forms", "torch")
    with pytest.raises(InputError, match="--threads 0 is not possible; this process may use 1 to"):
        speed("--threads", 0)
    with pytest.raises(InputError, match="--rounds must be at least 1"):
        speed("--rounds", 0)
