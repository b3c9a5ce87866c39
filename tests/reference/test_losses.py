"""Losses and their gradients against measurements of the original (losses_xy), one by one and as the task's whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from centernet.losses import PROBABILITY_MARGIN, focal, l1, smooth_l1
from centernet.structures import AtCells, DenseMap, Targets
from centernet.tasks.ctdet import CtdetTask
from tests.reference.cases import Case, cases, measures, read

FILE = "losses_xy"
# The originals' names of heads and of their losses.
HEADS = {"hm": "heatmap", "wh": "size", "reg": "offset"}
PARTS = {"stat_loss": "loss", "stat_hm_loss": "heatmap", "stat_wh_loss": "size", "stat_off_loss": "offset"}


def is_on_logits(entry: dict) -> bool:
    return "_sigmoid(raw)" in entry["function"]


def is_focal(entry: dict) -> bool:
    return entry["function"].startswith("FocalLoss")


@pytest.mark.parametrize("entry", cases(FILE, lambda entry: is_focal(entry) and is_on_logits(entry)))
def test_the_focal_loss_of_logits_and_its_gradient(entry):
    case = read(FILE, entry)
    raw = torch.from_numpy(case.inputs["raw"]).requires_grad_()
    loss = focal(raw, DenseMap(torch.from_numpy(case.inputs["gt"])))
    loss.backward()
    assert loss.item() == pytest.approx(float(case.outputs["loss"]), rel=1e-5)
    np.testing.assert_allclose(raw.grad, case.outputs["grad_raw"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("entry", cases(FILE, lambda entry: is_focal(entry) and not is_on_logits(entry)))
def test_the_focal_loss_of_probabilities_and_its_gradient(entry):
    # Ours takes logits, theirs probabilities: go there and back, with the chain rule for the gradient.
    case = read(FILE, entry)
    probability = torch.from_numpy(case.inputs["pred"]).double()
    raw = torch.logit(probability).float().requires_grad_()
    loss = focal(raw, DenseMap(torch.from_numpy(case.inputs["gt"])))
    loss.backward()
    assert loss.item() == pytest.approx(float(case.outputs["loss"]), rel=1e-5)
    gradient = raw.grad.double() / (probability * (1 - probability))
    # Beyond the margin the sigmoid is clamped and passes no gradient, which a bare probability cannot show.
    is_free = ((probability - 0.5).abs() < 0.5 - 1.1 * PROBABILITY_MARGIN).numpy()
    assert is_free.mean() > 0.3
    np.testing.assert_allclose(gradient[is_free], case.outputs["grad_pred"][is_free], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("loss_of", "entry"),
    [
        pytest.param(loss_of, *param.values, id=param.id, marks=param.marks)
        for loss_of, name in ((l1, "RegL1Loss()"), (l1, "RegWeightedL1Loss()"), (smooth_l1, "RegLoss()"))
        for param in cases(FILE, measures(name))
    ],
)
def test_a_loss_at_cells_and_its_gradient(loss_of, entry):
    case = read(FILE, entry)
    given = case.tensors()
    output = given["output"].requires_grad_()
    loss = loss_of(output, AtCells(given["ind"], given["target"], given["mask"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(case.outputs["loss"]), rel=1e-5)
    np.testing.assert_allclose(output.grad, case.outputs["grad_output"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("entry", cases(FILE, measures("CtdetLoss(opt)")))
def test_the_whole_loss_of_ctdet_every_part_and_every_gradient(entry):
    case = read(FILE, entry)
    task, outputs, targets = build_task(case), stacks(case), build_targets(case)
    parts = task.losses(outputs, targets)
    parts["loss"].backward()
    for theirs, ours in PARTS.items():
        if ours in parts:
            assert parts[ours].item() == pytest.approx(float(case.outputs[theirs]), rel=1e-5), ours
        else:
            assert float(case.outputs[theirs]) == 0
    for n, stack in enumerate(outputs):
        for theirs, ours in HEADS.items():
            if ours in stack:
                wanted = case.outputs[f"grad_stack{n}_{theirs}"]
                np.testing.assert_allclose(stack[ours].grad, wanted, rtol=1e-4, atol=1e-7, err_msg=f"{n} {ours}")


def build_task(case: Case) -> CtdetTask:
    """The task with the options that the original ran with (``norm_wh`` has no effect there)."""
    options = case.params
    loss = {"l1": "l1", "sl1": "smooth_l1"}[options["reg_loss"]]
    size = {"weight": options["wh_weight"], "per_class": bool(options["cat_spec_wh"])}
    # Dense supervision is L1, whatever the option says.
    size |= {"supervise": "dense"} if options["dense_wh"] and not options["cat_spec_wh"] else {"loss": loss}
    return CtdetTask(
        num_classes=case.inputs["batch_hm"].shape[1],
        heatmap={"weight": options["hm_weight"], "loss": "mse" if options["mse_loss"] else "focal"},
        size=size,
        offset={"weight": options["off_weight"], "loss": loss} if options["reg_offset"] else None,
    )


def stacks(case: Case) -> list[dict[str, Tensor]]:
    """The raw outputs, one mapping per stack, ready to collect gradients."""
    return [
        {
            ours: torch.from_numpy(case.inputs[f"out_stack{n}_{theirs}"]).requires_grad_()
            for theirs, ours in HEADS.items()
            if f"out_stack{n}_{theirs}" in case.inputs
        }
        for n in range(case.params["num_stacks"])
    ]


def build_targets(case: Case) -> Targets:
    """The original's batch in our two kinds of target."""
    batch = {name.removeprefix("batch_"): value for name, value in case.tensors().items() if name.startswith("batch_")}
    cell, mask = batch["ind"], batch["reg_mask"]
    targets: Targets = {"heatmap": DenseMap(batch["hm"])}
    if "cat_spec_wh" in batch:
        targets["size"] = AtCells(cell, batch["cat_spec_wh"], batch["cat_spec_mask"])
    elif "dense_wh" in batch:
        targets["size"] = DenseMap(batch["dense_wh"], batch["dense_wh_mask"])
    else:
        targets["size"] = AtCells(cell, batch["wh"], mask)
    if "reg" in batch:
        targets["offset"] = AtCells(cell, batch["reg"], mask)
    return targets
