"""Starting from other weights: head rows by class name, the rest where it fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from centernet.models import CenterNet, build_network
from centernet.models.transfer import copy_weights
from centernet.structures import HEATMAP_BIAS, Head, InputError

BACKBONE: dict[str, Any] = {"name": "lcnet_050", "neck": {"name": "deconv", "channels": [16]}, "head_channels": 8}


CLASS_HEADS = ["heatmap"]
# What was looked for, and what was found.
MISFIT = (
    r"no tensor of the checkpoint's backbone fits this one; looked for backbone\.\S+ \[[\d, ]+\], .*; "
    r"found backbone\.\S+ \[[\d, ]*\], .*; choose the backbone that it was trained with"
)


def make(classes: int, extra: dict[str, Head] | None = None, backbone: dict[str, Any] | None = None) -> CenterNet:
    heads = {"heatmap": Head(classes, "focal", bias=HEATMAP_BIAS), "size": Head(2, "l1"), **(extra or {})}
    net = build_network(backbone or BACKBONE, heads)
    torch.nn.init.normal_(net.head.stacks[0]["heatmap"][2].bias)
    return net


def rows(net: CenterNet, name: str = "heatmap") -> tuple[torch.Tensor, torch.Tensor]:
    last = net.head.stacks[0][name][2]
    return last.weight.detach().clone(), last.bias.detach().clone()


def test_with_the_same_classes_everything_is_copied() -> None:
    old, new = make(2), make(2)
    report = copy_weights(new, old.state_dict(), ["cat", "dog"], ["cat", "dog"], CLASS_HEADS)
    for name, value in new.state_dict().items():
        assert torch.equal(value, old.state_dict()[name])
    count = len(new.state_dict())
    assert str(report) == f"copied {count} of {count} tensors"


def test_head_rows_follow_their_class_and_new_classes_stay_as_they_began() -> None:
    old, new = make(3), make(4)
    (old_weight, old_bias), (start_weight, start_bias) = rows(old), rows(new)
    report = copy_weights(new, old.state_dict(), ["cat", "dog", "cow"], ["cow", "horse", "cat", "owl"], CLASS_HEADS)
    weight, bias = rows(new)
    for row, source in ((0, 2), (2, 0)):
        assert torch.equal(weight[row], old_weight[source])
        assert bias[row] == old_bias[source]
    for row in (1, 3):
        assert torch.equal(weight[row], start_weight[row])
        assert bias[row] == start_bias[row]
    assert report.by_class == ["head.stacks.0.heatmap.2.weight", "head.stacks.0.heatmap.2.bias"]
    assert "head rows copied by class name: cow, cat; new classes, as initialized: horse, owl" in str(report)
    assert torch.equal(rows(new, "size")[0], rows(old, "size")[0])


def test_the_same_number_of_other_classes_is_not_mistaken_for_the_same_classes() -> None:
    old, new = make(2), make(2)
    start = rows(new)[0]
    copy_weights(new, old.state_dict(), ["cat", "dog"], ["dog", "car"], CLASS_HEADS)
    assert torch.equal(rows(new)[0][0], rows(old)[0][1])
    assert torch.equal(rows(new)[0][1], start[1])


def test_a_heatmap_that_is_not_of_classes_is_copied_as_it_is() -> None:
    joints = {"joint_heatmap": Head(2, "focal", bias=HEATMAP_BIAS)}
    old, new = make(2, joints), make(2, joints)
    copy_weights(new, old.state_dict(), ["cat", "dog"], ["dog", "cat"], CLASS_HEADS)
    assert torch.equal(rows(new, "joint_heatmap")[0], rows(old, "joint_heatmap")[0])


def test_a_head_with_several_rows_per_class_is_moved_as_blocks() -> None:
    sizes = {"size": Head(4, "l1")}
    old, new = make(2, sizes), make(2, sizes)
    copy_weights(new, old.state_dict(), ["cat", "dog"], ["dog", "cat"], ["heatmap", "size"])
    assert torch.equal(rows(new, "size")[0], rows(old, "size")[0][[2, 3, 0, 1]])


def test_what_does_not_fit_is_reported_by_its_reason() -> None:
    old = make(2, {"offset": Head(2, "l1")})
    new = make(2, {"depth": Head(1, "l1")}, {**BACKBONE, "head_channels": 16})
    report = copy_weights(new, old.state_dict(), ["cat", "dog"], ["cat", "dog"], CLASS_HEADS)
    assert "head.stacks.0.size.0.weight" in report.resized
    assert "head.stacks.0.depth.0.weight" in report.missing
    assert "head.stacks.0.offset.0.weight" in report.unused
    text = str(report)
    assert "because the shape differs: head.stacks.0.heatmap.0.weight" in text
    assert "because the checkpoint lacks them: head.stacks.0.depth.0.weight" in text
    assert "in the checkpoint, but not in this network: head.stacks.0.offset.0.weight" in text


def test_rows_are_not_copied_into_a_head_of_another_width() -> None:
    old, new = make(2), make(3, backbone={**BACKBONE, "head_channels": 16})
    start = rows(new)[0]
    report = copy_weights(new, old.state_dict(), ["cat", "dog"], ["cat", "dog", "cow"], CLASS_HEADS)
    assert torch.equal(rows(new)[0], start)
    assert "head.stacks.0.heatmap.2.weight" in report.resized


def test_another_backbone_is_refused() -> None:
    old = make(2, backbone={**BACKBONE, "name": "convnext_atto"})
    with pytest.raises(InputError, match=MISFIT):
        copy_weights(make(2), old.state_dict(), ["a", "b"], ["a", "b"], CLASS_HEADS)
