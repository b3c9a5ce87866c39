"""Networks against measurements of the originals: tensors by name, forward passes through the converter.

The cases are whatever ``networks.json`` and ``network_parity.json`` in the folder ``CENTERNET_REFERENCE`` hold; the
rule that makes the weights is the one of the README there.
"""

from __future__ import annotations

import json
import math
import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from centernet.models import build_network
from centernet.models.convert import convert
from centernet.models.originals import HEADS, NETWORKS, TASKS
from centernet.models.summary import count_macs, count_parameters
from centernet.structures import Head
from tests.places import REFERENCE

TRANSPOSED = {"res": (0, 3, 6), "resdcn": (3, 9, 15)}
SLOW = ("hourglass",)


@cache
def read(name: str) -> dict[str, Any]:
    path = REFERENCE / name
    return json.loads(path.read_text()) if path.is_file() else {}


def rows(having: str = "heads") -> list[Any]:
    """One case per architecture and task of networks.json whose entry has this field, or one that is skipped."""
    found = [
        pytest.param(arch, task, id=f"{arch}-{task}")
        for arch, tasks in read("networks.json").get("archs", {}).items()
        for task, row in tasks.items()
        if isinstance(row, dict) and having in row
    ]
    reason = f"no networks.json in {REFERENCE} (set CENTERNET_REFERENCE)"
    return found or [pytest.param("", "", marks=pytest.mark.skip(reason=reason))]


def parity_cases() -> list[Any]:
    found = [
        pytest.param(name, marks=[pytest.mark.slow] if case["arch"] in SLOW else [])
        for name, case in read("network_parity.json").items()
    ]
    reason = f"no network_parity.json in {REFERENCE} (set CENTERNET_REFERENCE)"
    return found or [pytest.param("", marks=pytest.mark.skip(reason=reason))]


def entries(arch: str, task: str) -> list[tuple[str, list[int], str]]:
    """Keys, shapes and dtypes of an original's state dict."""
    tasks = read("networks.json")["archs"][arch]
    full = tasks["ctdet_coco"]
    if task == "ctdet_coco":
        return full["state_dict"]
    heads = tuple(f"{head}." for head in full["heads"])
    body = [entry for entry in full["state_dict"] if not entry[0].startswith(heads)]
    return body + tasks[task]["state_dict_head_entries"]


def make_weight(arch: str, key: str, shape: list[int], seed: int, gains: list[list[Any]]) -> Tensor:
    """One tensor by the weight rule of the reference's README."""
    rng = np.random.default_rng(zlib.crc32(key.encode()) + seed)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif len(shape) >= 2:
        gain = next(gain for prefix, gain in gains if key.startswith(prefix))
        fan = math.prod(shape[1:])
        if is_transposed(arch, key):
            fan = 4 * (1 if shape[1] == 1 else shape[0])
        value = rng.standard_normal(shape) * (gain * math.sqrt(2 / fan))
        if key.endswith("conv_offset_mask.weight"):
            value = value * 0.1
    elif key.endswith(".weight"):
        value = rng.uniform(0.5, 1.5, shape)
    else:
        value = 0.1 * rng.standard_normal(shape)
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def is_transposed(arch: str, key: str) -> bool:
    kind = arch.split("_")[0]
    if kind in TRANSPOSED:
        return key in {f"deconv_layers.{n}.weight" for n in TRANSPOSED[kind]}
    parts = key.split(".")
    return kind in ("dla", "dlav0") and parts[-1] == "weight" and parts[-2].startswith("up_")


def heads_of(channels: dict[str, int]) -> dict[str, Head]:
    return {name: Head(count, "l1") for name, count in channels.items()}


def our_heads(task: str) -> dict[str, str]:
    """Our names of the original's heads in a task."""
    return {theirs: TASKS[task].renamed.get(ours, ours) for theirs, ours in HEADS.items()}


