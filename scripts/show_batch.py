"""Show what a network learns from: `python scripts/show_batch.py data=coco data.root=DIR augment=modern`.

The first thing to do with data of your own. Draws the first training images as augmentation makes them, with their
objects, beside the target heatmaps that they become; with `--checkpoint`, beside what that model says, too. Options are
those of train.py; prints what is in the batch.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from centernet.command import hidden, imports, run_command
from centernet.deferred import defer_compiler
from centernet.errors import InputError
from centernet.folders import require_file, require_writable_file

GAP = 8  # pixels between two inputs

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from centernet.structures import Batch, Outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="as for train.py: data=coco data.root=DIR task=ctdet augment=none")
    parser.add_argument("--count", type=int, default=6, help="images to show (default: 6)")
    parser.add_argument("--checkpoint", help="RUN/best.ckpt: also its heatmaps")
    parser.add_argument("--out", type=Path, default=Path("runs/batch.png"), help="picture (default: runs/batch.png)")
    args = parser.parse_intermixed_args()
    if args.count < 1:
        raise InputError(f"--count {args.count} is too small; use at least 1")
    require_writable_file(str(args.out), "--out")
    if args.checkpoint is not None:
        require_file(args.checkpoint, f"{args.checkpoint}: the file does not exist; give a checkpoint")
    show(args)


def show(args: argparse.Namespace) -> None:
    """Read, encode, draw."""
    with imports(), hidden("wandb"):
        defer_compiler()
        from hydra import compose, initialize_config_dir

        from centernet.app import CONFIGS, understand_groups
        from centernet.build import build_datamodule, plain
        from centernet.checkpoint import load_detector
        from centernet.data.datamodule import collate
        from centernet.sizing import settle
        from centernet.tasks import build_task
        from centernet.visualize import save_image
    understand_groups(args.overrides)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", args.overrides)
    settle(cfg)
    data = build_datamodule(cfg.data, cfg.backbone)
    data.prepare_data()
    data.setup("fit")
    dataset = data.datasets["train"]
    options = plain(cfg.task)
    task = build_task(options.pop("name"), len(data.class_names), data.facts, **options)
    task.check_data(dataset.fields, dataset.facts, f"the training data ({dataset.source})")
    draws = [draw for _, draw in zip(range(args.count), data.train_dataloader().sampler, strict=False)]
    batch = collate([dataset[draw] for draw in draws])
    height, width = batch["image"].shape[-2:]
    size = (height // task.stride, width // task.stride)
    targets = task.activate(task.perfect(task.encode(batch["objects"], size), size))
    maps = {"target": targets}
    if args.checkpoint is not None:
        detector, _ = load_detector(args.checkpoint)
        if detector.task.num_classes != task.num_classes or detector.task.name != task.name:
            raise InputError(
                f"{args.checkpoint} is a model for task {detector.task.name} with {detector.task.num_classes} classes, "
                f"this is {task.name} with {task.num_classes}; give task={detector.task.name} and its data"
            )
        maps["output"] = outputs_of(detector.eval(), batch["image"])
    heads = [name for name, head in task.heads.items() if head.is_heatmap]
    rows = {int(image_id): row for row, image_id in enumerate(dataset.ids)}
    names = [Path(dataset.files[rows[image_id]]).name for image_id in batch["image_id"].tolist()]
    save_image(args.out, draw(batch, maps, heads, names, data, task))
    print(describe(batch, data.class_names, task.stride))
    print(f"{len(names)} inputs of {width}x{height} pixels with their targets: {args.out}")


def outputs_of(detector: Any, images: Tensor) -> Outputs:
    """Activated maps of a model."""
    import torch

    with torch.inference_mode():
        return detector.find(images).maps


def draw(
    batch: Batch, maps: dict[str, Outputs], heads: list[str], names: list[str], data: Any, task: Any
) -> np.ndarray:
    """A row for each input: its objects, then each heatmap's largest value over all classes."""
    import cv2
    import numpy as np

    from centernet.visualize import Look, draw_inputs, overlay_heatmap, panel

    look, rows = Look(data.class_names, task.facts), []
    for n, name in enumerate(names):
        one = {
            key: value[n : n + 1] if not isinstance(value, dict) else {k: v[n : n + 1] for k, v in value.items()}
            for key, value in batch.items()
        }
        drawn = draw_inputs([one], [name], look)  # below a bar with the name, which stands above the row here
        pixels = batch["image"][n].permute(1, 2, 0).numpy()
        factor = drawn.shape[1] / pixels.shape[1]
        image = cv2.resize(pixels, (drawn.shape[1], round(pixels.shape[0] * factor)), interpolation=cv2.INTER_LINEAR)
        pictures = {"objects": drawn[-image.shape[0] :]}
        scales = []
        for side, outputs in maps.items():
            for head in heads:
                peak = outputs[head][n].amax(0).float().numpy()
                caption = f"{side}: {head.replace('_', ' ')}, highest {peak.max():.2f}"
                pictures[caption] = overlay_heatmap(image, peak, np.diag([1 / factor, 1 / factor, 1.0]), task.stride)
                scales.append(caption)
        rows.append(panel(pictures, title=name, scales=scales))
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0))) for row in rows])


def describe(batch: Batch, class_names: list[str], stride: int) -> str:
    """How many objects of each class, and how large they are in the input."""
    objects = batch["objects"]
    kept = objects["valid"] & ~objects["crowd"]
    labels = Counter(class_names[label] for label in objects["labels"][kept].tolist())
    counts = ", ".join(f"{count} {name}" for name, count in labels.most_common(8)) or "no objects"
    boxes = objects["boxes"][kept]
    if not len(boxes):
        return f"{counts}: check the annotations, or show more images with --count"
    sides = (boxes[:, 2:] - boxes[:, :2]).double().clamp(min=0).prod(-1).sqrt()
    small = int((sides < stride).sum())
    told = f"{counts}; sides of {sides.min():.0f} to {sides.max():.0f} pixels, median {sides.median():.0f}"
    return told + (f"; {small} objects are smaller than a cell of {stride} pixels: raise resolution" if small else "")


if __name__ == "__main__":
    run_command(main)
