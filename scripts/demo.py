"""Detect and draw: `python scripts/demo.py CHECKPOINT SOURCE... [--out DIR] [--threshold 0.3]`.

The checkpoint may be an exported file as well (model.onnx, model.xml, model.pt2).

A source is an image, a folder, a pattern, a text file of paths, a zip, an animation, a video, the number of a camera,
the address of a stream, or `-` for images from standard input. Draws pictures, or a video where frames have a rate, and
writes `detections.json`; `--write` adds other formats. A 3D model needs the camera: `--calib FILE` (or a folder of
files named as the images) or `--focal PIXELS`; KITTI's own `calib` folder is found automatically.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from centernet.command import hidden, imports, run_command
from centernet.deferred import defer_compiler
from centernet.errors import InputError
from centernet.folders import require_file, require_writable

if TYPE_CHECKING:
    import numpy as np

    from centernet.data.outputs import Output, VideoFile
    from centernet.data.sources import Frame, Source
    from centernet.results import Result

MODES = ("fit", "keep", "stretch", "width")  # of centernet.data.warps, which takes seconds to import
FORMATS = ("csv", "coco", "kitti", "mot")
PRECISIONS = ("32-true", "bf16-mixed")  # of centernet.inference, likewise
TELL = 1.0  # seconds between two messages on the progress of a video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="RUN/best.ckpt, or an exported file: model.onnx, model.xml, model.pt2")
    parser.add_argument("sources", nargs="+", metavar="source", help="images, folders, videos, ...; see above")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="output folder (default: runs/demo)")
    parser.add_argument("--threshold", type=float, help="minimum score to draw (default: the task's, mostly 0.3)")
    parser.add_argument(
        "--resolution", type=int, nargs=2, metavar=("H", "W"), help="input size; default: the training's"
    )
    parser.add_argument("--mode", choices=MODES, help="how images become inputs; default: the training's")
    parser.add_argument("--device", help="cpu, cuda, ...; default: cuda if available")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="bf16-mixed: convolutions in 16 bits, faster on GPUs and CPUs that have them (default: 32-true)",
    )
    parser.add_argument("--batch", type=int, default=4, help="images that the network sees at once (default: 4)")
    parser.add_argument("--bit-depth", type=int, help="bits that 16-bit images use; default: the training's")
    parser.add_argument("--calib", type=Path, help="3D: KITTI calibration file, or a folder with one per image")
    parser.add_argument("--focal", type=float, help="3D without calibration: focal length in image pixels")
    modes = parser.add_argument_group("inference (docs/inference.md)")
    modes.add_argument("--flip", action="store_true", help="average with the mirror image")
    modes.add_argument("--scales", type=float, nargs="+", help="scales of the input, such as 0.5 1 1.5")
    modes.add_argument("--nms", help="soft, linear, plain or none; default: soft with several scales")
    modes.add_argument("--tiles", type=int, nargs=2, metavar=("H", "W"), help="pieces of a large input")
    modes.add_argument("--overlap", type=float, help="share of a tile that is in its neighbor too (default: 0.2)")
    modes.add_argument("--track", action="store_true", help="number objects through the frames")
    written = parser.add_argument_group("output")
    written.add_argument("--write", nargs="+", default=[], choices=FORMATS, help="other formats of the detections")
    written.add_argument("--pictures", action="store_true", help="a picture per frame of a video too")
    written.add_argument("--no-drawing", action="store_true", help="neither pictures nor videos")
    written.add_argument("--heatmap", action="store_true", help="also the heatmaps over each image")
    written.add_argument("--crops", action="store_true", help="also every object by itself, in crops/CLASS/")
    written.add_argument("--show", action="store_true", help="also in a window, until q is pressed")
    args = parser.parse_args()
    check(args)
    run(args)


def check(args: argparse.Namespace) -> None:
    """Raise ``InputError`` for arguments that cannot work, before the imports that take seconds."""
    for source in args.sources:
        is_path = source != "-" and "://" not in source and not source.isdigit() and not set(source) & set("*?[")
        if is_path and not Path(source).exists():
            raise InputError(f"{source} does not exist; give an image, a folder, a video, or - for standard input")
    require_file(args.checkpoint, f"{args.checkpoint}: the file does not exist; give a checkpoint")
    require_writable(args.out, "--out")
    if args.batch < 1:
        raise InputError(f"--batch {args.batch} is too small; use at least 1")
    if args.focal is not None and args.calib is not None:
        raise InputError("--calib and --focal both define the camera; give one of them")
    if args.focal is not None and not 0 < args.focal < float("inf"):
        raise InputError(f"--focal {args.focal:g} is not a focal length; give it in pixels of the image (KITTI: 721)")
    if args.calib is not None and not args.calib.exists():
        raise InputError(f"--calib {args.calib} does not exist; give a KITTI calibration file or a folder of them")


def run(args: argparse.Namespace) -> None:
    """Load, detect, draw, write."""
    with imports(), hidden("wandb"):
        defer_compiler()
        from centernet.data.images import find_images
        from centernet.data.sources import open_source
        from centernet.inference import Predictor
    for folder in filter(Path.is_dir, map(Path, args.sources)):
        find_images(folder)  # says what is missing before a model is loaded
    device = None if args.device is None else usable_device(args.device)
    options = ("flip", "scales", "nms", "tiles", "overlap")
    inference = {name: value for name in options if (value := getattr(args, name)) not in (None, False)}
    predictor = Predictor.from_checkpoint(
        *(args.checkpoint, args.resolution, args.mode, device, args.batch, args.bit_depth, inference),
        precision=args.precision,
    )
    task = predictor.task
    if args.heatmap and not predictor.detector.has_maps:
        raise InputError(
            f"{args.checkpoint} gives detections only; remove --heatmap, or use the checkpoint it was made from"
        )
    if not task.IMAGE_FIELDS and (args.focal is not None or args.calib is not None):
        raise InputError(f"{args.checkpoint} does not predict 3D boxes; remove --calib and --focal")
    source = open_source(args.sources, predictor.bit_depth)
    writer = Writer(args, predictor, source)
    try:
        work(args, predictor, source, writer)
    finally:  # also what was found before Ctrl-C
        writer.close()
    print(writer.summary())
    if writer.failed:
        sys.exit(f"error: {writer.failed} of {writer.done + writer.failed} images failed, see above")


def work(args: argparse.Namespace, predictor: Any, source: Source, writer: Writer) -> None:
    """Reading, the network, and drawing side by side: each has a thread."""
    from centernet.data.sources import ahead

    frames = ahead(readable(source, predictor.task, args, writer), 2 * args.batch)
    waiting: deque[Future[None]] = deque()
    with contextlib.closing(frames), ThreadPoolExecutor(1) as drawing:
        while chunk := list(itertools.islice(frames, args.batch)):
            begun = time.perf_counter()
            results = predictor.predict([frame.image for frame, _ in chunk], about=[fields for _, fields in chunk])
            writer.detecting += time.perf_counter() - begun
            for (frame, fields), result in zip(chunk, results, strict=True):
                waiting.append(drawing.submit(writer.add, frame, fields, result))
            while len(waiting) > 2 * args.batch:
                waiting.popleft().result()
            if writer.is_closed:  # the window
                break
        for each in waiting:
            each.result()


def readable(
    source: Source, task: Any, args: argparse.Namespace, writer: Writer
) -> Iterator[tuple[Frame, dict[str, np.ndarray]]]:
    """The frames that can be read, with what the task needs to know of them; others are told and counted."""
    for frame in source:
        try:
            if isinstance(frame.image, InputError):
                raise frame.image
            yield frame, image_fields(task, frame, args)
        except InputError as error:
            # One broken file must not stop the others; the exit code reports it.
            print(f"error: {error}", file=sys.stderr)
            writer.failed += 1


def image_fields(task: Any, frame: Frame, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """What the task needs to know of an image besides its pixels."""
    if args.focal is not None:
        known = task.image_fields({"focal": args.focal}, frame.image.shape[:2])
        return {name: value.numpy() for name, value in known.items()}
    from centernet.data.readers import IMAGE_READERS

    return {name: IMAGE_READERS[name](frame.path or Path(frame.name), args.calib) for name in task.IMAGE_FIELDS}


class Writer:
    """Numbers, draws and writes the detections of one frame after the other."""

    def __init__(self, args: argparse.Namespace, predictor: Any, source: Source) -> None:
        from centernet.data import outputs
        from centernet.tracking import Tracker

        self.args, self.predictor, self.source = args, predictor, source
        self.threshold = predictor.task.threshold if args.threshold is None else args.threshold
        self.tracker = Tracker(self.threshold, self.threshold / 2) if args.track else None
        self.heads = [name for name, head in predictor.task.heads.items() if head.is_heatmap] if args.heatmap else []
        self.is_video = source.rate is not None
        self.targets = {} if source.files is None else picture_files(source.files, args.out, self.heads)
        make: dict[str, Callable[[], Output]] = {
            "csv": lambda: outputs.CsvFile(args.out / "detections.csv"),
            "coco": lambda: outputs.CocoFile(args.out / "coco.json", predictor.class_names),
            "kitti": lambda: outputs.KittiFolder(args.out / "kitti"),
            "mot": lambda: outputs.TracksFile(args.out / "tracks.txt"),
        }
        self.outputs: list[Output] = [outputs.JsonFile(args.out / "detections.json")]
        self.outputs += [make[name]() for name in dict.fromkeys(args.write)]
        self.video: VideoFile | None = None
        if self.is_video and not args.no_drawing:
            self.video = outputs.VideoFile(args.out / "detections.mp4", source.rate)
        self.done = self.failed = 0
        self.is_closed = self.is_broken = False
        self.started = self.told = time.perf_counter()
        self.detecting = 0.0
        """Seconds of them in which the network was at work."""

    def add(self, frame: Frame, fields: Mapping[str, Any], given: Result) -> None:
        """Write one frame and its detections; nothing more after one that failed."""
        if self.is_broken:
            return
        try:
            self._add(frame, fields, given)
        except BaseException:
            self.is_broken = True
            raise

    def _add(self, frame: Frame, fields: Mapping[str, Any], given: Result) -> None:
        import numpy as np

        from centernet.fields import index

        result = dict(given)
        names = result.pop("names")
        kept = result["scores"] >= self.threshold
        if self.tracker is not None:
            import torch

            result["ids"] = torch.from_numpy(self.tracker.update(result))
            kept |= result["ids"] > 0
        found = {**index(result, kept), "names": list(itertools.compress(names, kept))}
        for output in self.outputs:
            output.add(frame.name, frame.image.shape[:2], found)
        if not self.args.no_drawing or self.args.show:
            self._draw(frame, fields, {name: np.asarray(value) for name, value in result.items()}, found)
        if self.args.crops:
            self._crop(frame, found)
        self.done += 1
        self._tell(frame.name, found["names"])

    def _draw(self, frame: Frame, fields: Mapping[str, Any], rows: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        import numpy as np

        from centernet import visualize as v

        look = v.Look(self.predictor.class_names, self.predictor.task.facts, fields)
        big, factor = v.enlarge(frame.image)
        if "ids" in rows and found["names"]:  # what is tracked is drawn whatever its score
            rows = {name: np.asarray(value) for name, value in found.items() if name != "names"}
            picture = v.draw_detections(big, rows, look, 0.0, factor)
        else:
            picture = v.draw_detections(big, rows, look, self.threshold, factor)
        if views := v.views_from_above({k: value for k, value in found.items() if k != "names"}, look):
            picture = v.panel({frame.name: picture, **views}, columns=1)
        if self.args.show:
            self._show(picture)
        if self.args.no_drawing:
            return
        if self.video is not None:
            self.video.write(picture)
        if self.video is None or self.args.pictures:
            target = self.targets.get(frame.name) or self.args.out / f"{frame.name.removesuffix('.png')}.png"
            v.save_image(target, picture)
            for head in self.heads:
                heatmap, matrix = self.predictor.heatmap(frame.image, head)
                grow = np.diag([1 / factor, 1 / factor, 1.0])
                over = v.overlay_heatmap(big, heatmap, matrix @ grow, self.predictor.task.stride)
                caption = f"{head.replace('_', ' ')}: highest {heatmap.max():.2f}"
                whole = v.panel({caption: over}, title=frame.name, scales=[caption])
                v.save_image(target.with_name(f"{target.stem}_{head}.png"), whole)

    def _show(self, picture: np.ndarray) -> None:
        import cv2

        try:
            cv2.imshow("centernet", picture[..., ::-1])
            self.is_closed = cv2.waitKey(1) & 0xFF == ord("q")
        except cv2.error:
            raise InputError(
                "--show needs a window, which this OpenCV (headless) or this machine does not have; leave it out"
            ) from None

    def _crop(self, frame: Frame, found: Mapping[str, Any]) -> None:
        from centernet.visualize import save_image

        height, width = frame.image.shape[:2]
        stem = Path(frame.name).with_suffix("")
        for n, (name, box) in enumerate(zip(found["names"], found["boxes"].tolist(), strict=True)):
            x1, y1 = max(int(box[0]), 0), max(int(box[1]), 0)
            x2, y2 = min(int(box[2]) + 1, width), min(int(box[3]) + 1, height)
            if x1 < x2 and y1 < y2:
                place = self.args.out / "crops" / name.replace("/", "_")
                save_image(place / stem.parent / f"{stem.name}_{n}.png", frame.image[y1:y2, x1:x2])

    def _tell(self, name: str, names: Sequence[str]) -> None:
        if not self.is_video:
            counts = Counter(names)
            print(f"{name}: {', '.join(f'{count} {label}' for label, count in counts.items()) or 'nothing'}")
            return
        now = time.perf_counter()
        if now - self.told >= TELL:
            self.told = now
            of = f" of {self.source.count}" if self.source.count else ""
            rate = self.done / (now - self.started)
            print(f"\r{self.done}{of} frames, {rate:.1f} frames/s", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Finish all files; what has been written so far is whole."""
        if self.told > self.started:
            print(file=sys.stderr)
        for output in [*self.outputs, *([self.video] if self.video is not None else [])]:
            output.close()

    def summary(self) -> str:
        """What was done, and where it is."""
        seconds = time.perf_counter() - self.started
        what = "frames" if self.is_video else "images"
        drawn = "" if self.args.no_drawing else "detections.mp4, " if self.video is not None else "pictures and "
        if self.video is not None and self.args.pictures:
            drawn = "detections.mp4, pictures and "
        named = ", ".join(["detections.json", *self.args.write])
        rate = f"{self.done / max(seconds, 1e-9):.1f} frames/s, " if self.is_video else ""
        spent = f"{rate}network {self.detecting:.1f} s"
        return f"{self.done} {what} in {seconds:.1f} s ({spent}); {drawn}{named} in {self.args.out}/"


