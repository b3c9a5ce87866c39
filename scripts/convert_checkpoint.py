"""Convert original weights to a checkpoint of this project: `python scripts/convert_checkpoint.py ORIGINAL.pth
OUT.ckpt`.

Takes the files of xingyizhou/CenterNet and CenterNet-HarDNet. The result is an ordinary checkpoint for `eval.py
ckpt=OUT`, `scripts/demo.py OUT` and `train.py pretrained=OUT`. Code in the file never runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from centernet.command import imports, run_command
from centernet.errors import InputError
from centernet.folders import require_file, require_writable_file

if TYPE_CHECKING:
    from centernet.models.convert import Conversion
    from centernet.module import CenterNetModule

MODES = ("fit", "keep", "stretch", "width")  # of centernet.data.warps, which takes seconds to import


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("original", help="the .pth file")
    parser.add_argument("out", type=Path, help="the checkpoint to write (.ckpt)")
    parser.add_argument("--arch", help="network (default: detected), such as dla34")
    parser.add_argument("--task", help="task (default: detected), such as ctdet")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="class names (default: the published ones)")
    parser.add_argument("--resolution", type=int, nargs=2, metavar=("H", "W"), help="input size of predictions")
    parser.add_argument("--mode", choices=MODES, help="how images become inputs (default: as published)")
    args = parser.parse_args()
    require_file(args.original, f"{args.original}: the file does not exist; give a checkpoint")
    require_writable_file(args.out, "OUT")
    with imports():
        from centernet.models.convert import convert_checkpoint
    conversion = convert_checkpoint(args.original, args.arch, args.task, args.classes)
    module = write_checkpoint(conversion, args.out, args.resolution, args.mode)
    print(conversion.report)
    evaluation = module.eval_spec
    print(f"predicts in mode {evaluation['mode']} at {evaluation['resolution'][0]}x{evaluation['resolution'][1]}")
    print(f"wrote {args.out}")


def write_checkpoint(
    conversion: Conversion, out: Path, resolution: Sequence[int] | None = None, mode: str | None = None
) -> CenterNetModule:
    """Write a conversion as a complete checkpoint and return its module."""
    import pytorch_lightning as pl
    import torch

    from centernet.models.centernet import require_divisible
    from centernet.models.originals import tested_as
    from centernet.module import CenterNetModule

    spec = conversion.spec
    module = CenterNetModule(
        spec["task"],
        class_names=spec["class_names"] or [str(label) for label in range(spec["num_classes"])],
        backbone=spec["backbone"],
        normalization=spec["normalization"],
        task_options=spec["task_options"],
        facts=spec["facts"],
    )
    network = module.detector.network
    try:
        network.load_state_dict(conversion.state_dict)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"the file's heads do not match task {spec['task']} ({reason}); give another --task") from None
    size, usual_mode = tested_as(spec["task"], conversion.report.backbone, spec["num_classes"])
    size = list(resolution or size)
    require_divisible(size, network.divisor)
    module.eval_spec = {"resolution": size, "mode": mode or usual_mode, "divisor": network.divisor}
    checkpoint = {
        "state_dict": module.state_dict(),
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": pl.__version__,
    }
    module.on_save_checkpoint(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, out)
    return module


if __name__ == "__main__":
    run_command(main)
