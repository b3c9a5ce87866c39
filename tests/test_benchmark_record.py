"""Statistics, records and their comparison, by hand; the memory of a process; the plot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from centernet.benchmark.command import main
from centernet.benchmark.compare import compare_files, compare_rows
from centernet.benchmark.machine import describe_machine, machine_line
from centernet.benchmark.plot import bars_of, plot_rows
from centernet.benchmark.record import FORMAT, VERSION, Record, Row, read_record, table
from centernet.benchmark.timing import PeakMemory, Spread, in_own_process, time_in_turns
from centernet.data.images import read_image
from centernet.errors import InputError
from tests.places import ROOT

MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 2, "load": 0.1, "versions": {"torch": "2"}}


def make_record(part: str = "model", **machine: Any) -> Record:
    record = Record(part, {"side": 64}, {**MACHINE, **machine})
    record.add_many({"network": "n", "batch": 1}, "time", "ms", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    record.add_many({"network": "n", "batch": 1}, "rate", "images/s", [10, 20, 30], "more")
    record.add({"network": "n"}, "parameters", "M", 2.5, "neither")
    return record


def test_a_spread_holds_percentiles_by_hand():
    spread = Spread.of([11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    assert spread == (11, 1, 2, 6, 10, 6)
    assert spread.share == pytest.approx(8 / 6)
    assert Spread.of([1, 3], "more").best == 3
    assert Spread.of([1, 3]).p10 == pytest.approx(1.2)  # between the two
    assert Spread.of([0.0, 0.0]).share == 0


def test_works_take_turns_and_the_warm_up_does_not_count():
    calls = []
    works = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    taken = time_in_turns(works, rounds=2, warmup=1, wait=lambda: calls.append("wait"))
    assert calls == ["a", "wait", "b", "wait"] * 3
    assert {name: len(values) for name, values in taken.items()} == {"a": 2, "b": 2}


def test_times_are_milliseconds():
    (taken,) = time_in_turns({"": lambda: time.sleep(0.02)}, rounds=1, warmup=0).values()
    assert 20 <= taken[0] < 2000


def test_the_memory_of_a_process_grows_by_what_it_writes():
    watched = PeakMemory()
    content = np.ones(64 * 2**20, np.uint8)
    assert 60 < watched.growth() < 200
    del content
    assert watched.growth() > 60  # at its peak
    if Path("/proc/self/clear_refs").exists():
        assert PeakMemory().growth() < 30  # which is forgotten


@pytest.mark.slow
def test_a_process_that_is_ended_from_outside_is_told():
    assert in_own_process(abs, -3) == 3
    with pytest.raises(InputError, match="the process of a measurement was ended from outside; perhaps memory ran out"):
        in_own_process(os._exit, 9)
    with pytest.raises(TypeError):
        in_own_process(abs, "a")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for the process in /proc")
def test_a_measurement_that_is_killed_leaves_no_process_behind(tmp_path):
    shell = f"echo $PPID > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/pid; sleep 60"
    code = f"import os; from centernet.benchmark.timing import in_own_process; in_own_process(os.system, {shell!r})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as parent:
        wait_for((tmp_path / "pid").exists)
        child = int((tmp_path / "pid").read_text())
        assert is_running(child)
        parent.kill()
    wait_for(lambda: not is_running(child))


def wait_for(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # in a container that has nobody to ask how it ended


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = make_record()
    record.write(tmp_path / "a.json")
    again = read_record(tmp_path / "a.json")
    assert (again.part, again.settings, again.machine) == (record.part, record.settings, record.machine)
    assert again.rows == record.rows
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["format"], content["version"]) == (FORMAT, VERSION)
    first = content["rows"][0]
    assert first["labels"] == {"network": "n", "batch": 1}
    assert (first["value"], first["p10"], first["p50"], first["p90"], first["rounds"]) == (6, 2, 6, 10, 11)
    assert "p50" not in content["rows"][2]  # measured once


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("no json", "is not json; give a file that scripts/benchmark.py wrote with --json"),
        ("{}", "is not a benchmark; give a file that scripts/benchmark.py wrote with --json"),
        ("[1]", "is not a benchmark; give a file that scripts/benchmark.py wrote with --json"),
        (json.dumps({"format": FORMAT, "version": 99}), "has version 99 of the layout, and this is version 1"),
        (json.dumps({"format": FORMAT, "version": VERSION}), "is damaged (KeyError: 'rows'); measure again"),
        (json.dumps({"format": FORMAT, "version": VERSION, "rows": [{}]}), "is damaged (KeyError: 'better')"),
    ],
)
def test_other_files_are_refused_in_a_sentence(tmp_path, content, sentence):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError) as refused:
        read_record(tmp_path / "a.json")
    assert str(refused.value).startswith(f"{tmp_path / 'a.json'} {sentence}")


def test_a_missing_file_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match=r"absent.json cannot be read \(No such file or directory\)"):
        read_record(tmp_path / "absent.json")


def timed(values: list[float], better: str = "less", name: str = "n") -> Row:
    quantity, unit = ("time", "ms") if better == "less" else ("rate", "images/s")
    return Row({"network": name}, quantity, unit, Spread.of(values).p50, better, Spread.of(values))


def once(value: float, better: str = "less") -> Row:
    return Row({"network": "n"}, "time" if better == "less" else "parameters", "s", value, better)


@pytest.mark.parametrize(
    ("first", "second", "ratio", "verdict"),
    [
        (timed([10, 10, 11]), timed([5, 5, 5]), 0.5, "better"),
        (timed([5, 5, 5]), timed([10, 10, 11]), 2, "worse"),
        (timed([5, 5, 5], "more"), timed([10, 10, 11], "more"), 2, "better"),
        (timed([10, 10, 11], "more"), timed([5, 5, 5], "more"), 0.5, "worse"),
        (timed([8, 10, 12]), timed([9, 11, 13]), 1.1, "same"),  # the ranges have values in common
        (timed([10, 10, 10]), timed([10, 10, 10]), 1, "same"),
        (once(10), once(5), 0.5, "unknown"),  # no spread to judge by
        (timed([10]), timed([5, 5, 5]), 0.5, "unknown"),
        (once(10, "neither"), once(5, "neither"), 0.5, "changed"),
        (once(10, "neither"), once(10, "neither"), 1, "same"),
    ],
)
def test_a_change_is_one_beyond_the_spread(first, second, ratio, verdict):
    (change,) = compare_rows([first], [second])
    assert change.ratio == pytest.approx(ratio)
    assert change.verdict == verdict


def test_only_what_both_have_is_compared():
    assert not compare_rows([timed([1], name="a")], [timed([1], name="b")])
    first = [timed([1], name="a"), timed([1], name="b")]
    assert [change.first.labels["network"] for change in compare_rows(first, first[::-1])] == ["a", "b"]


def test_two_files_are_compared(tmp_path, capsys):
    make_record().write(tmp_path / "a.json")
    other = make_record(threads=1)
    other.rows[0] = timed([1, 1, 1], name="x")
    other.rows[1] = Row(other.rows[1].labels, "rate", "images/s", 40.0, "more", Spread.of([40, 40, 40], "more"))
    other.write(tmp_path / "b.json")
    main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"model: A = {tmp_path}/a.json (20")
    assert "machine: threads is 2 in A and 1 in B" in told
    assert not any("load" in line for line in told)
    rate = next(line for line in told if line.startswith("n batch 1 rate"))
    assert rate.split()[4:] == ["20.00", "40.00", "images/s", "2.000", "better"]
    assert "only in A: n batch 1 time" in told
    assert "only in B: x time" in told


def test_files_of_different_parts_are_refused_in_a_sentence(tmp_path):
    for part in ("model", "decode"):
        make_record(part).write(tmp_path / f"{part}.json")
    with pytest.raises(InputError) as refused:
        compare_files(str(tmp_path / "model.json"), str(tmp_path / "decode.json"))
    assert str(refused.value) == (
        f"{tmp_path}/model.json measures model and {tmp_path}/decode.json measures decode; "
        "compare two files of the same part"
    )


def test_files_with_nothing_in_common_are_refused_in_a_sentence(tmp_path):
    make_record().write(tmp_path / "a.json")
    other = make_record()
    other.rows = [timed([1], name="x")]
    other.write(tmp_path / "b.json")
    with pytest.raises(InputError, match="have no measurement in common; compare runs of the same things"):
        compare_files(str(tmp_path / "a.json"), str(tmp_path / "b.json"))


def test_the_table_marks_a_large_spread():
    quiet, noisy = timed([10, 10, 10], name="quiet"), timed([5, 10, 15], name="noisy")
    lines = table([quiet, noisy, once(3.0, "neither")]).splitlines()
    assert lines[1].split() == ["quiet", "10.00", "ms", "10.00", "10.00", "0%"]
    assert lines[2].split() == ["noisy", "10.00", "ms", "6.00", "14.00", "80%", "!"]
    assert lines[3].split() == ["n", "parameters", "3.00", "s"]
    assert lines[4].startswith("!  spread above 10%")
    assert "!" not in table([quiet])


def test_the_machine_is_described():
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert {"torch", "numpy"} <= machine["versions"].keys()
    json.dumps(machine)
    line = machine_line({**machine, "load": 3.0})
    assert f"{machine['cores']} cores, {machine['threads']} threads" in line
    assert line.endswith("load 3 before the start")
    assert "load" not in machine_line({**machine, "load": 0.1})


def test_parts_are_in_the_bar_of_their_whole():
    def part(name: str, value: float) -> Row:
        return Row({"network": "n", "part": name}, "time", "ms", value)

    whole = Row({"network": "n", "part": "whole"}, "time", "ms", 5.0)
    bars = bars_of([part("read", 2.0), part("network", 3.0), whole, once(7.0)])
    assert [(bar.name, bar.row.value, bar.parts) for bar in bars] == [
        ("n", 5.0, [("read", 2.0), ("network", 3.0)]),
        ("n", 7.0, []),  # of another unit
    ]


def test_the_plot_is_a_picture_with_a_panel_for_each_quantity(tmp_path):
    few = plot_rows(make_record().rows[:1], "few", tmp_path / "few.png")
    all_ = plot_rows(make_record().rows, "all", tmp_path / "all.png")
    assert read_image(all_).shape[0] > read_image(few).shape[0]
    assert read_image(all_).std() > 10
    with pytest.raises(InputError, match="nothing was measured"):
        plot_rows([], "none", tmp_path / "none.png")
    with pytest.raises(InputError, match=r"cannot be written .*give a file such as plot.png"):
        plot_rows(make_record().rows, "all", tmp_path / "all.docx")
