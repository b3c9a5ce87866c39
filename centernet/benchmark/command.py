"""The command `python scripts/benchmark.py PART ...`: every part with its options, its record and its plot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from centernet.folders import require_writable_file

if TYPE_CHECKING:
    from centernet.benchmark.record import Record

Options = argparse.Namespace
# For the help, which imports nothing heavy; described in `forms`.
NETWORK_FORMS = ("eager", "channels_last", "fused", "bf16", "compiled", "compiled_bf16")
FILE_FORMS = ("onnx", "onnx_int8", "openvino", "openvino_fp16", "openvino_int8")


class Part(NamedTuple):
    """One part: what it says about itself, its options, and what measures it."""

    about: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Options], Record]


def main(words: Sequence[str] | None = None) -> None:
    """Run the command. ``words``: by default those of the process."""
    words = list(sys.argv[1:] if words is None else words)
    names = "\n".join(f"  {name:<10}{part.about.split('.')[0]}." for name, part in PARTS.items())
    place = next((n for n, word in enumerate(words) if word in (*PARTS, "compare")), None)
    if place is None:
        parser = argparse.ArgumentParser(
            description="Measure speed and memory, part by part.",
            usage="%(prog)s PART ... [--json FILE] [--plot FILE], or: %(prog)s compare A.json B.json",
            epilog=f"parts:\n{names}\n\nPART --help lists the options of a part.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("part", choices=(*PARTS, "compare"), metavar="PART", help="what to measure, see below")
        parser.parse_args(words)
        return
    name = words.pop(place)
    if name == "compare":
        _compare(words)
        return
    part = PARTS[name]
    parser = argparse.ArgumentParser(prog=f"benchmark.py {name}", description=part.about)
    part.add(parser)
    parser.add_argument("--json", metavar="FILE", help="write machine, settings and measurements to this file")
    parser.add_argument("--plot", metavar="FILE", help="draw the measurements as bars into this picture")
    if name == "gpu":
        parser.set_defaults(json="gpu.json")
    args = parser.parse_intermixed_args(words)  # options may be mixed with overrides
    for option, path in (("--json", args.json), ("--plot", args.plot)):
        if path is not None:
            require_writable_file(path, option)
    _measure(part, args)


def _measure(part: Part, args: Options) -> None:
    from centernet.benchmark.machine import describe_machine, machine_line

    machine = describe_machine()  # before the measurement, which is a load of its own
    print(machine_line(machine), flush=True)
    record = part.run(args)
    record.machine = machine
    if args.json is not None:
        record.write(args.json)
    if args.plot is not None:
        from centernet.benchmark.plot import plot_rows

        plot_rows(record.rows, f"benchmark.py {record.part}\n{machine_line(machine)}", args.plot)


def _compare(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="benchmark.py compare",
        description="Compare two files of the same part: ratios, and what is beyond chance.",
    )
    parser.add_argument("first", metavar="A.json")
    parser.add_argument("second", metavar="B.json")
    args = parser.parse_args(words)
    from centernet.benchmark.compare import compare_files

    print(compare_files(args.first, args.second))


def positive(word: str) -> int:
    """A whole number above 0, for argparse."""
    if not word.isdigit() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number above 0")
    return int(word)


def not_negative(word: str) -> int:
    """A whole number from 0, for argparse."""
    if not word.isdigit():
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number")
    return int(word)


def _rounds(parser: argparse.ArgumentParser, about: str = "timed repetitions", warmup: int | None = 1) -> None:
    parser.add_argument("--rounds", type=positive, default=5, help=f"{about} (default: 5)")
    if warmup is not None:
        parser.add_argument(
            "--warmup", type=not_negative, default=warmup, help=f"before them, not counted (default: {warmup})"
        )


def _words(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("overrides", nargs="*", help=about)


def _subjects(parser: argparse.ArgumentParser, forms: Sequence[str], default: Sequence[str]) -> None:
    parser.add_argument("--size", type=positive, nargs=2, default=[512, 512], metavar=("H", "W"), help="of the input")
    parser.add_argument("--batch", type=positive, nargs="+", default=[1], help="one or several (default: 1)")
    parser.add_argument("--threads", type=positive, nargs="+", default=[], help="one or several (default: torch's)")
    parser.add_argument("--forms", nargs="+", default=list(default), help=f"of {', '.join(forms)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--classes", type=positive, default=80)
    parser.add_argument("--memory", action="store_true", help="measure its growth too, each in a process of its own")
    parser.add_argument(
        "--peer", nargs="+", default=[], metavar="LIBRARY:NAME", help="beside it: torchvision:NAME, ..."
    )
    _rounds(parser)


# Nothing is imported before its options are understood.


def _data(args: Options) -> Record:
    from centernet.benchmark.data import measure_data

    return measure_data(args.overrides, args.rounds)


def _startup(args: Options) -> Record:
    from centernet.benchmark.made import counts
    from centernet.benchmark.startup import measure_startup

    return measure_startup(**counts(args.overrides, ("images", "boxes")))


def _encode(args: Options) -> Record:
    from centernet.benchmark.encode import measure_encode

    return measure_encode(args.overrides, args.rounds, args.warmup)


def _decode(args: Options) -> Record:
    from centernet.benchmark.decode import measure_decode
    from centernet.benchmark.made import counts

    return measure_decode(args.rounds, args.warmup, **counts(args.overrides, ("batch", "side", "k")))


def _model(args: Options) -> Record:
    from centernet.benchmark.model import Measured, measure_model
    from centernet.benchmark.networks import RECOMMENDED

    given: dict[str, Any] = vars(args)
    forms = given["forms"] or (["eager", "channels_last"] if args.backward else ["eager", "channels_last", "fused"])
    shared = {key: given[key] for key in ("threads", "device", "classes", "memory", "rounds", "warmup", "backward")}
    return measure_model(
        Measured(args.networks or RECOMMENDED[:1], tuple(args.size), args.batch, forms=forms, peers=args.peer, **shared)
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("networks", nargs="*", help="NAME or NAME:NECK (default: n)")
    parser.add_argument("--backward", action="store_true", help="a training step without its optimizer")
    _subjects(parser, (*NETWORK_FORMS, "channels_last_bf16"), [])


def _detect(args: Options) -> Record:
    from centernet.benchmark.detect import Detected, measure_detect

    given: dict[str, Any] = vars(args)
    shared = {
        key: given[key] for key in ("threads", "forms", "device", "classes", "images", "memory", "rounds", "warmup")
    }
    return measure_detect(Detected(args.subjects or ["n"], tuple(args.size), args.batch, peers=args.peer, **shared))


def _add_detect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subjects", nargs="*", help="networks (random weights), checkpoints, exported files (default: n)"
    )
    parser.add_argument("--images", metavar="PATH", help="an image or a folder (default: drawn ones of COCO's size)")
    _subjects(parser, (*NETWORK_FORMS, *FILE_FORMS), ["eager", "channels_last", "fused"])


def _metric(args: Options) -> Record:
    from centernet.benchmark.made import counts
    from centernet.benchmark.metric import SIZES, measure_metric

    return measure_metric(args.rounds, args.backend, **counts(args.overrides, tuple(SIZES)))


def _add_metric(parser: argparse.ArgumentParser) -> None:
    _words(parser, "images=N detections=N classes=N objects=N (default: 5000, 100, 80 and 7)")
    parser.add_argument("--backend", default="faster-coco-eval", help="or pycocotools")
    _rounds(parser, warmup=None)


def _train(args: Options) -> Record:
    from centernet.benchmark.train import measure_train

    return measure_train(args.overrides, args.rounds, args.warmup, args.operators)


def _add_train(parser: argparse.ArgumentParser) -> None:
    _words(parser, "as for train.py: data=shapes backbone=resnet18_half")
    _rounds(parser, "steps that are timed", 3)
    parser.add_argument(
        "--operators", type=not_negative, default=10, help="list this many of the largest (default: 10)"
    )


# Without an end that a kernel sets: on a CPU, `most` is for those who ask for it.
SIZES_OF = {"cuda": ["1", "32", "most"], "cpu": ["1", "8"]}


def _gpu(args: Options) -> Record:
    from centernet.benchmark.gpu import measure_gpu

    sizes = args.batch or SIZES_OF[args.device]
    return measure_gpu(args.device, args.networks, sizes, args.resolution, args.rounds, args.work, args.settings)


def _add_gpu(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--resolution", type=positive, default=512, metavar="SIDE", help="of the square input")
    parser.add_argument("--batch", nargs="+", help="sizes; most: as many as fit (default: 1 32 most; on a CPU 1 8)")
    parser.add_argument("--networks", nargs="+", default=["resnet18", "dla34", "hardnet85"])
    parser.add_argument("--work", nargs="+", choices=("train", "detect"), default=["train", "detect"])
    parser.add_argument("--settings", nargs="+", default=[], help="only these, such as float32 bf16 graphs")
    _rounds(parser, warmup=None)


def _networks(args: Options) -> Record:
    from centernet.benchmark.networks import RECOMMENDED, measure_networks

    return measure_networks(args.overrides or RECOMMENDED, tuple(args.size), args.batch, args.bf16, args.rounds)


def _add_networks(parser: argparse.ArgumentParser) -> None:
    _words(parser, "names; NAME:NECK has this neck and one hidden layer that all heads share (default: n s m)")
    parser.add_argument("--size", type=positive, nargs=2, default=[256, 320], metavar=("H", "W"), help="of the input")
    parser.add_argument("--batch", type=positive, default=8, help="of the training step (default: 8)")
    parser.add_argument("--bf16", action="store_true", help="16-bit convolutions, as trainer.precision=bf16-mixed")
    _rounds(parser, warmup=None)


def _kitti(args: Options) -> Record:
    from centernet.benchmark.kitti import measure_kitti
    from centernet.benchmark.made import counts

    return measure_kitti(**counts(args.overrides, ("frames", "detections")))


def _once(about: str) -> Callable[[argparse.ArgumentParser], None]:
    """Overrides, and nothing else: the work is too long to be repeated."""
    return lambda parser: _words(parser, about)


def _plain(about: str, warmup: int | None = 1) -> Callable[[argparse.ArgumentParser], None]:
    """Overrides and rounds, and nothing else."""

    def add(parser: argparse.ArgumentParser) -> None:
        _words(parser, about)
        _rounds(parser, warmup=warmup)

    return add


TRAINING = "as for train.py: data=coco data.root=DIR resolution=[512,512]"
PARTS = {
    "data": Part(
        "The training data path of one worker (read, warp, color, objects, collate) in images per second. Beside it, a "
        "bare cv2.imread of the same files.",
        _plain(TRAINING, None),
        _data,
    ),
    "encode": Part(
        "From the objects of a training batch to targets, in milliseconds. For the task and data of a training; with "
        "batch=N objects=N classes=N side=N, for made-up boxes and every task that learns from boxes.",
        _plain(f"{TRAINING}; or batch=N objects=N classes=N side=N"),
        _encode,
    ),
    "model": Part(
        "Forward passes or training steps of networks, form by form, beside peers of timm and torchvision in the same "
        "process. All take turns.",
        _add_model,
        _model,
    ),
    "detect": Part(
        "From image files to boxes, split into reading, the way into the input, network, decoding and the rest, for "
        "networks, checkpoints and exported files, form by form, beside detectors of torchvision. All take turns.",
        _add_detect,
        _detect,
    ),
    "decode": Part(
        "From raw maps to detections for every task, on a GPU if there is one. And of this, finding the peaks of the "
        "heatmaps, in the plain way and in that of centernet/ops/peaks.py.",
        _plain("batch=N side=N k=N (default: 16, 512, 100)"),
        _decode,
    ),
    "metric": Part(
        "COCO's evaluation of made-up detections, in seconds and memory. By default as many as of val2017.",
        _add_metric,
        _metric,
    ),
    "train": Part(
        "The whole training step as train.py makes it: images per second, where the time goes, memory, and the "
        "operators that take longest.",
        _add_train,
        _train,
    ),
    "gpu": Part(
        "Training steps and detection, option by option, from float32 as the original ran it to the best. Time, "
        "memory, and the share of what the device reaches with matrices; --device cpu makes the same table on a CPU.",
        _add_gpu,
        _gpu,
    ),
    "networks": Part(
        "What each network costs: parameters, multiply-accumulates, milliseconds of a training step by part, and of "
        "detection.",
        _add_networks,
        _networks,
    ),
    "startup": Part(
        "Setting up a generated data set of the size of COCO's train2017, the first time and again, and the memory of "
        "its workers in the course of an epoch.",
        _once("images=N boxes=N"),
        _startup,
    ),
    "kitti": Part(
        "KITTI's evaluation on made-up frames, as many as in its validation set.",
        _once("frames=N detections=N"),
        _kitti,
    ),
}
