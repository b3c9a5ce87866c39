"""The forms in which a network runs: memory layout, folded norms, 16 bits, compiled; and files for other runtimes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from centernet.errors import InputError, did_you_mean


class Form(NamedTuple):
    """One way to run a detector. ``target``: the format of an exported file that is run instead of the network
    (``export.make.FORMATS``), in this ``precision``."""

    channels_last: bool = True
    fused: bool = True
    bf16: bool = False
    compiled: bool = False
    target: str = ""
    precision: str = "fp32"
    about: str = ""

    @property
    def trains(self) -> bool:
        """Whether the form has gradients."""
        return not self.fused and not self.target


FORMS = {
    "eager": Form(False, False, about="float32, the channels first, as torch has it by default"),
    "channels_last": Form(True, False, about="float32, the channels of a pixel beside each other"),
    "channels_last_bf16": Form(True, False, bf16=True, about="the same, convolutions in bfloat16"),
    "fused": Form(about="channels_last, batch norm folded into convolutions"),
    "bf16": Form(bf16=True, about="fused, convolutions in bfloat16"),
    "compiled": Form(compiled=True, about="fused, by torch.compile"),
    "compiled_bf16": Form(bf16=True, compiled=True, about="fused, in bfloat16, by torch.compile"),
    "onnx": Form(target="onnx", about="exported, run by onnxruntime"),
    "onnx_int8": Form(target="onnx", precision="int8", about="the same, in 8 bits"),
    "openvino": Form(target="openvino", about="exported, run by OpenVINO"),
    "openvino_fp16": Form(target="openvino", precision="fp16", about="the same, in the 16 bits that the CPU has"),
    "openvino_int8": Form(target="openvino", precision="int8", about="the same, in 8 bits"),
}


def require_forms(names: Sequence[str], part: str, files: bool = True, trains: bool = False) -> dict[str, Form]:
    """The forms of these names. Raises ``InputError`` for an unknown one, and for one that this part cannot run."""
    for name in names:
        if name not in FORMS:
            raise InputError(f"{part}: --forms {name} is unknown; {did_you_mean(name, FORMS)}")
        if FORMS[name].target and not files:
            raise InputError(f"{part}: --forms {name} includes decoding; measure it with the part detect")
        if trains and not FORMS[name].trains:
            able = ", ".join(known for known, form in FORMS.items() if form.trains)
            raise InputError(f"{part}: --forms {name} has no gradients; with --backward choose from {able}")
    return {name: FORMS[name] for name in names}


def in_form(detector: Any, form: Form) -> Any:
    """A copy of the detector in this form (not of a file), in evaluation unless the form trains.

    Its ``outputs`` run under autocast for ``bf16``; decoding stays in float32, as in a training.
    """
    made = copy.deepcopy(detector).eval()  # its task, too, so that what is timed in one is not in another
    made = made.fuse() if form.fused else made
    made = made.to(memory_format=torch.channels_last if form.channels_last else torch.contiguous_format)
    if form.compiled:
        made.network.compile()
    if form.bf16:
        plain: Callable[[Tensor], Any] = made.outputs

        def outputs(images: Tensor) -> list[dict[str, Tensor]]:
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                return plain(images)

        made.outputs = outputs
    return made.eval()
