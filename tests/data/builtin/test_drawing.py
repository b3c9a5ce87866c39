"""Folders that data draws itself into: whole or not at all, for any number of processes at once."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from centernet.data.builtin import drawing
from centernet.errors import InputError

PROCESSES = 4


def draw_split(draft: Path, split: drawing.Split) -> None:
    """Quick scenes in COCO's layout. The processes import this file, so that it imports little itself."""
    scenes = split.scenes(lambda rng: (drawing.draw_background(rng, 64, 64), []))
    drawing.write_coco_split(draft, split, scenes, [])


def draw_with_others(barrier, answers, folder: str) -> None:
    """Twice, with other counts: draw when all are ready; what is found right afterward is the answer."""
    for train in (5, 3):
        barrier.wait()
        try:
            drawn = drawing.draw_splits("dots", 1, draw_split, folder, train=train, val=1)
            answers.put([str(path.relative_to(drawn)) for path in sorted(drawn.rglob("*")) if path.is_file()])
        except BaseException as error:
            answers.put(repr(error))
        barrier.wait()  # nobody replaces the folder while others look at it


@pytest.mark.slow
def test_processes_that_draw_at_once_all_find_one_whole_folder(tmp_path):
    folder = tmp_path / "data" / "dots"
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(PROCESSES, timeout=120), spawn.Queue()
    started = [spawn.Process(target=draw_with_others, args=(barrier, answers, str(folder))) for _ in range(PROCESSES)]
    for process in started:
        process.start()
    found = [answers.get(timeout=150) for _ in range(2 * PROCESSES)]
    for process in started:
        process.join(timeout=60)
    assert [process.exitcode for process in started] == [0] * PROCESSES
    for n, train in enumerate((5, 3)):
        whole = ["annotations/instances_train.json", "annotations/instances_val.json", "drawn.json"]
        whole += [f"train/train_{image:05d}.jpg" for image in range(train)] + ["val/val_00000.jpg"]
        assert found[n * PROCESSES : (n + 1) * PROCESSES] == [whole] * PROCESSES
    assert os.listdir(folder.parent) == ["dots"]  # no drafts are left


def test_who_finishes_second_takes_the_folder_of_the_first(tmp_path):
    wanted = {"kind": "dots", "version": 1}

    def draw_while_another_is_faster(draft: Path) -> None:
        (draft / "who").write_text("second")
        drawing.draw_once(tmp_path / "dots", wanted, lambda other: (other / "who").write_text("first"))

    folder = drawing.draw_once(tmp_path / "dots", wanted, draw_while_another_is_faster)
    assert (folder / "who").read_text() == "first"
    assert os.listdir(tmp_path) == ["dots"]


def test_who_finishes_second_and_wants_something_else_replaces_it(tmp_path):
    def draw_while_another_is_faster(draft: Path) -> None:
        (draft / "who").write_text("second")
        drawing.draw_once(
            tmp_path / "dots", {"kind": "dots", "train": 3}, lambda other: (other / "who").write_text("first")
        )

    folder = drawing.draw_once(tmp_path / "dots", {"kind": "dots", "train": 4}, draw_while_another_is_faster)
    assert (folder / "who").read_text() == "second"
    assert os.listdir(tmp_path) == ["dots"]


def test_a_folder_that_was_drawn_with_other_counts_is_drawn_anew(tmp_path):
    from centernet.data.builtin.shapes import ShapesDataModule

    data = ShapesDataModule(root=tmp_path / "shapes", train_count=3, val_count=1)
    data.prepare_data()
    data = ShapesDataModule(root=tmp_path / "shapes", train_count=2, val_count=2)
    data.prepare_data()
    assert len(list((tmp_path / "shapes" / "train").iterdir())) == 2
    assert json.loads((tmp_path / "shapes" / "drawn.json").read_text())["val"] == 2
    assert os.listdir(tmp_path) == ["shapes"]


def test_what_a_killed_process_left_behind_is_in_nobodys_way(tmp_path):
    for name in (".shapes.draft", ".shapes.k3v_x1"):
        (tmp_path / name / "new").mkdir(parents=True)
        (tmp_path / name / "new" / "half.jpg").touch()
    folder = drawing.draw_splits("shapes", 1, draw_split, tmp_path / "shapes", train=2, val=1)
    assert (folder / "drawn.json").is_file()


def test_an_empty_folder_is_taken_and_everybody_may_read_what_was_drawn(tmp_path):
    (tmp_path / "shapes").mkdir()
    usual = (tmp_path / "shapes").stat().st_mode
    folder = drawing.draw_splits("shapes", 1, draw_split, tmp_path / "shapes", train=1, val=1)
    assert folder.stat().st_mode == usual


@pytest.mark.parametrize("stamp", [None, {"kind": "figures", "version": 1}])
def test_what_something_else_put_there_stays(tmp_path, stamp):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "holiday.jpg").touch()
    if stamp:
        (folder / "drawn.json").write_text(json.dumps(stamp))
    message = "holds figures, not shapes" if stamp else "not empty and was not drawn by this package"
    with pytest.raises(InputError, match=message):
        drawing.draw_splits("shapes", 1, draw_split, folder, train=1, val=1)
    assert (folder / "holiday.jpg").exists()


def test_a_drawing_that_fails_leaves_nothing_behind(tmp_path):
    def fail(draft: Path) -> None:
        (draft / "half.jpg").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawing.draw_once(tmp_path / "dots", {"kind": "dots"}, fail)
    assert not os.listdir(tmp_path)
