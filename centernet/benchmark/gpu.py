"""Training steps and detection, option by option, from float32 as the original ran it to the best, in time, memory and
the share of what the device can multiply."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from centernet.benchmark.made import some_objects
from centernet.benchmark.networks import count_costs, require_size, spec_of
from centernet.benchmark.record import Record
from centernet.benchmark.timing import PeakMemory, in_own_process, times
from centernet.errors import InputError

CLASSES = 80
# Forward once and backward twice as much: the gradients of the inputs, and those of the weights.
PASSES = {"train": 3, "detect": 1}


class Setting(NamedTuple):
    """One way to compute; each line of ``TRAINING`` and ``DETECTION`` adds one option to the line before, except that
    those of ``ASIDE`` are not part of the lines after them."""

    name: str
    benchmark: bool = False
    tf32: bool = False
    channels_last: bool = False
    bf16: bool = False
    fused: bool = False
    compiled: bool = False
    graphs: bool = False
    checkpointed: bool = False
    replayed: bool = False
    on_cpu: bool = True  # whether the option exists on a CPU


ASIDE = ("checkpointed", "replayed")


def _ladder(*added: str) -> list[Setting]:
    settings = [Setting("float32")]
    for option in added:
        on_cpu = option not in ("benchmark", "tf32", "graphs", "replayed")
        last = settings[-1]._replace(name=f"+ {option}", on_cpu=on_cpu, **dict.fromkeys(ASIDE, False))
        settings.append(last._replace(**{option: True}))
    return settings


# fused: of the optimizer; the inference form. checkpointed: activations are computed again in the backward pass.
# replayed: the whole detection as one CUDA graph. graphs: CUDA graphs by torch.compile's mode reduce-overhead.
TRAINING = _ladder("benchmark", "tf32", "channels_last", "bf16", "fused", "checkpointed", "compiled", "graphs")
DETECTION = _ladder("benchmark", "tf32", "channels_last", "fused", "bf16", "replayed", "compiled", "graphs")
LADDERS = {"train": TRAINING, "detect": DETECTION}


def measure_gpu(
    device: str,
    networks: Sequence[str],
    batches: Sequence[str],
    side: int,
    rounds: int,
    works: Sequence[str] = ("train", "detect"),
    settings: Sequence[str] = (),
) -> Record:
    """Print and record time and memory of every setting (``settings``: names of some of them, without the plus). Each
    is measured in a process of its own: nothing lingers. A setting that fails becomes a line that says why."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("gpu: no CUDA device is available; use --device cpu, with a small --resolution and --batch")
    if wrong := [size for size in batches if size != "most" and not (size.isdigit() and int(size))]:
        raise InputError(f"gpu: --batch {wrong[0]} is not a size; give numbers, or most")
    known = {_word(setting) for ladder in LADDERS.values() for setting in ladder}
    if unknown := [name for name in settings if name not in known]:
        raise InputError(f"gpu: --settings {unknown[0]} is unknown; choose from {', '.join(sorted(known))}")
    for network in networks:
        require_size("gpu", network, spec_of(network), (side, side))
    record = Record(
        "gpu", {"device": device, "networks": list(networks), "batches": list(batches), "side": side, "rounds": rounds}
    )
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    peak = in_own_process(_matrix_peak, device)
    record.add({"product": "bfloat16 matrices"}, "speed", "TFLOP/s", peak, "more")
    print(
        f"{name}, torch {torch.__version__}, {side}x{side}, {CLASSES} classes, best of {rounds} rounds; "
        f"bfloat16 matrices {peak:.2f} TFLOP/s"
    )
    print(f"{'network':<12}{'work':<10}{'setting':<17}{'batch':>6}{'ms':>10}{'images/s':>10}{'MB':>8}{'of peak':>9}")
    for network, work, size in itertools.product(networks, works, batches):
        macs = _macs(network, side)
        for setting in LADDERS[work]:
            if (device == "cpu" and not setting.on_cpu) or (settings and _word(setting) not in settings):
                continue
            head = f"{network:<12}{work:<10}{setting.name:<17}"
            found = in_own_process(_attempt, device, network, work, setting, size, side, rounds)
            if isinstance(found, str):
                print(f"{head}{size:>6}  failed: {found}", flush=True)
                continue
            batch, taken, memory = found
            labels = {"network": network, "work": work, "setting": _word(setting), "batch": batch}
            row = record.add_many(labels, "time", "ms", taken)
            best = row.spread.best  # the table's; the rest of the file compares medians
            speed = 2 * macs * PASSES[work] * batch / best / 1e9
            record.add(labels, "memory", "MB", memory)
            record.add(labels, "speed", "TFLOP/s", speed, "more")
            print(
                f"{head}{batch:>6}{best:10.1f}{1000 * batch / best:10.1f}{memory:8.0f}{speed / peak:9.1%}", flush=True
            )
    return record


def _word(setting: Setting) -> str:
    return setting.name.removeprefix("+ ")


def _macs(network: str, side: int) -> float:
    """Multiply-accumulates for one image."""
    from centernet.tasks import build_task, task_names

    return 1e9 * count_costs(spec_of(network), build_task(task_names()[0], CLASSES).heads, (side, side))[1]


def _matrix_peak(device: str) -> float:
    """TFLOP/s of the product of two large square matrices in bfloat16: what the best convolution could reach."""
    side = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / min(times(lambda: left @ right, 10, torch.device(device), warmup=3)) / 1e9


def _attempt(*given: Any) -> tuple[int, list[float], float] | str:
    """What ``_measure`` returns, or why the device or the compiler cannot do it, in a line."""
    try:
        return _measure(*given)
    except RuntimeError as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


def _measure(
    device: str, network: str, work: str, setting: Setting, size: str, side: int, rounds: int
) -> tuple[int, list[float], float]:
    """Batch, milliseconds of each round, and megabytes; ``most``: of the largest power of two that fits."""
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
) -> tuple[list[float], float]:
    from centernet.detector import build_detector  # before the memory is watched
    from centernet.models.checkpointing import checkpoint_activations
    from centernet.tasks import task_names

    watched = PeakMemory(device)
    torch.manual_seed(0)
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    detector = build_detector(task_names()[0], CLASSES, spec_of(network))  # boxes
    detector = detector.to(device).to(memory_format=layout)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8).to(device).to(memory_format=layout)
    objects = {name: value.to(device) for name, value in some_objects(batch, side, CLASSES).items()}
    if work == "detect":
        detector = detector.eval().fuse() if setting.fused else detector.eval()
    if setting.checkpointed:
        checkpoint_activations(detector.network)
    if setting.compiled:
        detector.network.compile(**({"mode": "reduce-overhead"} if setting.graphs else {}))
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

    step: Any = train if optimizer else _as_graph(detect) if setting.replayed else detect
    # The first rounds compile, allocate, choose algorithms; graphs are recorded in the second and third.
    taken = times(step, rounds, torch.device(device), warmup=4 if setting.graphs else 2)
    return taken, watched.growth()


def _as_graph(work: Callable[[], None]) -> Callable[[], None]:
    """What repeats the kernels of ``work`` from one CUDA graph, without Python. Recorded after three rounds on a stream
    of their own, as recording asks for."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay
