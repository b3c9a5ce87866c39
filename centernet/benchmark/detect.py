"""From image files to boxes, split into reading, the way into the network's input, network, decoding, and the rest."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from centernet.benchmark.forms import FORMS, in_form, require_forms
from centernet.benchmark.made import draw_photos, spread_out
from centernet.benchmark.model import require_device
from centernet.benchmark.networks import require_size, spec_of, usual_task
from centernet.benchmark.peers import build_peer
from centernet.benchmark.record import Record, table
from centernet.benchmark.timing import NOTABLE, PeakMemory, in_own_process, waiting_for
from centernet.errors import InputError
from centernet.folders import require_file

PARTS = ("read", "pre", "network", "decode", "post")
FILES = (".onnx", ".xml", ".pt2")


class Detected(NamedTuple):
    """What the part ``detect`` is to measure: every subject in every form, with every batch and number of threads.

    ``subjects``: networks (random weights, the recommended task), checkpoints, or exported files, which have a form of
    their own. ``images``: an image file or a folder; None for drawn ones of COCO's size.
    """

    subjects: Sequence[str]
    size: tuple[int, int] = (512, 512)
    batches: Sequence[int] = (1,)
    threads: Sequence[int] = ()  # empty: as many as torch has
    forms: Sequence[str] = ("eager", "channels_last", "fused")
    device: str = "cpu"
    classes: int = 80
    images: str | None = None
    memory: bool = False
    peers: Sequence[str] = ()
    rounds: int = 5
    warmup: int = 1


Run = Callable[[Sequence[Path]], dict[str, float]]
"""Detects in these files and says how many seconds each of ``PARTS`` took; what is not told apart is ``network``."""


def measure_detect(given: Detected) -> Record:
    """Print and record milliseconds from files to boxes by part, in turns, and images per second; with ``memory``, the
    growth at the peak, each in a process of its own. Raises ``InputError`` for what cannot be measured."""
    require_forms(given.forms, "detect")
    require_device(given.device, "detect")
    subjects = find_subjects(given)
    record = Record("detect", given._asdict())
    before = torch.get_num_threads(), cv2.getNumThreads()
    with tempfile.TemporaryDirectory() as folder:
        files = find_files(given, Path(folder))
        exports = export_files(given, subjects, files, Path(folder))
        try:
            for threads, batch in itertools.product(given.threads or (before[0],), given.batches):
                torch.set_num_threads(threads)
                cv2.setNumThreads(threads)
                runs = {
                    subject: build_run(given, *subject, batch, threads, exports.get((*subject, batch)))
                    for subject in subjects
                }
                _measure(given, record, runs, files, batch, threads)
        finally:
            torch.set_num_threads(before[0])
            cv2.setNumThreads(before[1])
        if given.memory:
            _measure_memory(given, record, subjects, files, exports)
    print(table([row for row in record.rows if row.labels.get("part", "whole") == "whole"]))
    return record


def find_subjects(given: Detected) -> list[tuple[str, str]]:
    """Every network, checkpoint, file and peer with each of its forms."""
    found = []
    for name in given.subjects:
        if name.endswith((*FILES, ".ckpt")):
            require_file(name, f"{name}: the file does not exist; give a checkpoint, an exported file or a network")
        else:
            require_size("detect", name, spec_of(name), given.size)
        found += [(name, Path(name).suffix[1:])] if name.endswith(FILES) else [(name, form) for form in given.forms]
    files = [form for name, form in found if name.endswith(FILES) or FORMS[form].target]
    if files and given.device != "cpu":
        raise InputError(f"detect: exported files ({files[0]}) run on a CPU here; use --device cpu, or other --forms")
    for word in given.peers:
        if not build_peer(word, given.classes, given.size).finds_boxes:
            raise InputError(f"detect: --peer {word} finds no boxes; measure it with the part model")
        found.append((word, "eager"))
    return found


def find_files(given: Detected, folder: Path) -> list[Path]:
    from centernet.data.images import find_images

    if given.images is None:
        return draw_photos(folder, max(4, *given.batches))
    path = Path(given.images)
    if not path.exists():
        raise InputError(f"detect: --images {path} does not exist; give an image or a folder of images")
    return [path] if path.is_file() else find_images(path)


def _measure(
    given: Detected,
    record: Record,
    runs: Mapping[tuple[str, str], Run],
    files: Sequence[Path],
    batch: int,
    threads: int,
) -> None:
    taken: dict[tuple[str, str], list[dict[str, float]]] = {subject: [] for subject in runs}
    endless = itertools.cycle(files)
    for turn in range(given.warmup + given.rounds):
        chunk = list(itertools.islice(endless, batch))
        for subject, run in runs.items():
            parts = run(chunk)
            if turn >= given.warmup:
                taken[subject].append({name: 1000 * seconds for name, seconds in parts.items()})
    print(
        f"{given.size[0]}x{given.size[1]}, batch {batch}, {threads} threads, {given.device}: median ms a batch by part"
    )
    width = max(len(" ".join(subject)) for subject in runs)
    print(f"{'':<{width}}" + "".join(f"{part:>9}" for part in (*PARTS, "whole", "images/s")))
    for (name, form), rounds in taken.items():
        labels = {"network": name, "form": form, "batch": batch, "threads": threads}
        told = [part for part in PARTS if part in rounds[0]]
        rows = {
            part: record.add_many({**labels, "part": part}, "time", "ms", [each[part] for each in rounds])
            for part in told
        }
        whole = [sum(each.values()) for each in rounds]
        rows["whole"] = record.add_many({**labels, "part": "whole"}, "time", "ms", whole)
        rates = [1000 * batch / each for each in whole]
        rows["rate"] = record.add_many(labels, "rate", "images/s", rates, "more")
        shown = [f"{rows[part].value:9.2f}" if part in rows else f"{'':>9}" for part in (*PARTS, "whole", "rate")]
        mark = " !" if rows["whole"].spread and rows["whole"].spread.share > NOTABLE else ""
        print(f"{f'{name} {form}':<{width}}" + "".join(shown) + mark)


def build_run(given: Detected, name: str, form: str, batch: int, threads: int, file: Path | None = None) -> Run:
    """What detects, ready to run. ``file``: the exported one, for a form that needs it."""
    if name in given.peers:
        return _peer_run(given, name)
    from centernet.inference import Predictor

    if name.endswith(FILES) or file is not None:
        return _artifact_run(str(file or name), threads, given.size)
    detector, description = _detector(given, name)
    made, spec = in_form(detector, FORMS[form]), description["eval"]
    names = description["module"]["class_names"]
    divisor = made.network.divisor
    predictor = Predictor(made, names, spec["resolution"], spec["mode"], divisor, given.device, batch)
    return _predictor_run(predictor)


def _detector(given: Detected, name: str) -> tuple[Any, dict[str, Any]]:
    """A detector and its description, as ``checkpoint.load_detector`` gives them; of random weights for the name of a
    network."""
    if name.endswith(".ckpt"):
        from centernet.checkpoint import USUAL_EVAL, load_detector

        detector, description = load_detector(name)
        return detector, {**description, "eval": {**USUAL_EVAL, **(description["eval"] or {})}}
    from centernet.detector import build_detector

    torch.manual_seed(0)
    names, spec = [f"class {n}" for n in range(given.classes)], spec_of(name)
    detector = build_detector(usual_task(), names, spec)
    spread_out(detector.network, given.size)
    module = {"task": usual_task(), "class_names": names, "facts": {}, "backbone": spec, "task_options": {}}
    evaluation = {"resolution": list(given.size), "mode": "fit", "divisor": detector.network.divisor}
    return detector, {"module": {**module, "normalization": detector.normalization}, "eval": evaluation}


def export_files(
    given: Detected, subjects: Sequence[tuple[str, str]], files: Sequence[Path], folder: Path
) -> dict[tuple[str, str, int], Path]:
    """The exported file of every network, form and batch that needs one, compared with PyTorch on the images."""
    wanted = [(name, form) for name, form in subjects if not name.endswith(FILES) and FORMS[form].target]
    made = {}
    for number, ((name, form), batch) in enumerate(itertools.product(wanted, given.batches)):
        from centernet.export.agreement import MismatchError
        from centernet.export.graph import Shape
        from centernet.export.make import FORMATS as TARGETS
        from centernet.export.make import export

        detector, description = _detector(given, name)
        target, precision = FORMS[form].target, FORMS[form].precision
        shape = Shape(batch, tuple(description["eval"]["resolution"]), "uint8", "none")
        path = folder / f"{number}{TARGETS[target].suffix}"
        try:
            export(detector, description, target, path, shape, list(files)[:batch], precision, list(files))
        except MismatchError as error:
            # Scores of random weights are saturated in places: neighboring cells are then equal up to rounding, which
            # decides which of them are peaks. The file is written, and as fast as any.
            if name.endswith(".ckpt"):
                raise InputError(f"detect: {name} as {form}: {error}; measure another form") from None
            print(f"{name} as {form}: {error}, as may be with random weights; a checkpoint would verify it")
        made[name, form, batch] = path
    return made


def _predictor_run(predictor: Any) -> Run:
    """The predictor itself, with a stopwatch around its steps."""
    spent = dict.fromkeys((*PARTS, "began"), 0.0)
    wait = waiting_for(predictor.device)

    def now() -> float:
        if wait is not None:
            wait()
        return time.perf_counter()

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            started = now()
            if part == "network":
                spent["began"] = spent["began"] or started
            result = work(*args)
            spent[part] += now() - started
            return result

        return run

    predictor._pixels = timed("read", predictor._pixels)
    detector = predictor.detector
    detector.outputs = timed("network", detector.outputs)
    detector.task.activate = timed("decode", detector.task.activate)
    detector.task.decode = timed("decode", detector.task.decode)

    def run(files: Sequence[Path]) -> dict[str, float]:
        spent.update(dict.fromkeys(spent, 0.0))
        started = now()
        predictor.predict(files)
        whole = now() - started
        parts = {part: spent[part] for part in PARTS}
        # Up to the network there is nothing but reading and the way into its input.
        parts["pre"] = spent["began"] - started - parts["read"]
        parts["post"] = whole - sum(parts[part] for part in ("read", "pre", "network", "decode"))
        return parts

    return run


def _read(files: Sequence[Path], pipeline: Any) -> tuple[dict[str, float], torch.Tensor, torch.Tensor, list[Any]]:
    """Seconds, inputs, matrices and sizes of image files, as ``Predictor`` makes them."""
    from centernet.data.images import pixels_of
    from centernet.data.transforms import warp_image

    started = time.perf_counter()
    pixels = [pixels_of(file) for file in files]
    read = time.perf_counter()
    images, matrices = map(torch.stack, zip(*(warp_image(pipeline, each) for each in pixels), strict=True))
    ended = time.perf_counter()
    return {"read": read - started, "pre": ended - read}, images, matrices, [each.shape[:2] for each in pixels]


def _artifact_run(path: str, threads: int, size: tuple[int, int]) -> Run:
    """An exported file, in its own runtime; decoding is inside it."""
    from centernet.data.transforms import eval_pipeline
    from centernet.export.runtime import Artifact
    from centernet.fields import unbatch
    from centernet.results import Result
    from centernet.tasks import build_task

    artifact = Artifact.load(path, threads=threads)
    about = artifact.metadata
    task = build_task(about["task"], len(about["class_names"]), about.get("facts"), **about.get("task_options", {}))
    fixed = about["input"]["shape"][2:]
    pipeline = eval_pipeline(tuple(fixed) if all(fixed) else size)

    def run(files: Sequence[Path]) -> dict[str, float]:
        parts, images, matrices, sizes = _read(files, pipeline)
        started = time.perf_counter()
        found = artifact.run(images.numpy())
        ran = time.perf_counter()
        detections = {name: torch.from_numpy(np.asarray(value)) for name, value in found.items()}
        batch = {"input_from_image": matrices, "image_size": torch.tensor(sizes)}
        lifted = task.settle(task.lift(detections, batch))
        for each, (height, width) in zip(unbatch(lifted, 0.0), sizes, strict=True):
            Result(each, about["class_names"], [height, width], task.facts, {})
        return {**parts, "network": ran - started, "post": time.perf_counter() - ran}

    return run


def _peer_run(given: Detected, word: str) -> Run:
    """A detector of another library: our reading and the same input, then all that it does to find boxes."""
    from centernet.data.transforms import eval_pipeline

    torch.manual_seed(0)
    device = torch.device(given.device)
    peer, pipeline, wait = build_peer(word, given.classes, given.size), eval_pipeline(given.size), waiting_for(device)
    peer.network.eval().to(device)

    @torch.inference_mode()
    def run(files: Sequence[Path]) -> dict[str, float]:
        parts, images, matrices, _ = _read(files, pipeline)
        started = time.perf_counter()
        scaled = images.to(device).float() / 255
        if wait is not None:
            wait()
        moved = time.perf_counter()
        found = peer.forward(scaled)
        if wait is not None:
            wait()
        ran = time.perf_counter()
        for each, matrix in zip(found, matrices, strict=True):
            scale, shift = matrix[:2, :2].diagonal().float(), matrix[:2, 2].float()
            each["boxes"] = (each["boxes"].cpu() - shift.repeat(2)) / scale.repeat(2)
        ended = time.perf_counter()
        return {**parts, "pre": parts["pre"] + moved - started, "network": ran - moved, "post": ended - ran}

    return run


def _measure_memory(
    given: Detected,
    record: Record,
    subjects: Sequence[tuple[str, str]],
    files: Sequence[Path],
    exports: Mapping[tuple[str, str, int], Path],
) -> None:
    for (name, form), batch in itertools.product(subjects, given.batches):
        grown = in_own_process(_grown, given, name, form, batch, list(files), exports.get((name, form, batch)))
        record.add({"network": name, "form": form, "batch": batch}, "memory", "MB", grown)


def _grown(given: Detected, name: str, form: str, batch: int, files: Sequence[Path], file: Path | None) -> float:
    """Megabytes at the peak of two rounds, the network included, the libraries not."""
    import torchvision.models.detection  # noqa: F401

    import centernet.inference  # noqa: F401

    watched = PeakMemory(given.device)
    run = build_run(given, name, form, batch, torch.get_num_threads(), file)
    chunk = list(itertools.islice(itertools.cycle(files), batch))
    run(chunk)
    run(chunk)
    return watched.growth()
