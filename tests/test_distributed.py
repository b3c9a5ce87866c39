"""Several processes are one run, whatever starts them: one folder, one log, one set of numbers, one end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from centernet.module import CtdetModule
from tests import tiny
from tests.places import ROOT
from tests.test_module import SHAPES
from tests.test_train import SHORT, environment, read_json, rows_of, start

pytestmark = pytest.mark.slow

TWO = [*SHORT, "trainer=ddp_cpu", "data.batch_size=4"]


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def launch(folder: Path, words: list[str], **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={**environment(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def torchrun(*options: str) -> list[str]:
    return ["-m", "torch.distributed.run", *options, str(ROOT / "train.py")]


def slurm(rank: int) -> dict[str, str]:
    """What srun tells the processes of one node."""
    return {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "train",
        "SLURM_NODELIST": "127.0.0.1",
    }


AGENT = re.compile(r"[EWI]\d{4} \d\d:\d\d:\d\d\.\d+ .*torch/distributed/elastic/")


def launch_two(launcher: str, folder: Path, words: list[str]) -> str:
    """Start the same training in two processes; returns what they print."""
    port, script = free_port(), str(ROOT / "train.py")
    each = [*words, "trainer.devices=1", "trainer.num_nodes=2"]
    nodes = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = {
        "torchrun": lambda: [
            launch(folder, [*torchrun("--nproc-per-node", "2", "--master-port", port), *words]),
        ],
        "two nodes by torchrun": lambda: [
            launch(folder, [*torchrun(*nodes, "--node-rank", str(rank)), *each]) for rank in range(2)
        ],
        "variables": lambda: [launch(folder, [script, *each], NODE_RANK=str(rank), **meeting) for rank in range(2)],
        "srun": lambda: [launch(folder, [script, *words], **slurm(rank), MASTER_PORT=port) for rank in range(2)],
    }[launcher]()
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    # torchrun's agents part at a barrier whose host may be gone before the other has its answer. torch logs that
    # race with a traceback of its own and still ends with 0; it is no word of this program.
    return "".join(line for line in "".join(outputs).splitlines(keepends=True) if not AGENT.match(line))


@pytest.mark.parametrize("launcher", ["torchrun", "two nodes by torchrun", "variables", "srun"])
def test_there_is_one_folder_and_one_log_whatever_starts_the_processes(tmp_path, launcher):
    words = [*TWO, "schedule.epochs=1", "ckpt=auto"]
    said = launch_two(launcher, tmp_path, words)
    (folder,) = (tmp_path / "runs" / "train").iterdir()
    assert [path.name for path in tmp_path.rglob("*.log")] == ["run.log"]
    assert said.count("epoch   1/1") == said.count("run folder:") == 1
    assert "batch 4 x 2" in said
    assert "Traceback" not in said
    assert [row["epoch"] for row in rows_of(folder / "history.csv")] == ["1"]
    counted = sum(values["objects"] for values in read_json(folder / "metrics.json")["per_class"].values())
    content = read_json(tmp_path / "data" / "shapes" / "annotations" / "instances_val.json")
    assert counted == sum(not row["iscrowd"] for row in content["annotations"])
    if launcher in ("torchrun", "variables"):
        # Again: all processes find the finished run, and evaluate it.
        said = launch_two(launcher, tmp_path, words)
        assert said.count(f"continuing from {folder / 'last.ckpt'}") + said.count("continuing from runs/") == 1
        assert "epoch   1/1" not in said
        assert list((tmp_path / "runs" / "train").iterdir()) == [folder]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_processes_after_the_same_step_and_the_run_continues(tmp_path, number):
    process = launch(tmp_path, [str(ROOT / "train.py"), *TWO, "schedule.epochs=500", "evaluate=false"])
    output = ""
    assert process.stdout is not None
    for line in process.stdout:
        output += line
        if line.startswith("epoch   2/500"):
            # Ctrl-C reaches all processes, SIGTERM of a scheduler may reach the first one only.
            (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
            break
    rest, _ = process.communicate(timeout=300)
    output += rest
    assert process.returncode == 128 + number, output
    assert output.count("interrupted; checkpoint ") == output.count("resume with: ") == 1
    assert output.count("stopping after this step") == 1
    assert "Traceback" not in output
    (folder,) = (tmp_path / "runs" / "train").iterdir()
    step = torch.load(folder / "last.ckpt", weights_only=True)["global_step"]
    assert f"saved after step {step}" in output
    last = -(-step // 2)
    again = launch(
        tmp_path, [str(ROOT / "train.py"), *TWO, f"schedule.epochs={last + 1}", "evaluate=false", f"ckpt={folder}"]
    )
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    epochs = [int(row["epoch"]) for row in rows_of(folder / "history.csv")]
    assert epochs == list(range(1, last + 2))


def test_what_one_process_cannot_read_ends_all_with_its_message(tmp_path):
    for split in ("train", "val"):
        tiny.make_coco(tmp_path / "pets", images=[{"id": n} for n in range(1, 9)], split=split)
    (tmp_path / "pets" / "train" / "5.png").write_bytes(b"no image")
    own = ["data=coco", "data.root=pets", "data.allow_empty=true", "data.num_workers=0", "resolution=[64,64]"]
    own += ["pretrained=false"]
    words = [*own, *tiny.NETWORK_OVERRIDES, "trainer=ddp_cpu", "data.batch_size=1", "schedule.epochs=3"]
    started = time.monotonic()
    process = start(tmp_path, "train.py", *words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "error: image pets/train/5.png is not an image that OpenCV can read" in output
    assert "Traceback" not in output
    assert time.monotonic() - started < 200  # none waits for the others until a timeout of half an hour


def test_skipped_images_of_all_processes_are_counted(tmp_path):
    for split in ("train", "val"):
        tiny.make_coco(tmp_path / "pets", images=[{"id": n} for n in range(1, 9)], split=split)
    for n in (1, 3, 5, 7):
        (tmp_path / "pets" / "train" / f"{n}.png").write_bytes(b"no image")
    own = ["data=coco", "data.root=pets", "data.allow_empty=true", "data.num_workers=0", "resolution=[64,64]"]
    own += ["pretrained=false"]
    options = ["trainer=ddp_cpu", "data.batch_size=2", "schedule.epochs=1", "data.on_bad_image=skip", "evaluate=false"]
    process = start(tmp_path, "train.py", *own, *tiny.NETWORK_OVERRIDES, *options)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert output.count("skipped 4 unreadable images so far") == output.count("skipped ") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others(tmp_path, rank):
    process = launch(tmp_path, [str(ROOT / "train.py"), *TWO, "schedule.epochs=500"])
    output = ""
    assert process.stdout is not None
    for line in process.stdout:
        output += line
        if line.startswith("epoch   1/500"):
            children = children_of(process.pid)
            os.kill([process.pid, *children][rank], signal.SIGKILL)
            break
    rest, _ = process.communicate(timeout=300)
    assert process.returncode not in (0, None), output + rest
    deadline = time.monotonic() + 60
    while alive := [pid for pid in children if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.5)
    assert "Traceback" not in output + rest


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_two_processes_evaluate_to_exactly_the_numbers_of_one(tmp_path, command: Any):
    trained = command("train", *SHORT, "schedule.epochs=2", "evaluate=false")
    assert trained.code == 0, trained.output
    best = f"ckpt={trained.run / 'best.ckpt'}"
    process = start(tmp_path, "eval.py", best, "trainer=ddp_cpu", "pictures=0", "paths.run=two")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    alone = command("eval", best, "pictures=0", "paths.run=one")
    assert alone.code == 0, alone.output
    one, two = (read_json(tmp_path / name / "metrics.json") for name in ("one", "two"))
    assert str(one["metrics"]) == str(two["metrics"])
    assert str(one["per_class"]) == str(two["per_class"])


PROGRAM = """
import sys
import pytorch_lightning as pl, torch
from torch import nn
from centernet.callbacks import History
from centernet.data.coco import CocoDataModule
from centernet.module import CtdetModule
from tests import tiny
from tests.test_module import SHAPES

