"""scripts/evaluate_kitti.py: what it prints, what it writes, what it says about bad input."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.places import ROOT

CAR = "Car 0.00 0 0.30 {x}.00 100.00 {right}.00 160.00 1.50 1.60 3.90 {x}.00 1.50 20.00 0.40"
NOT_CARED_FOR = "DontCare -1 -1 -10 0.00 0.00 50.00 50.00 -1 -1 -1 -1000 -1000 -1000 -10"


def car(x: int, score: float | None = None, name: str = "Car") -> str:
    row = CAR.format(x=x, right=x + 80).replace("Car", name, 1)
    return row if score is None else f"{row} {score}"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Four labels; results for three of them, one of which is empty."""
    labels, results = tmp_path / "label_2", tmp_path / "results"
    labels.mkdir()
    results.mkdir()
    texts = [f"{car(0)}\n{car(100)}\n", "", f"{NOT_CARED_FOR}\n{car(200, name='Van')}\n", car(300)]
    for frame, text in enumerate(texts):
        (labels / f"{frame:06d}.txt").write_text(text)
    (results / "000000.txt").write_text(f"{car(0, 0.9)}\n{car(100, 0.8, 'car')}\n{car(500, 0.1, 'Tram')}\n")
    (results / "000001.txt").write_text("")
    (results / "000002.txt").write_text(f"{car(200, 0.95)}\n")
    (results / "readme.txt").write_text("not a result")
    return labels, results


@pytest.fixture
def script(monkeypatch, capsys) -> Callable[..., tuple[int | str, str]]:
    def call(*arguments: object) -> tuple[int | str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate_kitti.py", *map(str, arguments)])
        code: int | str = 0
        try:
            runpy.run_path(str(ROOT / "scripts" / "evaluate_kitti.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return err.strip() if code == 2 else code, out

    return call


def test_it_prints_the_table_and_a_row_per_class(script, folders):
    code, output = script(*folders)
    assert code == 0
    lines = [line.split() for line in output.splitlines()]
    assert output.startswith(f"3 of 4 labeled frames, those with a file in {folders[1]}; overlap official\nnote: ")
    # Two hits make two of the 41 recalls: 1 of 11, 1 of 40. The van costs nothing, the frame without results neither.
    for measure in ("2D", "AOS", "BEV", "3D"):
        assert ["Car", measure, *["2.50"] * 3, *["9.09"] * 3] in lines
    assert ["Car", "2", *["2.50"] * 4] in lines
    assert "2 classes without objects are not shown" in output
    assert "Cyclist" not in output
    assert "Pedestrian" not in output
    assert ["mean", *["2.50"] * 4] in lines


def test_it_writes_all_numbers_as_json(script, folders, tmp_path):
    target = tmp_path / "new" / "numbers.json"
    code, _ = script(*folders, "--json", target, "--overlap", "relaxed", "--classes", "car")
    content = json.loads(target.read_text())
    assert code == 0
    assert (content["frames"], content["overlap"]) == (3, "relaxed")
    assert content["results"]["car_3d_moderate_R40"] == pytest.approx(0.025)
    assert content["per_class"]["Car"]["objects"] == 2
    assert list(content["per_class"]) == ["Car"]
    script(*folders, "--json", target, "--classes", "Cyclist")
    assert json.loads(target.read_text())["results"]["cyclist_2d_easy_R11"] is None


def test_results_may_lie_in_a_folder_called_data(script, folders, tmp_path):
    labels, results = folders
    _, wanted = script(labels, results)
    outer = tmp_path / "run"
    outer.mkdir()
    results.rename(outer / "data")
    code, output = script(labels, outer)
    assert code == 0
    assert output.splitlines()[1:] == wanted.splitlines()[1:]


def test_missing_folders_and_files_are_named(script, folders, tmp_path):
    labels, results = folders
    empty = tmp_path / "empty"
    empty.mkdir()
    absent = tmp_path / "absent"
    assert script(absent, results)[0] == (
        f"error: {absent} is not a folder; give the folder that holds the labels, 000000.txt and so on"
    )
    assert script(labels, absent)[0] == (
        f"error: {absent} is not a folder; give the folder that holds the results, 000000.txt and so on"
    )
    assert script(labels, empty)[0] == (
        f"error: {empty} has no result files such as 000012.txt, directly or in data/; give their folder"
    )


def test_results_without_a_label_are_listed(script, folders):
    labels, results = folders
    for frame in ("000007", "000009"):
        (results / f"{frame}.txt").write_text("")
    assert script(labels, results)[0] == (
        f"error: {labels} has no label for 2 of 5 frames with results: 000007, 000009"
    )


def test_malformed_lines_are_named(script, folders):
    labels, results = folders
    (results / "000001.txt").write_text(f"{car(0, 0.5)}\n{car(0)}\n")
    assert "000001.txt, line 2 has 15 columns" in script(labels, results)[0]
    (results / "000001.txt").write_text("")
    (labels / "000001.txt").write_text(car(0).replace("1.60", "wide"))
    assert "000001.txt, line 1 has 'wide' as w" in script(labels, results)[0]


def test_classes_that_are_none_or_come_twice_are_named(script, folders):
    assert "error: --classes Bus is not a KITTI type; choose from Car, Van" in script(*folders, "--classes", "Bus")[0]
    assert script(*folders, "--classes", "Car", "car")[0] == "error: --classes Car appears twice; give every class once"


def test_a_json_that_cannot_be_written_is_named(script, folders, tmp_path):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "numbers.json"
    assert str(script(*folders, "--json", target)[0]).startswith(f"error: --json={target.parent} cannot be used: ")
