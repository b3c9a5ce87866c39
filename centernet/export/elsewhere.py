"""The rest of the way for runtimes whose compilers do not run everywhere: TensorRT, Core ML, ExecuTorch."""

from __future__ import annotations

import shlex
from pathlib import Path

from centernet.export.graph import INPUT, Shape

MOST_BATCH = 16
"""The largest batch of a TensorRT engine whose batch is free, unless a larger one is asked for."""


def next_steps(target: str, path: Path, shape: Shape, precision: str, smallest_side: int) -> str:
    """What to run for ``target`` (``tensorrt``, ``coreml``, ``executorch``) with the file that was written."""
    return {"tensorrt": _tensorrt, "coreml": _coreml, "executorch": _executorch}[target](
        path, shape, precision, smallest_side
    )


def _tensorrt(path: Path, shape: Shape, precision: str, smallest_side: int) -> str:
    words = ["trtexec", f"--onnx={path}", f"--saveEngine={path.with_suffix('.engine')}"]
    # 8 bits are in the file itself; what stays in float may then be in 16 bits.
    words += {"fp32": [], "fp16": ["--fp16"], "int8": ["--int8", "--fp16"]}[precision]
    if shape.dynamic != "none":
        height, width = shape.size
        bounds = {"min": [1, height, width], "opt": [shape.batch, height, width], "max": [MOST_BATCH, height, width]}
        if not shape.frees_batch:
            bounds = {name: [shape.batch, *size[1:]] for name, size in bounds.items()}
        bounds["max"][0] = max(bounds["max"][0], shape.batch)
        if shape.frees_size:
            bounds["min"][1:] = [smallest_side, smallest_side]
            bounds["max"][1:] = [2 * height, 2 * width]
        words += [f"--{name}Shapes={INPUT}:{count}x3x{h}x{w}" for name, (count, h, w) in bounds.items()]
    where = "on a machine with TensorRT (10.1 or newer for networks with deformable convolutions)"
    return f"{where}:\n  {shlex.join(words)}"


def _coreml(path: Path, shape: Shape, precision: str, smallest_side: int) -> str:
    return f"""with coremltools (pip install coremltools; the result runs on macOS and iOS):
  import coremltools, torch
  program = torch.export.load({str(path)!r}).run_decompositions({{}})
  model = coremltools.convert(
      program,
      minimum_deployment_target=coremltools.target.iOS17,
      compute_precision=coremltools.precision.{"FLOAT16" if precision == "fp16" else "FLOAT32"},
  )
  model.save({str(path.with_suffix(".mlpackage"))!r})"""


def _executorch(path: Path, shape: Shape, precision: str, smallest_side: int) -> str:
    return f"""with ExecuTorch (pip install executorch torchao):
  import torch
  from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
  from executorch.exir import to_edge_transform_and_lower
  program = torch.export.load({str(path)!r})
  lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
  open({str(path.with_suffix(".pte"))!r}, "wb").write(lowered.buffer)"""