@pytest.mark.parametrize(("arch", "task"), rows())
def test_every_tensor_of_the_original_has_its_place_and_the_other_way_round(arch: str, task: str) -> None:
    listed = entries(arch, task)
    state = {key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta") for key, shape, dtype in listed}
    row = read("networks.json")["archs"][arch][task]

    converted = convert({"epoch": 1, "state_dict": state})

    assert NETWORKS[converted.spec["backbone"]][0] == arch
    expected = task.removesuffix("_coco").removesuffix("_pascal")
    assert converted.spec["task"] == ("ctdet_dense" if list(row["heads"]) == ["hm", "wh"] else expected)
    ours = our_heads(converted.spec["task"])
    assert {ours[name]: count for name, count in row["heads"].items()} == converted.spec["heads"]
    assert len(converted.state_dict) + len(converted.report.unused) == row["state_dict_entries"]
    with torch.device("meta"):
        network = build_network(converted.spec["backbone"], heads_of(converted.spec["heads"]))
    assert network.state_dict().keys() == converted.state_dict.keys()
    left_out = sum(
        state[key].numel() for key in converted.report.unused if not key.endswith(("_mean", "_var", "_tracked"))
    )
    # The original's total leaves the ImageNet classifier out, but counts the other unused tensors.
    assert count_parameters(network) + left_out == row["params_total"]


@pytest.mark.parametrize(("arch", "task"), rows("macs"))
def test_convolutions_cost_what_they_cost_in_the_original(arch: str, task: str) -> None:
    row = read("networks.json")["archs"][arch][task]
    name = next(ours for ours, (theirs, _) in NETWORKS.items() if theirs == arch)
    with torch.device("meta"):
        network = build_network(name, heads_of(row["heads"]))
    for resolution, macs in row["macs"].items():
        height, width = map(int, resolution.split("x"))
        # The original also computes the two shortcuts that nothing reads; timm's DLA does not.
        wasted = sum(
            math.prod(shape) * (height * width // stride**2)
            for stride, level in ((8, 3), (16, 4))
            for key, shape, _ in entries(arch, task)
            if key == f"base.level{level}.project.0.weight"
        )
        assert count_macs(network, (height, width)) == macs["total"] - wasted


@pytest.mark.parametrize("name", parity_cases())
def test_a_converted_network_computes_what_the_original_computes(name: str) -> None:
    case, arrays = read("network_parity.json")[name], np.load(REFERENCE / "network_parity.npz")
    arch = case["arch"]
    state = {
        key: make_weight(arch, key, shape, case["weight_seed"], case["gain_by_key_prefix"])
        for key, shape, _ in entries(arch, case["task"])
    }
    for key, sample in case["weight_samples"].items():
        assert torch.allclose(state[key].flatten()[:4], torch.tensor(sample["first4"])), f"the rule differs at {key}"
    image = np.random.default_rng(case["input_seed"]).standard_normal(case["input_shape"]).astype(np.float32)

    converted = convert(state)
    network = build_network(converted.spec["backbone"], heads_of(converted.spec["heads"])).eval()
    network.load_state_dict(converted.state_dict)
    with torch.inference_mode():
        outputs = network(torch.from_numpy(image).flip(1))  # the original reads BGR, ours RGB

    assert len(outputs) == case["num_stacks"]
    worst = 0.0
    for stack, (maps, expected) in enumerate(zip(outputs, case["outputs"], strict=True)):
        names = our_heads(converted.spec["task"])
        assert maps.keys() == {names[head] for head in expected}
        for head, facts in expected.items():
            ours = maps[names[head]]
            assert list(ours.shape) == facts["shape"]
            found = ours.flatten().numpy()[arrays[f"{name}/stack{stack}/{head}/idx"]]
            worst = max(worst, float(np.abs(found - arrays[f"{name}/stack{stack}/{head}/val"]).max()) / facts["std"])
    print(f"{name}: largest difference {worst:.1e} of the head's standard deviation")
    assert worst <= 1e-3
