"""Measure speed: `python scripts/benchmark.py data data=coco data.root=DIR`, `... encode`, `... decode`, `... kitti`.

data: images per second of one worker through the whole training data path (read, warp, color, objects, collate),
beside the rate of a bare `cv2.imread` of the same files in the same run.

encode: milliseconds from the objects of a training batch to targets, for the task and data of a training: `encode
task=multi_pose data=figures data.batch_size=16 resolution=[512,512]`.

decode: milliseconds from raw maps to detections for every task, on a GPU if available, else the CPU: 16 images of 512 x
512 with 100 detections each (or `batch=N`, `side=N`, `k=N`). And of this, finding the peaks of the heatmaps, in the
plain way and in that of `centernet/ops/peaks.py`.

gpu: milliseconds and memory of a training step and of detection, option by option, from float32 as the original ran
it to the best: resnet18, dla34 and hardnet85 at 512 x 512, with batches of 1, 32 and as many as fit. `--device cpu
--resolution 128 --batch 2` makes the same table on a CPU. Writes the numbers to `--json` as well.

networks: what each network costs: parameters, multiply-accumulates, milliseconds of a training step by part, and of
detection. `networks n s m mobilenetv4_conv_small:fpn --size 256 320 --batch 8 --bf16`; NAME:NECK is a network with this
neck and one hidden layer that all heads share.

startup: seconds to set up a generated data set of the size of COCO's train2017 (or `images=N boxes=N`), the first time
and again, and the memory of its workers in the course of an epoch.

kitti: seconds of KITTI's evaluation on synthetic frames, as many as in its validation set (or `frames=N`), with 50
detections per frame (or `detections=N`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from centernet.app import CONFIGS, understand_groups
from centernet.choices import defaults
from centernet.command import run_command
from centernet.errors import InputError
from centernet.folders import require_writable_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("data", "startup", "encode", "decode", "gpu", "networks", "kitti"))
    parser.add_argument("--rounds", type=int, default=5, help="passes over the files; the best one counts (default: 5)")
    parser.add_argument(
        "overrides",
        nargs="*",
        help="as for train.py: data=coco data.root=DIR resolution=[512,512]; networks: their names; decode: batch=N "
        "side=N k=N; startup: images=N boxes=N; kitti: frames=N detections=N",
    )
    gpu = parser.add_argument_group("gpu and networks")
    gpu.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    gpu.add_argument("--resolution", type=int, default=512, metavar="SIDE", help="of the square input (default: 512)")
    gpu.add_argument("--batch", nargs="+", default=["1", "32", "most"], help="sizes; most: as many as fit, by doubling")
    gpu.add_argument("--networks", nargs="+", default=["resnet18", "dla34", "hardnet85"])
    gpu.add_argument("--json", default="gpu.json", metavar="FILE")
    gpu.add_argument("--size", type=int, nargs=2, default=[256, 320], metavar=("H", "W"), help="networks: input size")
    gpu.add_argument(
        "--bf16", action="store_true", help="networks: 16-bit convolutions, as trainer.precision=bf16-mixed"
    )
    args = parser.parse_intermixed_args()  # options may be mixed with overrides
    if args.kind == "data":
        benchmark_data(args.overrides, args.rounds)
    elif args.kind == "startup":
        benchmark_startup(**_counts(args.overrides, ("images", "boxes")))
    elif args.kind == "encode":
        benchmark_encode(args.overrides, args.rounds)
    elif args.kind == "decode":
        benchmark_decode(args.rounds, **_counts(args.overrides, ("batch", "side", "k")))
    elif args.kind == "gpu":
        require_writable_file(args.json, "--json")
        benchmark_gpu(args.device, args.networks, args.batch, args.resolution, args.rounds, args.json)
    elif args.kind == "networks":
        (batch,) = args.batch if len(args.batch) == 1 else ["8"]
        benchmark_networks(args.overrides or NETWORKS, tuple(args.size), int(batch), args.bf16, args.rounds)
    else:
        benchmark_kitti(**_counts(args.overrides, ("frames", "detections")))


def benchmark_data(overrides: list[str], rounds: int) -> None:
    """Print the rate of one worker and of bare reading, on one core, alternating so both see the same machine load."""
    from centernet.data.datamodule import SeededSampler, collate

    _, data = _compose(overrides)
    dataset = data.datasets["train"]
    cv2.setNumThreads(0)
    batch = min(data.batch_size, len(dataset))
    sampler = SeededSampler(dataset, num_replicas=1, rank=0, seed=0)

    def whole() -> None:
        waiting = []
        for draw in sampler:
            waiting.append(dataset[draw])
            if len(waiting) == batch:
                collate(waiting)
                waiting = []

    def bare() -> None:
        for file in dataset.files:
            cv2.imread(file)

    path_rate = bare_rate = 0.0
    for epoch in range(rounds):
        sampler.set_epoch(epoch)
        path_rate = max(path_rate, _rate(whole, len(dataset)))
        bare_rate = max(bare_rate, _rate(bare, len(dataset)))
    height, width = data.resolution
    print(f"{len(dataset)} images of {data.root}, input {height}x{width}, one core, best of {rounds} rounds")
    print(f"data path    {path_rate:7.1f} images/s  (read, warp, color, objects, collate)")
    print(f"cv2.imread   {bare_rate:7.1f} images/s")
    print(f"ratio        {path_rate / bare_rate:7.2f}")


def benchmark_startup(images: int = 118_000, boxes: int = 860_000, workers: int = 2) -> None:
    """Print the seconds of two set-ups with masks, and the private memory of the workers of one epoch."""
    from centernet.data.coco import CocoDataModule

    augment = {"visible_boxes": True, "color": None}
    with tempfile.TemporaryDirectory() as folder:
        path = _write_large(Path(folder), "train", images, boxes)
        _write_large(Path(folder), "val", 10, 10)
        print(f"{images} images, {boxes} boxes, {path.stat().st_size / 1e6:.0f} MB of json, {workers} workers, seed 0")
        for start in ("first", "second"):
            data = CocoDataModule(folder, resolution=(64, 64), batch_size=100, num_workers=workers, augment=augment)
            started, used = time.perf_counter(), time.process_time()
            data.setup("fit")
            started, used = time.perf_counter() - started, time.process_time() - used
            print(f"{start + ' start':<13}{started:7.1f} s  ({used:.1f} s of one core)")
        loader = data.train_dataloader()
        shown = {1, len(loader) // 10, len(loader) // 2, len(loader)}
        print(f"epoch of {len(loader)} batches, private memory of each worker")
        for n, _ in enumerate(loader, 1):
            if n in shown:
                print(f"batch {n:<7}" + ", ".join(f"{mebibytes:7.1f}" for mebibytes in _private_memory()) + " MiB")


def _write_large(folder: Path, split: str, images: int, boxes: int) -> Path:
    """A split in COCO's layout: links to a few small files, and outlines as long as COCO's; returns the json."""
    random = np.random.default_rng(0)
    height, width, points = 120, 160, 31
    (folder / split).mkdir()
    (folder / "annotations").mkdir(exist_ok=True)
    drawn = [folder / f"{split}_{n}.jpg" for n in range(16)]
    for file in drawn:
        cv2.imwrite(str(file), cv2.resize(random.integers(0, 256, (3, 4, 3), np.uint8), (width, height)))
    listed = []
    for n in range(images):
        name = f"{n:012d}.jpg"
        os.link(drawn[n % len(drawn)], folder / split / name)
        listed.append({"id": n + 1, "file_name": name, "height": height, "width": width})
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    path = folder / "annotations" / f"instances_{split}.json"
    categories = [{"id": n + 1, "name": f"class {n}"} for n in range(80)]
    with path.open("w") as file:
        file.write(f'{{"images": {json.dumps(listed)}, "categories": {json.dumps(categories)}, "annotations": [')
        for start in range(0, boxes, 1000):
            count = min(1000, boxes - start)
            radius = random.uniform(4, 50, (count, 1, 2))
            center = random.uniform(radius, (width, height) - radius)
            outlines = (center + radius * ring * random.uniform(0.8, 1, (count, points, 1))).round(2)
            low = outlines.min(1)
            rows = [
                {
                    "segmentation": [outline],
                    "area": area,
                    "iscrowd": 0,
                    "image_id": image,
                    "bbox": box,
                    "category_id": (start + n) % len(categories) + 1,
                    "id": start + n + 1,
                }
                for n, (outline, area, image, box) in enumerate(
                    zip(
                        outlines.reshape(count, -1).tolist(),
                        (3.14159 * radius.prod(-1)[:, 0]).round(4).tolist(),
                        random.integers(1, images + 1, count).tolist(),
                        np.concatenate([low, outlines.max(1) - low], 1).round(2).tolist(),
                        strict=True,
                    )
                )
            ]
            file.write(("," if start else "") + json.dumps(rows, separators=(",", ":"))[1:-1])
        file.write("]}")
    return path


def _private_memory() -> list[float]:
    """MiB that belong to each child process alone."""
    memory = []
    for process in multiprocessing.active_children():
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        memory.append(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024)
    return memory


def benchmark_encode(overrides: list[str], rounds: int) -> None:
    """Print how long the targets of one training batch take; the median of ``rounds``."""
    from centernet.build import plain
    from centernet.data.datamodule import collate
    from centernet.tasks import build_task

    cfg, data = _compose(overrides)
    dataset = data.datasets["train"]
    count = min(data.batch_size, len(dataset))
    batch = collate([dataset[n] for n in range(count)])
    options = plain(cfg.task)
    task = build_task(options.pop("name"), len(data.class_names), data.facts, **options)
    size = tuple(side // task.stride for side in data.resolution)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objects = {name: value.to(device) for name, value in batch["objects"].items()}
    taken = _median(lambda: task.encode(objects, size), rounds, device)
    most = objects["valid"].sum(1).tolist()
    print(
        f"{task.name}: {count} images of {data.resolution}, {sum(most)} objects, {task.num_classes} classes, {device}"
    )
    print(f"encode       {taken:7.2f} ms a batch")


def _compose(overrides: list[str]) -> tuple[Any, Any]:
    """The configuration of a training, and its data, set up."""
    from hydra import compose, initialize_config_dir

    from centernet.build import build_datamodule
    from centernet.sizing import settle

    understand_groups(overrides)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides)
    settle(cfg)
    data = build_datamodule(cfg.data)
    data.prepare_data()
    data.setup("fit")
    return cfg, data


@torch.inference_mode()
def benchmark_decode(rounds: int, batch: int = 16, side: int = 512, k: int = 100) -> None:
    """Print how long each task takes to activate and decode a batch of random maps; the median of ``rounds``."""
    from centernet.tasks import build_task, task_names

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"batch {batch}, {side}x{side}, {k} detections an image, {device}, {torch.get_num_threads()} threads, seed 0")
    counts = (1, 3, 80)
    print(f"{'ms with':<12}" + "".join(f"{f'{n} class' + 'es' * (n > 1):>12}" for n in counts))
    for name in task_names():
        times = []
        for classes in counts:
            task = build_task(name, classes, heatmap={"max_detections": k})
            generator = torch.Generator().manual_seed(0)
            size = (side // task.stride, side // task.stride)
            maps = {
                head: torch.randn(batch, about.channels, *size, generator=generator).to(device)
                - (4 if about.is_heatmap else 0)
                for head, about in task.heads.items()
            }
            times.append(_median(lambda task=task, maps=maps: task.detect(maps), rounds, device))
        print(f"{name:<12}" + "".join(f"{taken:12.1f}" for taken in times))
    _benchmark_peaks(rounds, batch, side // 4, k, device)


def _benchmark_peaks(rounds: int, batch: int, side: int, k: int, device: torch.device) -> None:
    """Print how long the plain search for peaks takes, and the one that is used."""
    from centernet.ops import heatmap, peaks

    ways = {
        "all channels": (
            80,
            lambda maps: heatmap.find_peaks(heatmap.suppress_non_peaks(maps), k),
            lambda maps: peaks.strongest_peaks(maps, k),
        ),
        "each channel": (
            17,
            lambda maps: heatmap.top_per_channel(heatmap.suppress_non_peaks(maps), k),
            lambda maps: peaks.strongest_peaks_per_channel(maps, k),
        ),
    }
    print(f"\n{'ms for peaks of':<40}{'plain':>12}{'here':>12}")
    for name, (channels, *both) in ways.items():
        maps = torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(0)).to(device)
        for layout in (torch.contiguous_format, torch.channels_last):
            held = torch.sigmoid(maps - 4).to(memory_format=layout)
            times = [_median(lambda way=way, held=held: way(held), rounds, device) for way in both]
            last = ", channels last" if layout == torch.channels_last else ""
            print(f"{f'{channels} maps, {name}{last}':<40}" + "".join(f"{taken:12.1f}" for taken in times))


class Setting(NamedTuple):
    """One way to compute; each line of ``TRAINING`` and ``DETECTION`` adds one option to the line before."""

    name: str
    benchmark: bool = False
    tf32: bool = False
    channels_last: bool = False
    bf16: bool = False
    fused: bool = False
    compiled: bool = False
    on_cpu: bool = True  # whether the option exists on a CPU


def _ladder(*added: str) -> list[Setting]:
    settings = [Setting("float32")]
    for option in added:
        last = settings[-1]._replace(name=f"+ {option}", on_cpu=option not in ("benchmark", "tf32"))
        settings.append(last._replace(**{option: True}))
    return settings


TRAINING = _ladder("benchmark", "tf32", "channels_last", "bf16", "fused", "compiled")  # fused: the optimizer
DETECTION = _ladder("benchmark", "tf32", "channels_last", "fused", "bf16", "compiled")  # fused: the inference form


def benchmark_gpu(
    device: str, networks: Sequence[str], batches: Sequence[str], side: int, rounds: int, path: str
) -> None:
    """Print and write time and memory of every setting. Each is measured in a process of its own: nothing lingers."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("gpu: no CUDA device is available; use --device cpu, with a small --resolution and --batch")
    if wrong := [size for size in batches if size != "most" and not (size.isdigit() and int(size))]:
        raise InputError(f"gpu: --batch {wrong[0]} is not a size; give numbers, or most")
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {side}x{side}, 80 classes, best of {rounds} rounds")
    print(f"{'network':<12}{'work':<10}{'setting':<17}{'batch':>6}{'ms':>10}{'images/s':>10}{'MB':>8}")
    rows = []
    for network, (work, settings), size in itertools.product(
        networks, (("train", TRAINING), ("detect", DETECTION)), batches
    ):
        for setting in settings:
            if device == "cpu" and not setting.on_cpu:
                continue
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                batch, taken, memory = pool.apply(_measure, (device, network, work, setting, size, side, rounds))
            row = {"network": network, "work": work, "setting": setting.name, "batch": batch, "ms": taken}
            rows.append({**row, "images_per_second": 1000 * batch / taken, "megabytes": memory})
            print("{network:<12}{work:<10}{setting:<17}{batch:>6}{ms:10.1f}".format(**row), end="")
            print(f"{1000 * batch / taken:10.1f}{memory:8.0f}", flush=True)
    with open(path, "w") as file:
        json.dump({"device": name, "torch": torch.__version__, "side": side, "rows": rows}, file, indent=2)


