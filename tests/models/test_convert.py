"""Original checkpoints: what is understood, and one clear sentence for everything else."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from centernet.models import build_network
from centernet.models.convert import convert, convert_checkpoint
from centernet.models.files import read_file
from centernet.models.originals import CLASS_NAMES, COCO_CLASSES, FAMILIES, HEADS, NETWORKS, TASKS
from centernet.structures import Head, InputError
from centernet.tasks import build_task

CTDET = {"hm": 80, "wh": 2, "reg": 2}
EXTREMES = {"hm_t": 3, "hm_l": 3, "hm_b": 3, "hm_r": 3}


@cache
def body() -> dict[str, Tensor]:
    """What a ResNet-18 of the original holds besides its heads, without memory behind it."""
    with torch.device("meta"):
        net = build_network("resnet18", {"size": Head(2, "l1")})
    names = {"backbone.body.": "", "neck.layers.": "deconv_layers."}
    return {
        key.replace(ours, theirs): value
        for key, value in net.state_dict().items()
        for ours, theirs in names.items()
        if key.startswith(ours)
    }


def original(heads: dict[str, int] | None = None, hidden: int = 64) -> dict[str, Tensor]:
    """The state dict of a ResNet-18 of the original, on ``meta``."""
    state = dict(body())
    with torch.device("meta"):
        for head, channels in (heads or CTDET).items():
            state |= {f"{head}.0.weight": torch.empty(hidden, 256, 3, 3), f"{head}.0.bias": torch.empty(hidden)}
            state |= {f"{head}.2.weight": torch.empty(channels, hidden, 1, 1), f"{head}.2.bias": torch.empty(channels)}
    return state


def test_bare_dicts_and_both_wrappers_are_understood() -> None:
    bare = original()
    module = {f"module.{key}": value for key, value in bare.items()}
    for checkpoint in (
        bare,
        module,
        {"epoch": 3, "state_dict": bare},
        {"state_dict": OrderedDict(module), "optimizer": {}},
    ):
        converted = convert(checkpoint)
        assert converted.spec["backbone"] == "resnet18"
        assert converted.spec["task"] == "ctdet"
        assert len(converted.state_dict) == len(bare)


def test_the_first_convolution_is_turned_from_bgr_to_rgb_and_nothing_else() -> None:
    state = {
        key: torch.rand(value.shape) if value.is_floating_point() else torch.ones(value.shape, dtype=value.dtype)
        for key, value in original().items()
    }
    before = {key: value.clone() for key, value in state.items()}
    converted = convert(state)
    first = FAMILIES["resnet"].first
    assert converted.report.flipped == first
    for theirs, value in before.items():
        assert torch.equal(state[theirs], value), "the input is left as it was"
    assert torch.equal(converted.state_dict[first], before["conv1.weight"][:, [2, 1, 0]])
    assert torch.equal(converted.state_dict["head.stacks.0.heatmap.2.weight"], before["hm.2.weight"])
    assert torch.equal(converted.state_dict["neck.layers.3.weight"], before["deconv_layers.3.weight"])


def test_the_number_of_classes_tells_the_published_names() -> None:
    assert convert(original()).spec["class_names"] == list(COCO_CLASSES)
    assert convert(original({**CTDET, "hm": 7})).spec["class_names"] is None
    given = convert(original({**CTDET, "hm": 2}), class_names=["a", "b"])
    assert given.spec["class_names"] == ["a", "b"]
    for (_, count), names in CLASS_NAMES.items():
        assert len(set(names)) == count


def test_pascal_and_kitti_expect_other_colors_than_coco() -> None:
    assert convert(original()).spec["normalization"] == "coco"
    assert convert(original({**CTDET, "hm": 20})).spec["normalization"] == "imagenet_swapped"


@pytest.mark.parametrize(
    ("heads", "task"),
    [
        ({"hm": 3, "wh": 2}, "ctdet"),
        ({"hm": 3, "wh": 6, "reg": 2}, "ctdet"),
        ({"hm": 3, "wh": 4}, "ctdet_dense"),
        ({"hm": 1, "wh": 2, "hps": 34}, "multi_pose"),
        ({"hm": 3, "dep": 1, "rot": 8, "dim": 3}, "ddd"),
        ({"hm_t": 1, "hm_l": 1, "hm_b": 1, "hm_r": 1, "hm_c": 5}, "exdet"),
        ({**EXTREMES, "hm_c": 3, "reg_t": 2, "reg_l": 2, "reg_b": 2, "reg_r": 2}, "exdet"),
    ],
)
def test_the_heads_tell_the_task_also_with_the_originals_options(heads: dict[str, int], task: str) -> None:
    converted = convert(original(heads))
    assert converted.spec["task"] == task
    ours = HEADS | {"ctdet_dense": {"wh": "box"}, "exdet": {"hm_c": "heatmap"}}.get(task, {})
    assert converted.spec["heads"] == {ours[name]: channels for name, channels in heads.items()}
    assert converted.spec["num_classes"] == heads.get("hm", heads.get("hm_c"))


@pytest.mark.parametrize(
    ("heads", "agnostic", "offsets"),
    [
        ({**EXTREMES, "hm_c": 3, "reg_t": 2, "reg_l": 2, "reg_b": 2, "reg_r": 2}, False, 4),
        ({**EXTREMES, "hm_c": 3}, False, 0),
        ({**dict.fromkeys(EXTREMES, 1), "hm_c": 3, "reg_t": 2, "reg_l": 2, "reg_b": 2, "reg_r": 2}, True, 4),
        ({**dict.fromkeys(EXTREMES, 1), "hm_c": 1, "reg_t": 2, "reg_l": 2, "reg_b": 2, "reg_r": 2}, False, 4),
    ],
)
def test_heads_of_extreme_points_are_those_of_the_task_with_its_options(heads, agnostic, offsets) -> None:
    spec = convert(original(heads)).spec
    task = build_task(spec["task"], spec["num_classes"], **spec["task_options"])
    assert {name: head.channels for name, head in task.heads.items()} == spec["heads"]
    assert task.agnostic == agnostic
    assert sum(name.endswith("_offset") for name in task.heads) == offsets


def test_architecture_and_task_may_be_given_by_either_name() -> None:
    for name in ("resnet18", "res_18"):
        assert convert(original(), arch=name, task="ctdet").spec["backbone"] == "resnet18"


@pytest.mark.parametrize("hidden", [256, 0])
def test_heads_of_another_width_are_found(hidden: int) -> None:
    state = original(hidden=hidden or 64)
    if not hidden:
        state = {key: value for key, value in state.items() if key.split(".")[0] not in CTDET}
        with torch.device("meta"):
            for head, channels in CTDET.items():
                state |= {f"{head}.weight": torch.empty(channels, 256, 1, 1), f"{head}.bias": torch.empty(channels)}
    converted = convert(state)
    assert converted.spec["backbone"] == {"name": "resnet18", "head_channels": hidden}
    with torch.device("meta"):
        net = build_network(converted.spec["backbone"], {n: Head(c, "l1") for n, c in converted.spec["heads"].items()})
    assert net.state_dict().keys() == converted.state_dict.keys()


def test_batch_counters_that_old_files_lack_are_added_and_reported() -> None:
    state = {key: value for key, value in original().items() if not key.endswith("num_batches_tracked")}
    converted = convert(state)
    assert converted.state_dict["backbone.body.bn1.num_batches_tracked"] == 0
    assert len(converted.report.added) == len(original()) - len(state)
    assert "missing batch counters, set to 0: 23" in str(converted.report)


def test_the_report_reads_as_sentences() -> None:
    assert str(convert(original()).report).splitlines() == [
        "resnet18, task ctdet, 80 classes: 150 tensors matched",
        "changed from BGR to RGB: backbone.body.conv1.weight",
    ]


def test_every_network_and_task_of_the_tables_is_known_to_the_rest() -> None:
    assert {family for _, family in NETWORKS.values()} == set(FAMILIES)
    for layout in TASKS.values():
        assert set(layout.channels) <= set(HEADS.values())
        assert layout.optional <= set(layout.channels)


def wrong(change: Callable[[dict[str, Tensor]], object], **options: object) -> str:
    """The message about a checkpoint that was changed."""
    state = original()
    change(state)
    with pytest.raises(InputError) as caught:
        convert(state, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_architecture_names_the_nearest_and_what_differs() -> None:
    def deepen(state: dict[str, Tensor]) -> None:
        state["layer4.2.conv1.weight"] = torch.empty(512, 512, 3, 3, device="meta")
        del state["layer1.0.bn1.bias"]
        state["conv1.weight"] = torch.empty(64, 3, 3, 3, device="meta")

    assert wrong(deepen) == (
        "unknown architecture; the nearest is resnet18, which differs in 3 tensors: conv1.weight is [64, 3, 3, 3] and "
        "should be [64, 3, 7, 7]; layer4.2.conv1.weight is not in it; "
        "backbone.body.layer1.0.bn1.bias (our name) is missing"
    )


def test_another_architecture_than_the_given_one_says_so() -> None:
    message = wrong(lambda state: None, arch="dla_34")
    assert message.startswith("this is not dla34, which differs in ")
    assert message.endswith(" more")


def test_an_architecture_that_does_not_exist_is_answered_with_close_ones() -> None:
    message = wrong(lambda state: None, arch="res_19")
    assert message.startswith("unknown architecture 'res_19'; did you mean res_18")
    assert "hardnet85" in wrong(lambda state: None, arch="?")


def test_heads_of_wrong_sizes_are_named_with_what_they_should_be() -> None:
    def widen(state: dict[str, Tensor]) -> None:
        state["wh.2.weight"], state["wh.2.bias"] = torch.empty(3, 64, 1, 1), torch.empty(3)

    assert wrong(widen) == "wrong head sizes for task ctdet: head wh has 3 channels and should have 2 or 160"


def test_a_head_that_does_not_fit_itself_is_named() -> None:
    def shrink(state: dict[str, Tensor]) -> None:
        state["hm.2.weight"] = torch.empty(20, 64, 1, 1)

    assert wrong(shrink) == "wrong head sizes: hm.2.weight is [20, 64, 1, 1] and should be [80, 64, 1, 1]"


def test_a_task_that_the_heads_do_not_fit_is_refused() -> None:
    assert wrong(lambda state: None, task="multi_pose") == "wrong head sizes for task multi_pose: head hps is missing"
    assert wrong(lambda state: None, task="boxes").startswith("unknown task 'boxes'; choose one of ctdet_dense, ctdet,")


def test_class_names_must_be_as_many_as_the_classes() -> None:
    message = wrong(lambda state: None, class_names=["cat", "dog"])
    assert message == "the heads have 80 classes, but class_names has 2; give one name per class"


def test_weights_of_a_backbone_alone_are_recognized() -> None:
    with pytest.raises(InputError, match=r"the checkpoint has no CenterNet heads .* pretrained=FILE"):
        convert(dict(body()))


@pytest.mark.parametrize("content", [3, {"epoch": 1}, {1: torch.zeros(1)}, {"state_dict": {}}, [torch.zeros(1)]])
def test_a_file_without_named_tensors_is_refused(content: object) -> None:
    with pytest.raises(InputError, match="the file has no named tensors"):
        convert(content)


def test_our_own_checkpoints_need_no_conversion() -> None:
    with pytest.raises(InputError, match="already a PyTorch Lightning checkpoint"):
        convert({"state_dict": {}, "pytorch-lightning_version": "2.6"})


# Files. Messages begin with the path and are one sentence.

SMALL = {"epoch": 1, "state_dict": OrderedDict(weight=torch.arange(4000.0))}
TRUNCATED = "the file is truncated"
NO_CHECKPOINT = "the file is not a PyTorch checkpoint; give a .pth or .ckpt file written by torch.save"


def unreadable(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
def test_files_of_new_and_old_pytorch_are_read(tmp_path: Path, as_zip: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save(SMALL, path, _use_new_zipfile_serialization=as_zip)
    assert torch.equal(read_file(path)["state_dict"]["weight"], SMALL["state_dict"]["weight"])


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_a_truncated_file_is_told_from_one_that_is_no_checkpoint(tmp_path: Path, as_zip: bool, share: float) -> None:
    path = tmp_path / "model.pth"
    torch.save(SMALL, path, _use_new_zipfile_serialization=as_zip)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert unreadable(path).startswith(TRUNCATED)
    assert unreadable(path).endswith("download or copy it again")


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>", b"\x89PNG\r\n", pickle.dumps({"a": 1})])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    assert unreadable(path) == NO_CHECKPOINT


def test_an_archive_of_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "text")
    assert unreadable(path) == NO_CHECKPOINT


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert unreadable(tmp_path / "none.pth") == "the file does not exist; give a checkpoint"


class Payload:
    """Pickles as a call of ``os.mkdir``."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


def test_the_payload_of_these_tests_would_work(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle 0", "pickle 2", "pickle 4"])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "model.pth", tmp_path / "ran"
    content = {"state_dict": {"weight": torch.zeros(2)}, "extra": Payload(target)}
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(Payload(target), protocol=int(kind[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    message = unreadable(path)
    assert re.match(r"refused, because reading it would run its code \((posix|nt)\.mkdir\);", message)
    assert not target.exists()


def test_messages_about_the_content_begin_with_the_path_too(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {"fc.weight": torch.zeros(2)}}, path)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: the checkpoint has no CenterNet heads"):
        convert_checkpoint(path)
