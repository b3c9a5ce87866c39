"""Measure the cost of depth errors: `python scripts/depth_cost.py CHECKPOINT [data.root=KITTI ...]`.

Evaluates a 3D checkpoint on its validation data twice: unchanged, and with the depth of every detection replaced by
that of its matching object (same class, 2D overlap above one half). The remaining errors are not caused by depth.
"""

from __future__ import annotations

import argparse

from centernet.app import CONFIGS, understand_groups
from centernet.command import imports, run_command
from centernet.composition import composed
from centernet.continued import require_checkpoint
from centernet.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="RUN/best.ckpt of a 3D task")
    parser.add_argument("overrides", nargs="*", help="as for eval.py: data.root=DIR resolution=[384,1280]")
    args = parser.parse_args()
    require_checkpoint("eval", args.checkpoint)
    with imports():
        import torch
    with torch.inference_mode():
        run(args.checkpoint, args.overrides)


def run(checkpoint: str, overrides: list[str]) -> None:
    """Evaluate twice and print both."""
    import torch
    from hydra import initialize_config_dir

    from centernet.build import from_checkpoint
    from centernet.tasks.terms.space import Depth, put_true_depth

    understand_groups(overrides)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = composed("eval", [f"ckpt={checkpoint}", "paths.run=.", *overrides])
    module, data = from_checkpoint(checkpoint, cfg)
    task = module.task
    depth = next((term for term in task.terms.values() if isinstance(term, Depth)), None)
    if depth is None:
        raise InputError(f"{checkpoint} is of task {task.name}, which has no depth; give a checkpoint of a 3D task")
    data.prepare_data()
    data.setup("validate")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    detector = module.detector.eval().to(device)
    metrics = {
        name: task.metric(module.class_names, **module.metric_options) for name in ("as predicted", "true depth")
    }
    for batch in data.val_dataloader():
        found = {name: value.cpu() for name, value in detector(batch["image"].to(device)).items()}
        known = put_true_depth(found, batch["objects"], depth.scale(batch))
        for metric, detections in zip(metrics.values(), (found, known), strict=True):
            metric.update(task.lift(detections, batch), batch["truth"], batch["image_id"])
    results = {name: {key: float(value) for key, value in metric.compute().items()} for name, metric in metrics.items()}
    names = ["AP_2d", "AOS", "AP_bev", "AP_3d"]
    print(
        f"{checkpoint}: {task.name}, {len(data.datasets['val'])} images, {module.metric.overlap} overlaps; "
        "moderate, R40, in %\n"
    )
    print(f"{'':<24}" + "".join(f"{name:>10}" for name in names))
    for name, values in results.items():
        print(f"{name:<24}" + "".join(f"{100 * values[key]:10.2f}" for key in names))
    for label in module.class_names:
        for name, values in results.items():
            shown = (values[f"{label.lower()}_{kind}_moderate_R40"] for kind in ("2d", "aos", "bev", "3d"))
            print(f"{f'{label}, {name}':<24}" + "".join(f"{100 * value:10.2f}" for value in shown))


if __name__ == "__main__":
    run_command(main)