def _measure(
    device: str, network: str, work: str, setting: Setting, size: str, side: int, rounds: int
) -> tuple[int, float, float]:
    """Batch, milliseconds and megabytes; ``most``: of the largest power of two that fits."""
    torch.backends.cudnn.benchmark = setting.benchmark
    torch.backends.cudnn.allow_tf32 = setting.tf32
    torch.set_float32_matmul_precision("high" if setting.tf32 else "highest")
    if size != "most":
        return (int(size), *_measure_batch(device, network, work, setting, int(size), side, rounds))
    batch, found = 1, None
    while True:
        try:
            found = (batch, *_measure_batch(device, network, work, setting, batch, side, rounds))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if "memory" not in str(error) or found is None:
                raise
            return found
        batch *= 2


def _measure_batch(
    device: str, network: str, work: str, setting: Setting, batch: int, side: int, rounds: int
) -> tuple[float, float]:
    from centernet.detector import build_detector
    from centernet.tasks import task_names

    before = _memory(device)
    torch.manual_seed(0)
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    detector = build_detector(task_names()[0], 80, network)  # boxes.to(device).to(memory_format=layout)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8).to(device).to(memory_format=layout)
    objects = {name: value.to(device) for name, value in _some_objects(batch, side, 80).items()}
    if work == "detect":
        detector = detector.eval().fuse() if setting.fused else detector.eval()
    if setting.compiled:
        detector.network.compile()
    fused = {"fused": True} if setting.fused else {}
    optimizer = torch.optim.Adam(detector.parameters(), **fused) if work == "train" else None
    mixed = torch.autocast(device, dtype=torch.bfloat16, enabled=setting.bf16)

    def train() -> None:
        with mixed:
            targets = detector.task.encode(objects, (side // 4, side // 4))
            loss = detector.task.losses(detector.outputs(images), targets)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def detect() -> None:
        with torch.inference_mode(), mixed:
            detector(images)

    step = train if optimizer else detect
    step()  # compiles, allocates, chooses algorithms
    taken = min(_times(step, rounds, torch.device(device)))
    return taken, _memory(device) - before


NETWORKS = ["n", "s", "m"]  # the recommended ones


def benchmark_networks(names: Sequence[str], size: tuple[int, int], batch: int, bf16: bool, rounds: int) -> None:
    """Print what each network costs on this CPU, with the heads of the recommended task and three classes."""
    from centernet.models.centernet import divisor_of
    from centernet.tasks import build_task

    heads = build_task(_usual_task(), 3).heads
    specs = [_spec_of(name) for name in names]
    for name, spec in zip(names, specs, strict=True):
        if any(side % divisor_of(spec) for side in size):
            raise InputError(f"networks: {name} takes sizes in multiples of {divisor_of(spec)}; change --size")
    kind = "bf16" if bf16 else "float32"
    print(
        f"CPU, {torch.get_num_threads()} threads, {size[0]}x{size[1]}, batch {batch}, {kind}, best of {rounds} rounds"
    )
    width = max(len(name) for name in names)
    parts = ("backbone", "neck", "head", "rest", "step", "detect 1")
    print(f"{'network':<{width}}{'parameters':>12}{'GMACs':>8}" + "".join(f"{part:>10}" for part in parts))
    for name, spec in zip(names, specs, strict=True):
        costs = _count(spec, heads, size)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            taken = pool.apply(_measure_network, (spec, size, batch, bf16, rounds))
        print(
            f"{name:<{width}}{costs[0]:10.2f} M{costs[1]:8.2f}" + "".join(f"{each:10.1f}" for each in taken), flush=True
        )
    print(
        "milliseconds; rest: losses, backward and optimizer; detect 1: one image in the inference form, with decoding"
    )


def _usual_task() -> str:
    """The task that trainings have by default."""
    return next(default.option for default in defaults("train") if default.group == "task")


def _spec_of(name: str) -> dict[str, Any]:
    from centernet.models.centernet import network_spec

    name, _, neck = name.partition(":")
    light = {"neck": {"name": neck}, "head_channels": 64, "head_tower": 1} if neck else {}
    return network_spec({"name": name, **light})


def _count(spec: dict[str, Any], heads: Any, size: tuple[int, int]) -> tuple[float, float]:
    """Millions of parameters, billions of multiply-accumulates."""
    from centernet.models.summary import build_counted, count_macs, count_parameters

    network = build_counted(spec, heads)
    return count_parameters(network) / 1e6, count_macs(network, size) / 1e9


def _measure_network(
    spec: dict[str, Any], size: tuple[int, int], batch: int, bf16: bool, rounds: int
) -> tuple[float, ...]:
    """Milliseconds of backbone, neck, head, the rest of a step, the step, and detection in one image."""
    from centernet.detector import build_detector

    torch.manual_seed(0)
    detector = build_detector(_usual_task(), 3, spec).to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8).to(memory_format=torch.channels_last)
    objects = _some_objects(batch, min(size), 3)
    optimizer = torch.optim.AdamW(detector.parameters(), fused=True)
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16)
    network, seen = detector.network, {"backbone": 0.0, "neck": 0.0, "head": 0.0}

    def watch(part: str) -> None:
        """Count the time that a part of the network takes forward."""
        began = [0.0]
        module = getattr(network, part)
        module.register_forward_pre_hook(lambda *_: began.__setitem__(0, time.perf_counter()))
        module.register_forward_hook(lambda *_: seen.__setitem__(part, time.perf_counter() - began[0]))

    for part in seen:
        watch(part)

    def step() -> None:
        with mixed:
            targets = detector.task.encode(objects, (size[0] // network.stride, size[1] // network.stride))
            loss = detector.task.losses(detector.outputs(images), targets)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    best: tuple[float, ...] = (float("inf"),) * 5
    for _ in range(rounds + 1):  # the first one allocates, and is never the best
        started = time.perf_counter()
        step()
        whole = time.perf_counter() - started
        if whole < best[-1]:
            best = (*seen.values(), whole - sum(seen.values()), whole)
    detector = detector.eval().fuse()

    def detect() -> None:
        with torch.inference_mode(), mixed:
            detector(images[:1])

    return (*(1000 * each for each in best), min(_times(detect, rounds, torch.device("cpu"))))


def _some_objects(batch: int, side: int, classes: int) -> dict[str, torch.Tensor]:
    """Eight boxes in each of ``batch`` images, an eighth of ``side`` large."""
    from centernet.fields import stack_objects

    corner = torch.rand(8, 2).double() * side / 2
    objects = {"boxes": torch.cat([corner, corner + side / 8], 1), "labels": torch.arange(8) % classes}
    objects["crowd"] = torch.zeros(8, dtype=torch.bool)
    return stack_objects([objects] * batch)


def _memory(device: str) -> float:
    """The largest number of megabytes so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _median(work: Callable[[], Any], rounds: int, device: torch.device) -> float:
    """Median milliseconds of ``work``, after one warm-up round."""
    return float(np.median(_times(work, rounds, device)))


def _times(work: Callable[[], Any], rounds: int, device: torch.device) -> list[float]:
    """Milliseconds of each round, after one that does not count."""
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return [1000 * each for each in taken[1:]]


def benchmark_kitti(frames: int = 3769, detections: int = 50) -> None:
    """Print the seconds to add and evaluate this many synthetic frames."""
    from centernet.metrics.kitti import KittiAP

    metric = KittiAP(["Car", "Pedestrian", "Cyclist"])
    batches = list(_kitti_frames(frames, detections))
    started = time.perf_counter()
    for found, truth, ids in batches:
        metric.update(found, truth, ids)
    added = time.perf_counter()
    results = metric.compute()
    ended = time.perf_counter()
    objects = sum(row["objects"] for row in metric.per_class.values())
    print(f"{frames} frames, {objects} objects, {detections} detections a frame, 3 classes, seed 0")
    print(f"update       {added - started:7.2f} s")
    print(f"compute      {ended - added:7.2f} s  (AP_3d {100 * float(results['AP_3d']):.2f} %)")
    print(f"together     {ended - started:7.2f} s")


def _kitti_frames(frames: int, detections: int, batch: int = 16) -> Iterator[tuple[Any, Any, torch.Tensor]]:
    """Batches of detections, truth and image ids: street-like frames, detections around the objects and elsewhere."""
    random = np.random.default_rng(0)
    typical = np.array([[1.53, 1.63, 3.88], [1.76, 0.66, 0.84], [1.74, 0.6, 1.76]])  # of KITTI's objects, in meters
    most = 16

    def solids(labels: np.ndarray, location: np.ndarray) -> dict[str, np.ndarray]:
        dimensions = typical[labels] * random.uniform(0.9, 1.1, (*labels.shape, 1))
        return {"dimensions": dimensions, "location": location, "yaw": random.uniform(-np.pi, np.pi, labels.shape)}

    def seen(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x, y, z = np.moveaxis(rows["location"], -1, 0)
        height, width = 720 * rows["dimensions"][..., 0] / z, 720 * rows["dimensions"][..., 1:].mean(-1) / z
        u, v = 610 + 720 * x / z, 173 + 720 * y / z
        boxes = np.stack([u - width / 2, v - height, u + width / 2, v], -1).clip(0, 1241)
        return {**rows, "boxes": boxes, "alpha": rows["yaw"] - np.arctan2(x, z)}

    for start in range(0, frames, batch):
        shape = (min(batch, frames - start), most)
        labels = random.choice(3, shape, p=[0.75, 0.17, 0.08])
        place = np.stack(
            [random.uniform(-15, 15, shape), random.uniform(1.4, 1.8, shape), random.uniform(6, 60, shape)]
        )
        truth = seen(solids(labels, np.moveaxis(place, 0, -1)))
        kind = random.choice(4, shape, p=[0.8, 0.08, 0.02, 0.1])  # an object, its neighbor, a truck, DontCare
        truth |= {"labels": np.where(kind == 3, -1, labels), "crowd": kind > 0, "neutral": kind == 1}
        truth |= {"truncation": random.choice([0, 0, 0, 0.2, 0.4], shape), "occlusion": random.integers(0, 4, shape)}
        truth["valid"] = np.arange(most) < random.integers(2, most, shape[0])[:, None]
        near = random.integers(0, most, (shape[0], detections))
        rows = np.arange(shape[0])[:, None]
        spread = random.choice([0.05, 0.3, 3], (*near.shape, 1)) * random.normal(size=(*near.shape, 3))
        found = solids(labels[rows, near], truth["location"][rows, near] + spread * [1, 0.2, 1])
        found["location"][..., 2] = found["location"][..., 2].clip(3)
        found["yaw"] = truth["yaw"][rows, near] + random.normal(0, 0.2, near.shape)
        found = seen(found) | {"labels": labels[rows, near], "scores": -np.sort(-random.random(near.shape))}
        yield (
            {name: torch.from_numpy(value) for name, value in found.items()},
            {name: torch.from_numpy(value) for name, value in truth.items()},
            torch.arange(start, start + shape[0]),
        )


def _counts(words: list[str], known: tuple[str, ...]) -> dict[str, int]:
    """``name=N`` words as numbers."""
    counts = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in known or not value.isdigit() or int(value) < 1:
            raise InputError(f"{word!r} is not an option here; use {' or '.join(f'{name}=N' for name in known)}")
        counts[name] = int(value)
    return counts


def _rate(work: Callable[[], None], count: int) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


__all__: Iterable[str] = (
    "benchmark_data",
    "benchmark_decode",
    "benchmark_encode",
    "benchmark_gpu",
    "benchmark_kitti",
    "benchmark_networks",
    "benchmark_startup",
)

if __name__ == "__main__":
    run_command(main)
