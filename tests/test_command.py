"""How commands end: one sentence for bad input, "interrupted" and status 130 for Ctrl-C, wherever it comes."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from centernet import command as ending
from centernet.errors import InputError
from tests.places import ROOT
from tests.test_train import environment


def ended(main) -> int:
    with pytest.raises(SystemExit) as stop:
        ending.run_command(main)
    return stop.value.code


def test_bad_input_is_one_sentence_and_status_2(capfd):
    def main() -> None:
        raise InputError("there is\nnothing; give something")

    assert ended(main) == 2
    assert capfd.readouterr() == ("", "error: there is nothing; give something\n")


def test_ctrl_c_is_one_word_and_status_130(capfd):
    def main() -> None:
        print("half a line", end="")
        raise KeyboardInterrupt

    assert ended(main) == 130
    assert capfd.readouterr() == ("half a line", "\ninterrupted\n")


def test_what_lightning_makes_of_ctrl_c_ends_in_the_same_way(capfd):
    def main() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    assert ended(main) == 130
    assert capfd.readouterr().err == "\ninterrupted\n"


LEFT_BEHIND = """
import atexit, gc, sys
from centernet.command import run_command

class Writer:
    def __init__(self):
        self.itself = self  # only a search for garbage finds it
    def __del__(self):
        open(sys.argv[1], "w").write("the end")

def main():
    gc.disable()
    Writer()

atexit.register(lambda: print(gc.get_freeze_count()))  # after all that is registered later
{}
run_command(main)
"""


def left_behind(tmp_path: Path, loaded: str) -> int:
    """How many objects the interpreter leaves uncollected at its end."""
    code = LEFT_BEHIND.format(loaded)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("lines", [1, 100_000])
def test_output_that_nobody_reads_ends_a_command_without_a_word(lines):
    code = f"from centernet.command import run_command; run_command(lambda: print('a line\\n' * {lines}))"
    command = f'({sys.executable} -c "import time; time.sleep(0.5); {code}"; echo status $? >&2) | true'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == "status 141\n"


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_that_ends_by_itself_keeps_its_status_when_nobody_reads(code):
    lines = "import sys, time\ntime.sleep(0.5)\nfrom centernet.command import run_command\n"
    lines += f"def main():\n    print('a line')\n    sys.exit({code})\nrun_command(main)\n"
    command = f"({sys.executable} -c '{lines.replace(chr(39), chr(34))}'; echo status $? >&2) | true"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=buffered)
    assert done.stderr == f"status {code}\n"


def test_a_command_without_any_output_stream_ends_well():
    code = "from centernet.command import run_command; run_command(lambda: print('a line'))"
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" >&-'], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_broken_pipe_is_an_error_as_ever():
    def main() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        ending.run_command(main)


def test_what_a_command_leaves_behind_is_collected_and_all_imports_are_not_searched_again(tmp_path):
    assert left_behind(tmp_path, "") > 1000
    assert (tmp_path / "file").read_text() == "the end"


def test_with_triton_whose_types_want_to_be_collected_everything_is(tmp_path):
    assert left_behind(tmp_path, "sys.modules['triton'] = sys") == 0


@pytest.mark.parametrize("code", [0, 1, 3, "error: some"])
def test_other_ends_stay_what_they_are(code):
    def main() -> None:
        sys.exit(code)

    assert ended(main) == code


def test_ctrl_c_during_imports_ends_the_process_at_once(capfd, monkeypatch):
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as stop, ending.imports():
            signal.raise_signal(signal.SIGINT)
        assert stop.value.code == 130
        assert capfd.readouterr().err == "\ninterrupted\n"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        # A command in the background of a shell ignores Ctrl-C.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with ending.imports():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_hidden_module_is_not_found_meanwhile_and_is_afterward(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "heavy_module.py").write_text("weight = 7")
    with ending.hidden("heavy_module"), pytest.raises(ImportError):
        importlib.import_module("heavy_module")
    with ending.hidden("heavy_module", "weight"):
        assert importlib.import_module("heavy_module").weight is None
    assert importlib.import_module("heavy_module").weight == 7
    with ending.hidden("heavy_module"):
        assert importlib.import_module("heavy_module").weight == 7
    sys.modules.pop("heavy_module")


@pytest.mark.slow
def test_a_training_imports_nothing_large_without_need(tmp_path):
    code = (
        "import sys\n"
        "from centernet import app\n"
        "app._quiet()\n"
        "print(sorted({'wandb', 'scipy.signal', 'scipy.stats', 'tensorboard', 'pandas'} & set(sys.modules)))\n"
        "import scipy.signal, wandb\n"
        "print(callable(scipy.signal.convolve), callable(wandb.init))"
    )
    environ = {**environment(), "PYTHONPATH": str(ROOT)}
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert (shown.returncode, shown.stdout) == (0, "[]\nTrue True\n"), shown.stderr


@pytest.mark.parametrize("words", [["train.py"], ["eval.py", "ckpt=FILE"], ["scripts/demo.py", "FILE", "FILE"]])
def test_ctrl_c_at_the_start_of_every_command_says_so(tmp_path, words):
    (tmp_path / "FILE").touch()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / words[0]), *words[1:]],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A test run in the background of a shell ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        if imports_torch(process.pid):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "\ninterrupted\n")


def imports_torch(pid: int) -> bool:
    """Whether a process has begun to import torch."""
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
