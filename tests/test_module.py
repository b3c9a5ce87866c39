"""The LightningModule: trains without Hydra, and leaves checkpoints that carry everything and run nothing."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from centernet.callbacks import BestAndLast
from centernet.checkpoint import read_checkpoint
from centernet.data.builtin.shapes import ShapesDataModule
from centernet.data.coco import CocoDataModule
from centernet.data.kitti import KittiDataModule
from centernet.inference import Predictor
from centernet.module import (
    CenterNetModule,
    CtdetModule,
    DddModule,
    MultiPoseModule,
    load_module,
    require_divisible,
)
from centernet.structures import InputError, NonFiniteLossError
from tests import tiny

SHAPES = ["disc", "box", "triangle", "star"]
pytestmark = [
    # Lightning's advice is for real trainings.
    pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*(isinstance|treespec|lr_scheduler.step|weights_only|_pytree).*"),
]


def build_data(root: Path, **options: Any) -> CocoDataModule:
    settings = {"resolution": (64, 64), "batch_size": 8, "num_workers": 0}
    return CocoDataModule(root=root, **{**settings, **options})


def build_trainer(folder: Path, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    settings = {"accelerator": "cpu", "max_epochs": 1, "default_root_dir": folder, **quiet}
    return pl.Trainer(**{**settings, **options})


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory) -> tuple[CtdetModule, Path]:
    """A module after one epoch, and its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    pl.seed_everything(0, verbose=False)
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK, task_options={"heatmap": {"max_detections": 30}})
    tiny.enliven(module.detector.network)
    build_trainer(folder, callbacks=[BestAndLast(folder)]).fit(module, build_data(shapes))
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    return module.eval(), folder / "last.ckpt"


def test_it_trains_in_plain_lightning_without_hydra(tmp_path, shapes):
    data = ShapesDataModule(root=shapes, train_count=24, val_count=8, resolution=(64, 64), batch_size=8, num_workers=0)
    module = CtdetModule(backbone=tiny.NETWORK, num_classes=4)
    tiny.enliven(module.detector.network)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=2, default_root_dir=tmp_path, enable_progress_bar=False
    )
    trainer.fit(module, data)
    assert module.class_names == SHAPES
    assert trainer.callback_metrics.keys() >= {"train/loss", "train/loss/heatmap", "val/loss", "val/AP", "val/AP50"}
    assert any(not torch.equal(before[name], value) for name, value in module.state_dict().items())
    (result,) = trainer.validate(module, data, verbose=False)
    assert 0 <= result["val/AP"] <= 1
    assert set(module.per_class) == set(SHAPES)
    (path,) = tmp_path.rglob("*.ckpt")
    loaded = CtdetModule.load_from_checkpoint(path)
    assert loaded.class_names == SHAPES
    assert_same_outputs(module, loaded)


def test_a_module_for_data_has_its_classes_and_facts(shapes, figures):
    data = build_data(figures, prefix="person_keypoints")
    module = MultiPoseModule.for_data(data, backbone=tiny.NETWORK, schedule={"lr": 0.1})
    assert (module.task.name, module.schedule.lr) == ("multi_pose", 0.1)
    assert module.class_names == data.class_names == ["person"]
    assert module.task.facts == data.facts
    assert list(data.facts["joints"]["names"])[:2] == ["nose", "left_eye"]
    assert module.task.heads["joints"].channels == 2 * len(data.facts["joints"]["names"])
    plain = CtdetModule.for_data(build_data(shapes), backbone=tiny.NETWORK)
    assert (plain.class_names, plain.task.facts) == (SHAPES, {})


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_setting_up_changes_neither_the_data_nor_the_task(cuboids, tmp_path, stage):
    data = KittiDataModule(cuboids, resolution=(64, 192), batch_size=4, num_workers=0)
    data.setup("fit")
    # Built without facts on purpose: nothing may make up for that behind the back of the user.
    module = DddModule(class_names=data.class_names, task="ddd_dle", backbone=tiny.NETWORK)
    task, metric, means = module.task, module.metric, module.task.terms["dimensions"].means
    before = {name: value for name, value in vars(data).items() if not name.startswith("_") and name != "trainer"}
    trainer = build_trainer(tmp_path, max_steps=1, limit_val_batches=1, enable_checkpointing=False)
    getattr(trainer, stage)(module, data)
    assert module.task is task is module.detector.task
    assert module.metric is metric
    assert task.terms["dimensions"].means is means
    assert task.facts == {}
    for name, value in before.items():
        assert getattr(data, name) is value, name