class Still(CtdetModule):  # batch norm by fixed statistics, which do not depend on how a batch is divided
    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()

if __name__ == "__main__":
    shapes, devices, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    pl.seed_everything(0)
    schedule = {"lr": 0.01, "lr_batch_size": None, "optimizer": "sgd", "epochs": 2}
    module = Still(class_names=SHAPES, backbone=tiny.NETWORK, schedule=schedule)
    tiny.enliven(module.detector.network)
    data = CocoDataModule(root=shapes, resolution=(64, 64), batch_size=8 // devices, num_workers=0)
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=2, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, num_sanity_val_steps=0, callbacks=[History(out)],
        gradient_clip_val=35.0, default_root_dir=out,
    )
    trainer.fit(module, data)
    trainer.save_checkpoint(out + "/last.ckpt")
"""


def test_two_processes_train_to_the_weights_of_one_with_the_same_global_batch(tmp_path, shapes):
    (tmp_path / "program.py").write_text(PROGRAM)
    for devices in (1, 2):
        (tmp_path / str(devices)).mkdir()
        words = [str(tmp_path / "program.py"), str(shapes), str(devices), str(tmp_path / str(devices))]
        process = launch(ROOT, words, PYTHONPATH=str(ROOT))
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    one, two = (torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"] for name in ("1", "2"))
    moved = max(float((value - start).abs().max()) for value, start in zip(one.values(), initial(), strict=True))
    assert moved > 1e-2
    for name, value in one.items():
        # Sums in another order; six steps let their rounding grow to 3e-5 of the largest change.
        assert torch.allclose(value, two[name], atol=1e-4 * moved, rtol=1e-4), name
    # The losses in the history are those of all images, whoever had them.
    rows = [rows_of(tmp_path / name / "history.csv") for name in ("1", "2")]
    for a, b in zip(*rows, strict=True):
        for name in ("train/loss", "train/loss/heatmap", "train/loss/size", "train/loss/offset"):
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-4), name


def initial() -> list[torch.Tensor]:
    pl.seed_everything(0, verbose=False)
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK)
    tiny.enliven(module.detector.network)
    return list(module.state_dict().values())


def test_processes_follow_the_clock_of_the_first_and_stop_after_the_same_step(tmp_path):
    # The time is up before the first step: each makes one, and the run ends as any other.
    words = [str(ROOT / "train.py"), *TWO, f"paths.run={tmp_path / 'run'}", "trainer.max_time=00:00:00:01"]
    process = launch(tmp_path, words)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "(100%)" in said
    rows = rows_of(tmp_path / "run" / "history.csv")
    assert [row["step"] for row in rows] == ["1"]
    assert read_json(tmp_path / "run" / "metrics.json")["metrics"]["AP"] is not None