def usable_device(name: str) -> str:
    """The name, if torch knows this device and the machine has it; raises ``InputError`` otherwise."""
    import torch

    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError):
        known = "cpu or cuda" if torch.cuda.is_available() else "cpu; no CUDA device is available"
        raise InputError(f"--device {name} is not a device of this machine; use {known}") from None
    return name


def picture_files(files: Mapping[str, Path], out: Path, heads: Sequence[str] = ()) -> dict[str, Path]:
    """The file below ``out`` for the picture of each named image: ``a.png`` for ``a.jpg``, but ``a.jpg.png`` where that
    would be another's file as well. Raises ``InputError`` if an image itself would be overwritten.
    """

    def files_of(name: Path) -> list[str]:
        """What is written for an image, its heatmaps too, in lower case: some file systems know no other."""
        stem = str(name.with_suffix("")).lower()
        return [stem, *(f"{stem}_{head}" for head in heads)]

    counts = Counter(file for name in files for file in files_of(Path(name)))
    targets = {}
    for name in map(Path, files):
        is_alone = all(counts[file] == 1 for file in files_of(name))
        targets[str(name)] = out / (name.with_suffix(".png") if is_alone else name.with_name(f"{name.name}.png"))
    images = {path.resolve() for path in files.values()}
    if overwritten := [target for target in targets.values() if target.resolve() in images]:
        raise InputError(
            f"--out {out} holds the images, and {overwritten[0]} would be overwritten; give another folder"
        )
    return targets


if __name__ == "__main__":
    run_command(main)