def test_facts_that_the_model_was_built_without_are_told(cuboids, tmp_path, caplog):
    data = KittiDataModule(cuboids, resolution=(64, 192), batch_size=4, num_workers=0)
    options = {"task": "ddd_dle", "backbone": tiny.NETWORK}
    quick = {"max_steps": 1, "limit_val_batches": 0, "enable_checkpointing": False}
    advice = "the model was built without it; use DddModule.for_data(data)"
    with caplog.at_level(logging.WARNING):
        build_trainer(tmp_path, **quick).fit(DddModule.for_data(data, **options), data)
        assert advice not in caplog.text
        build_trainer(tmp_path, **quick).fit(DddModule(num_classes=3, **options), data)
    assert f"the data provides focal, mean_dimensions, but {advice}" in caplog.text


def test_a_divisor_that_is_not_the_networks_is_refused(shapes, tmp_path):
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK)
    data = build_data(shapes, test_mode="keep", divisor=16)
    message = r"keep pads images to multiples of 16, but this network needs multiples of 32; set divisor=32"
    with pytest.raises(InputError, match=message):
        build_trainer(tmp_path).validate(module, data, verbose=False)
    assert data.divisor == 16
    build_trainer(tmp_path).validate(module, build_data(shapes, test_mode="keep", divisor=64), verbose=False)


def assert_same_outputs(first: CenterNetModule, second: CenterNetModule) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        a, b = (module.eval().detector.outputs(images)[-1] for module in (first, second))
    assert a.keys() == b.keys()
    assert a["heatmap"].std() > 1e-3
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_is_plain_data_and_rebuilds_the_same_outputs(trained):
    module, path = trained
    content = torch.load(path, weights_only=True)
    assert content["centernet"]["module"]["class_names"] == SHAPES
    assert content["centernet"]["module"]["task_options"] == {"heatmap": {"max_detections": 30}}
    loaded, spec = load_module(path)
    assert spec == {"resolution": [64, 64], "mode": "fit", "divisor": module.detector.network.divisor}
    assert loaded.task.heatmap.max_detections == 30
    assert_same_outputs(module, loaded)


def test_lightnings_own_loading_works_with_and_without_the_named_class(trained):
    module, path = trained
    for cls in (CtdetModule, CenterNetModule):
        assert_same_outputs(module, cls.load_from_checkpoint(path))


def test_a_predictor_needs_nothing_but_the_path(trained, shapes):
    module, path = trained
    predictor = Predictor.from_checkpoint(path, device="cpu")
    assert predictor.class_names == SHAPES
    image = next((shapes / "val").iterdir())
    found = predictor(image)
    assert len(found["scores"]) == 30
    twice = Predictor.from_checkpoint(path, resolution=(128, 128), mode="stretch", device="cpu")(image)
    assert not torch.equal(found["scores"], twice["scores"])
    form = module.detector.eval().fuse().to(memory_format=torch.channels_last)
    again = Predictor(form, SHAPES, (64, 64))(image)
    assert torch.equal(found["boxes"], again["boxes"])


def test_a_checkpoint_is_used_in_its_inference_form_and_finds_the_same(trained, shapes):
    module, path = trained
    plain, ready = Predictor(module.detector, SHAPES, (64, 64)), Predictor(path, device="cpu")
    norms = [sum(isinstance(part, torch.nn.BatchNorm2d) for part in p.detector.modules()) for p in (plain, ready)]
    assert norms[0] > norms[1] == 0
    image = next((shapes / "val").iterdir())
    wanted, found = plain(image), ready(image)
    assert torch.allclose(found["scores"], wanted["scores"], atol=1e-5)
    best = int(wanted["scores"].argmax())
    assert torch.allclose(found["boxes"][best], wanted["boxes"][best], atol=1e-2)


