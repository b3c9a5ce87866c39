"""A student learns the maps of its teacher, whatever the task; nothing of the teacher stays in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from centernet.callbacks import BestAndLast
from centernet.checkpoint import KEY, load_detector
from centernet.errors import InputError
from centernet.module import CenterNetModule, load_module
from centernet.tasks import task_names
from centernet.teacher import Teacher
from tests import tiny
from tests.test_module import SHAPES, build_data, build_trainer
from tests.test_module import pytestmark as quiet

pytestmark = quiet

TWO = ["disc", "box"]
JOINTS = {"joints": {"names": ["head", "left_hand", "right_hand"]}}


def make_module(
    task: str = "ctdet", names: Sequence[str] = TWO, options: dict[str, Any] | None = None, **others: Any
) -> CenterNetModule:
    return CenterNetModule(task, class_names=names, backbone=tiny.NETWORK, task_options=options, **others)


def save(path: Path, module: CenterNetModule) -> Path:
    """The checkpoint of a network that says different things in different places."""
    tiny.enliven(module.detector.network).eval()
    torch.save({"state_dict": module.state_dict(), KEY: module.description()}, path)
    return path


def some_images(count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "teacher.ckpt"


def test_maps_are_those_of_the_teachers_detector_with_its_own_normalization(path):
    save(path, make_module(normalization="imagenet"))
    student = make_module(normalization="coco")
    detector, _ = load_detector(path)
    with torch.no_grad():
        wanted = detector.eval().find(some_images()).maps
    found = Teacher(path, student.task, TWO).maps(some_images())
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert not found[name].requires_grad
        torch.testing.assert_close(found[name], value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("names", [["star", "disc", "box", "triangle"], ["triangle", "disc"], ["star"]])
def test_classes_are_found_by_name_in_any_order_and_may_be_fewer(path, names):
    options = {"size": {"per_class": True}}
    save(path, make_module(names=SHAPES, options=options))
    everything = Teacher(path, make_module(names=SHAPES, options=options).task, SHAPES).maps(some_images())
    found = Teacher(path, make_module(names=names, options=options).task, names).maps(some_images())
    assert found["size"].shape[1] == 2 * len(names)
    for row, name in enumerate(names):
        place = SHAPES.index(name)
        torch.testing.assert_close(found["heatmap"][:, row], everything["heatmap"][:, place])
        pair = found["size"][:, 2 * row : 2 * row + 2]
        torch.testing.assert_close(pair, everything["size"][:, 2 * place : 2 * place + 2])
    torch.testing.assert_close(found["offset"], everything["offset"])


@pytest.mark.parametrize("task", task_names())
def test_a_network_comes_closer_to_its_teacher_in_a_few_steps_whatever_the_task(path, task):
    save(path, make_module(task))
    student, images = make_module(task), some_images()
    maps = Teacher(path, student.task, TWO).maps(images)
    network = student.detector.network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        loss = student.task.imitation(student.detector.outputs(images), maps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_student_equal_to_its_teacher_has_almost_no_loss_and_gradient(path):
    module = make_module("ctdet_iou")
    save(path, module)
    teacher = Teacher(path, module.task, TWO)
    loss = module.task.imitation(module.eval().detector.outputs(some_images()), teacher.maps(some_images()))
    assert loss < 1e-3  # folding batch norm rounds
    other = make_module("ctdet_iou").eval()
    assert module.task.imitation(other.detector.outputs(some_images()), teacher.maps(some_images())) > 0.1


def test_gradients_reach_the_student_only(path, shapes):
    save(path, make_module(names=SHAPES))
    student = make_module(names=SHAPES, teacher=path, teacher_weight=3.0)
    tiny.enliven(student.detector.network)
    data = build_data(shapes)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    before = [value.clone() for value in student.teacher._detector.state_dict().values()]
    student.train()
    loss = student.training_step(batch, 0)
    loss.backward()
    parts = student.latest
    own = parts["heatmap"] + 0.1 * parts["size"] + parts["offset"]
    assert parts["teacher"] > 0
    assert loss.item() == pytest.approx((own + 3 * parts["teacher"]).item(), rel=1e-5)
    assert all(parameter.grad is not None for parameter in student.parameters() if parameter.requires_grad)
    theirs = student.teacher._detector
    assert not theirs.training
    assert not any(parameter.requires_grad for parameter in theirs.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, theirs.state_dict().values(), strict=True))


def test_nothing_of_the_teacher_is_in_the_students_weights_or_checkpoint(path, shapes, tmp_path):
    save(path, make_module(names=SHAPES))
    student, plain = make_module(names=SHAPES, teacher=path), make_module(names=SHAPES)
    assert student.state_dict().keys() == plain.state_dict().keys()
    assert dict(student.named_parameters()).keys() == dict(plain.named_parameters()).keys()
    assert student.description() == plain.description()
    trainer = build_trainer(tmp_path, callbacks=[BestAndLast(tmp_path)])
    trainer.fit(student, build_data(shapes))
    assert "train/loss/teacher" in trainer.callback_metrics
    assert "val/loss/teacher" not in trainer.callback_metrics
    assert str(path) not in str({k: v for k, v in torch.load(tmp_path / "last.ckpt").items() if k != "callbacks"})
    path.unlink()
    loaded, _ = load_module(tmp_path / "last.ckpt")
    assert loaded.teacher is None
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), student.parameters(), strict=True))


# What cannot teach.


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        (
            {"task": "ctdet_iou"},
            {},
            "the teacher's task is ctdet_iou, this run's is ctdet; give one of this task",
        ),
        ({}, {"names": ["disc", "star"]}, r"does not know the class 'star' \(it knows disc, box\); give one that was"),
        ({"options": {"offset": None}}, {}, "the teacher has no head offset; use the teacher's options of the task"),
        (
            {"options": {"size": {"per_class": True}}},
            {},
            "the teacher's head size has 4 channels, this run's has 2; use the teacher's options of task.size",
        ),
        (
            {"task": "ctdet_iou", "options": {"box": {"quality": 0}}},
            {"task": "ctdet_iou"},
            "the teacher's head box has 4 channels, this run's has 5; use the teacher's options of task.box",
        ),
        (
            {"task": "multi_pose", "facts": JOINTS},
            {"task": "multi_pose"},
            r"the teacher has 3 joints \(head, left_hand, right_hand, ...\), the model has 17",
        ),
        (
            {"task": "ddd", "options": {"depth": {"focal": 700.0}}},
            {"task": "ddd"},
            "the teacher was trained with task.depth.focal=700.0, this run uses None; use the teacher's",
        ),
        (
            {"task": "ddd_dle", "facts": {"mean_dimensions": [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]}},
            {"task": "ddd_dle"},
            r"the teacher was trained with task.dimensions.means=\[\[1.0, 1.0, 1.0\], ",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_teacher_that_does_not_fit_is_refused(path, teacher, student, message):
    save(path, make_module(**teacher))
    with pytest.raises(InputError, match=message):
        make_module(**student, teacher=path)


def test_a_file_or_a_weight_that_is_none_is_refused(path):
    with pytest.raises(InputError, match=r"teacher.ckpt: the file does not exist; give a checkpoint"):
        make_module(teacher=path)
    save(path, make_module())
    for weight in (0, -1.0, "much", True):
        with pytest.raises(InputError, match=r"teacher_weight=.* must be a number above 0; teacher=null trains"):
            make_module(teacher=path, teacher_weight=weight)
    with pytest.raises(InputError, match="a teacher is matched by the names of the classes; give class_names"):
        CenterNetModule("ctdet", num_classes=2, backbone=tiny.NETWORK, teacher=path)


def test_an_input_that_the_teachers_network_cannot_take_is_refused(path, shapes, tmp_path):
    save(path, make_module(names=SHAPES))
    student = make_module(names=SHAPES, teacher=path)
    student.teacher.divisor = 128  # an hourglass's
    with pytest.raises(InputError, match="input 64x64 is not divisible by 128; use 128x128"):
        build_trainer(tmp_path).fit(student, build_data(shapes))