def test_predictions_by_the_trainer_are_in_image_pixels(trained, shapes, tmp_path):
    module, _ = trained
    data = build_data(shapes, eval_batch_size=1)
    data.setup("validate")
    batches = build_trainer(tmp_path).predict(module, data.val_dataloader())
    found = Predictor(module.detector, SHAPES, (64, 64))(data.datasets["val"].files[0])
    assert len(batches) == 8
    assert torch.allclose(batches[0]["boxes"][0], found["boxes"], atol=1e-2)


def test_the_metrics_of_validation_are_those_of_the_predictor(trained, shapes, tmp_path):
    module, path = trained
    data = build_data(shapes)
    trainer = build_trainer(tmp_path)
    (logged,) = trainer.validate(module, data, verbose=False)
    predictor = Predictor.from_checkpoint(path, device="cpu")
    metric = module.task.metric(SHAPES)
    dataset = data.datasets["val"]
    for n in range(len(dataset)):
        found = {name: value[None] for name, value in predictor(dataset.files[n]).items() if name != "names"}
        metric.update(found, tiny.make_batch(dataset.objects(n)), dataset.ids[n : n + 1])
    assert metric.compute()["AP"].item() == pytest.approx(logged["val/AP"], abs=1e-6)


def test_a_truncated_checkpoint_is_refused_wherever_it_is_cut(trained, tmp_path):
    data = trained[1].read_bytes()
    path = tmp_path / "cut.ckpt"
    for size in [0, 1, 3, 10, 100, 1000, *(len(data) * n // 10 for n in range(1, 10)), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(
            InputError, match=r"cut\.ckpt: (the file is truncated|the file is not a PyTorch checkpoint)"
        ) as raised:
            read_checkpoint(path)
        assert "\n" not in str(raised.value)


class Malicious:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("plainly", [False, True])
def test_code_in_a_checkpoint_is_not_run(tmp_path, plainly):
    path, mark = tmp_path / "evil.ckpt", tmp_path / "it ran"
    content = {"state_dict": {}, "centernet": Malicious(mark)}
    if plainly:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(InputError, match=r"evil\.ckpt: refused, because reading it would run its code"):
        read_checkpoint(path)
    assert not mark.exists()


def test_other_files_are_refused(trained, tmp_path):
    for content in ({"state_dict": {}}, [1, 2], torch.zeros(3)):
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(InputError, match=r"other\.ckpt is not a checkpoint of this project"):
            read_checkpoint(tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("hello, I am no checkpoint")
    with pytest.raises(InputError, match=r"text\.ckpt: the file is not a PyTorch checkpoint"):
        read_checkpoint(tmp_path / "text.ckpt")
    with pytest.raises(InputError, match=r"absent\.ckpt: the file does not exist; give a checkpoint"):
        read_checkpoint(tmp_path / "absent.ckpt")
    newer = torch.load(trained[1], weights_only=True)
    newer["centernet"]["format"] = 999
    torch.save(newer, tmp_path / "newer.ckpt")
    with pytest.raises(
        InputError, match=r"newer\.ckpt was written by a newer version \(format 999\); update centernet"
    ):
        read_checkpoint(tmp_path / "newer.ckpt")


def test_weights_that_do_not_fit_their_description_are_refused(trained, tmp_path):
    content = torch.load(trained[1], weights_only=True)
    content["centernet"]["module"]["class_names"] = ["one"]
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(InputError, match=r"the weights in .*odd\.ckpt do not match its description"):
        load_module(tmp_path / "odd.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["a", "b"]}, "it has 4 classes, this run has 2"),
        (
            {"class_names": ["disc", "box", "star", "triangle"]},
            "class 2 is 'triangle' there and 'star' in this run; use the same classes in the same order",
        ),
        (
            {"backbone": {**tiny.NETWORK, "head_channels": 8}},
            "backbone.head_channels is 16 there and 8 in this run; use the same network, or start a new run",
        ),
        (
            {"backbone": "resnet18"},
            "its network is test_efficientnet, this run's is resnet18; add backbone=test_effici",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_not_continued(trained, shapes, tmp_path, options, message):
    module = CtdetModule(**{"class_names": SHAPES, "backbone": tiny.NETWORK, **options})
    data = build_data(shapes)
    if len(module.class_names) == 2:
        tiny.make_coco(tmp_path, categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}], split="train")
        tiny.make_coco(tmp_path, categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "b"}], split="val")
        data = build_data(tmp_path, allow_empty=True)
    data.class_names = module.class_names
    with pytest.raises(InputError, match=f"the checkpoint does not match this run: {message}"):
        build_trainer(tmp_path).fit(module, data, ckpt_path=trained[1], weights_only=True)


def test_classes_in_another_order_than_the_data_are_refused(shapes, tmp_path):
    module = CtdetModule(class_names=["disc", "box", "star", "triangle"], backbone=tiny.NETWORK)
    with pytest.raises(
        InputError, match="class 2 is 'triangle' in the data and 'star' in the model; use the same classes"
    ):
        build_trainer(tmp_path).fit(module, build_data(shapes))


def test_a_checkpoint_of_another_task_is_not_continued(trained, tmp_path, shapes):
    content = torch.load(trained[1], weights_only=True)
    content["centernet"]["module"]["task"] = "multi_pose"
    torch.save(content, tmp_path / "pose.ckpt")
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK)
    with pytest.raises(InputError, match="its task is multi_pose, this run's is ctdet"):
        build_trainer(tmp_path).fit(module, build_data(shapes), ckpt_path=tmp_path / "pose.ckpt", weights_only=True)


def test_stopping_after_an_epoch_and_going_on_equals_going_through(shapes, tmp_path):
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
            trainer.should_stop = True

    def run(callbacks: Sequence[pl.Callback] = (), ckpt: Path | None = None) -> CtdetModule:
        pl.seed_everything(0, verbose=False)
        schedule = {"decay": "cosine", "epochs": 2, "warmup_epochs": 0.5, "lr": 0.01}
        module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK, schedule=schedule)
        trainer = build_trainer(tmp_path, max_epochs=2, enable_checkpointing=False, callbacks=list(callbacks))
        trainer.fit(module, build_data(shapes), ckpt_path=ckpt, weights_only=True)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return module

    straight = run()
    halfway = run([Stop()])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1
    resumed = run(ckpt=tmp_path / "last.ckpt")
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert any(not torch.equal(a, b) for a, b in zip(halfway.parameters(), resumed.parameters(), strict=True))


def test_one_batch_is_learned_by_heart(shapes, tmp_path):
    pl.seed_everything(0, verbose=False)
    schedule = {"lr": 1e-2, "batch_size": None, "decay": "constant"}
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK, schedule=schedule)
    losses: list[float] = []

    class Note(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *rest: Any) -> None:
            losses.append(outputs["loss"].item())

    data = build_data(shapes, augment={"warp": None}, limit=4, batch_size=4)
    build_trainer(tmp_path, max_epochs=40, limit_val_batches=0, callbacks=[Note()]).fit(module, data)
    assert min(losses[-5:]) < losses[0] / 8


def test_a_loss_that_is_no_number_stops_and_names_the_images(shapes, tmp_path):
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK)
    folder = tmp_path / "run"

    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            self.ids = batch["image_id"].tolist()
            if trainer.current_epoch == 1:
                next(module.detector.network.head.parameters()).data.fill_(float("nan"))

    poison = Poison()
    trainer = build_trainer(folder, max_epochs=3, callbacks=[poison, BestAndLast(folder)])
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan in epoch .*lower schedule\.lr or check") as raised:
        trainer.fit(module, build_data(shapes))
    assert str(poison.ids) in str(raised.value)
    for name in ("best.ckpt", "last.ckpt"):  # the last good ones are still there
        good, _ = load_module(folder / name)
        assert all(torch.isfinite(value).all() for value in good.state_dict().values())


def test_a_validation_loss_that_is_no_number_stops_before_anything_is_saved(shapes, tmp_path):
    class Poison(pl.Callback):
        def on_validation_start(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:  # as a last, too large step of an epoch would leave it
                next(module.detector.network.head.parameters()).data.fill_(float("nan"))

    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK)
    trainer = build_trainer(tmp_path, max_epochs=3, callbacks=[Poison(), BestAndLast(tmp_path)])
    with pytest.raises(
        NonFiniteLossError, match="the validation loss is nan in epoch 2, step 6; the batch has image ids"
    ):
        trainer.fit(module, build_data(shapes))
    good, _ = load_module(tmp_path / "last.ckpt")
    assert all(torch.isfinite(value).all() for value in good.state_dict().values())


def test_the_learning_rate_follows_the_batch_in_use(shapes, tmp_path):
    schedule = {"lr": 0.01, "batch_size": 4, "decay": "constant"}
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK, schedule=schedule)
    trainer = build_trainer(tmp_path, limit_train_batches=2, accumulate_grad_batches=2, limit_val_batches=0)
    trainer.fit(module, build_data(shapes))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 16 / 4)


def test_more_objects_than_detections_are_warned_of(shapes, tmp_path, caplog):
    module = CtdetModule(class_names=SHAPES, backbone=tiny.NETWORK, task_options={"heatmap": {"max_detections": 2}})
    with caplog.at_level(logging.WARNING):
        build_trainer(tmp_path).validate(module, build_data(shapes), verbose=False)
    assert "at most 2 are detected per image; raise task.heatmap.max_detections" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither num_classes nor class_names is given"),
        ({"num_classes": 3, "class_names": ["a"]}, "num_classes=3, but class_names has 1 names"),
        ({"num_classes": 3, "normalization": "voc"}, "normalization='voc' is unknown; did you mean coco"),
        ({"num_classes": 3, "backbone": "resnet81"}, r"unknown backbone 'resnet81'; did you mean .*resnet18"),
        ({"num_classes": 3, "schedule": {"speed": 1}}, "schedule: .*'speed'"),
        (
            {"num_classes": 3, "task_options": {"of_set": None}},
            "task ctdet has no option 'of_set'; did you mean offset",
        ),
        (
            {"num_classes": 3, "task_options": {"heatmap": {"radios": 1}}},
            "task ctdet: heatmap has no option 'radios'; did you mean radius",
        ),
        ({"num_classes": 3, "metric_options": {"speed": 1}}, "metric_options of task ctdet are invalid"),
        (
            {"num_classes": 3, "backbone": {**tiny.NETWORK, "neck": {"name": "deconf"}}},
            "unknown neck 'deconf'; choose one of ",
        ),
        ({"num_classes": 3, "task_options": {"stride": 8}}, "the network's stride is 4 and the task's is 8"),
    ],
)
def test_a_bad_argument_is_named_with_what_to_do(options, message):
    with pytest.raises(InputError, match=message):
        CtdetModule(**{"backbone": tiny.NETWORK, **options})


def test_data_of_another_number_of_classes_is_refused(shapes, tmp_path):
    module = CtdetModule(num_classes=3, backbone=tiny.NETWORK)
    with pytest.raises(InputError, match=r"the data has 4 classes \(disc, box, triangle, star\), the model has 3"):
        build_trainer(tmp_path).fit(module, build_data(shapes))


def test_a_resolution_that_does_not_fit_proposes_the_nearest(shapes, tmp_path):
    module = CtdetModule(num_classes=4, backbone=tiny.NETWORK)
    with pytest.raises(InputError, match="input 100x64 is not divisible by 32; use 96x64, 128x64"):
        build_trainer(tmp_path).fit(module, build_data(shapes, resolution=(100, 64)))
    require_divisible((96, 64), 32)
    for given, message in {
        (500, 500): "use 480x480, 512x512",
        (20, 32): "use 32x32",
        (0, 64): "use 32x64",
    }.items():
        with pytest.raises(InputError, match=message):
            require_divisible(given, 32)


def test_without_names_classes_are_numbered(tmp_path, shapes):
    module = CtdetModule(num_classes=4, backbone=tiny.NETWORK)
    data = build_data(shapes)
    data.setup("validate")
    build_trainer(tmp_path).validate(module, data.val_dataloader(), verbose=False)
    assert list(module.per_class) == module.description()["module"]["class_names"] == ["0", "1", "2", "3"]
