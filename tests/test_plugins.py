"""Plugins of the Trainer: batch norm across processes, and a compiled network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn

from centernet import build
from centernet.build import build_trainer
from centernet.data.coco import CocoDataModule
from centernet.errors import InputError
from centernet.inference import Predictor
from centernet.models.centernet import build_network
from centernet.module import CtdetModule
from centernet.plugins import CheckpointActivations, Compile, NormSync
from centernet.schedule import Schedule
from tests import tiny
from tests.test_configs import compose_run
from tests.test_module import SHAPES, build_data
from tests.test_module import build_trainer as quiet_trainer

# Norms with an activation inside (the first four), plain ones, and our own layers.
BODIES = ["test_efficientnet", "mobilenetv3_small_050", "regnety_002", "cspresnet50", "resnet18", "hardnet68", "dla34"]


def features(network: nn.Module) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        return network.eval().backbone(torch.randn(1, 3, 64, 64))


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("body", BODIES)
def test_synchronized_norms_compute_what_the_ordinary_ones_do_and_back_again(body):
    network = build_network(body, {})
    before, names = features(network), list(network.state_dict())
    synchronized = NormSync().apply(network)
    norms = [module for module in synchronized.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert norms
    assert not any(isinstance(module, nn.BatchNorm2d) for module in synchronized.modules())
    assert same(features(synchronized), before)
    assert list(synchronized.state_dict()) == names
    norms[0].running_mean += 1  # as training does
    moved = features(synchronized)
    restored = NormSync().revert(synchronized)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in restored.modules())
    assert not same(moved, before)
    assert same(features(restored), moved)
    assert list(restored.state_dict()) == names


def test_lightnings_own_plugin_would_drop_activations():
    network = build_network("test_efficientnet", {})
    before = features(network)
    assert not same(features(TorchSyncBatchNorm().apply(network)), before)


def test_training_on_gpus_gets_this_plugin(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(pl.Trainer, "__init__", lambda self, **options: given.update(options))
    cfg = compose_run(["trainer=ddp", "trainer.precision=32-true"])
    cfg.paths.run = str(tmp_path)
    products = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        build_trainer(cfg)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
        cfg.trainer.matmul_precision = "highest"
        build_trainer(cfg)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
    finally:
        torch.set_float32_matmul_precision(products[0])
        torch.backends.cudnn.allow_tf32 = products[1]
    assert [type(plugin).__name__ for plugin in given["plugins"]] == ["AtomicCheckpointIO", "NormSync"]
    assert "sync_batchnorm" not in given  # it would bring Lightning's own


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.precision=bf16-true", "trainer.precision='bf16-true' is not possible; choose one of 32-true, bf16-m"),
        ("trainer.precision=16-true", "trainer.precision='16-true' is not possible"),
        ("trainer.precision=64-true", "trainer.precision='64-true' is not possible"),
        ("trainer.matmul_precision=tf32", "trainer.matmul_precision='tf32' is not possible; choose one of highest, hi"),
        ("trainer.sync_batchnorm=true", "trainer.sync_batchnorm=true works on GPUs only; use trainer=ddp_cpu"),
        ("+trainer.gpus=2", "trainer: got an unexpected keyword argument 'gpus'; python train.py --help trainer=def"),
        ("trainer.strategy=dpd", "trainer: .*dpd.*; python train.py --help trainer=default lists the options"),
    ],
)
def test_a_trainer_option_that_cannot_be_is_refused_in_one_sentence(override, message, tmp_path):
    cfg = compose_run(["trainer.accelerator=cpu", override])
    cfg.paths.run = str(tmp_path)
    with pytest.raises(InputError, match=message) as told:
        build_trainer(cfg)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("overrides", "searches"),
    [
        ([], True),
        (["trainer.deterministic=true"], False),
        (["data.test_mode=keep"], False),
        (["data.test_mode=keep", "trainer.benchmark=true"], True),
        (["trainer.benchmark=false"], False),
    ],
)
def test_convolutions_are_searched_for_if_all_inputs_have_one_size(overrides, searches, tmp_path):
    cfg = compose_run(["trainer.accelerator=cpu", *overrides])
    cfg.paths.run = str(tmp_path)
    settings = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    try:
        build_trainer(cfg)
        assert torch.backends.cudnn.benchmark == searches
    finally:
        torch.backends.cudnn.benchmark = settings[0]
        torch.use_deterministic_algorithms(settings[1])


def test_compiling_without_a_compiler_is_refused_at_once(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler, and neither g\\+\\+ nor clang\\+\\+ is installed"):
        Compile()


def test_activations_are_computed_again_in_training_only():
    module = CtdetModule(class_names=["disc"], backbone=tiny.NETWORK)
    for stage, count in (("validate", 0), ("fit", 1)):
        CheckpointActivations().setup(None, module, stage)
        changed = [part for part in module.detector.network.modules() if "forward" in vars(part)]
        assert bool(changed) == bool(count)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_trains_like_the_plain_one_and_leaves_an_ordinary_checkpoint(tmp_path, shapes):
    try:
        callback = Compile()
    except InputError as error:
        pytest.skip(str(error))
    losses = {}
    for name, callbacks in (("plain", []), ("compiled", [callback])):
        pl.seed_everything(0, verbose=False)
        module = CtdetModule(class_names=["disc", "box", "triangle", "star"], backbone=tiny.NETWORK)
        data = CocoDataModule(root=shapes, resolution=(64, 64), batch_size=8, eval_batch_size=5, num_workers=0)
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=2, callbacks=callbacks, logger=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path / name,
        )  # fmt: skip
        trainer.fit(module, data)
        losses[name] = float(trainer.callback_metrics["train/loss"])
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
    assert losses["compiled"] == pytest.approx(losses["plain"], rel=1e-3)
    assert names_of(tmp_path / "compiled.ckpt") == names_of(tmp_path / "plain.ckpt")
    Predictor.from_checkpoint(tmp_path / "compiled.ckpt")


def names_of(path: Path) -> list[str]:
    return list(torch.load(path, weights_only=True)["state_dict"])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_in_every_precision(precision, shapes, tmp_path):
    norms = []

    class Watched(CtdetModule):
        def configure_gradient_clipping(self, optimizer: Any, *given: Any, **options: Any) -> None:
            super().configure_gradient_clipping(optimizer, *given, **options)
            norms.append(torch.nn.utils.get_total_norm(p.grad for p in self.parameters() if p.grad is not None).item())

    module = Watched(class_names=SHAPES, backbone=tiny.NETWORK)
    data = build_data(shapes, limit=8, batch_size=4)
    quiet_trainer(tmp_path, precision=precision, gradient_clip_val=0.01).fit(module, data)
    assert norms == pytest.approx([0.01] * 2, rel=1e-3)


def test_the_optimizer_is_fused_unless_the_loss_is_scaled():
    network = torch.nn.Linear(2, 3)
    for name in ("adam", "adamw", "sgd"):
        schedule = Schedule(optimizer=name)
        assert schedule.build_optimizer(network, 8).defaults["fused"] is True
        assert not schedule.build_optimizer(network, 8, scales_loss=True).defaults["fused"]


@pytest.mark.parametrize(("is_fast", "wanted"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_16_bits_where_they_are_faster(is_fast, wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "is_fast_in_16_bits", lambda accelerator: is_fast)
    cfg = compose_run(["trainer.accelerator=cpu", "trainer.precision=auto"])
    cfg.paths.run = str(tmp_path)
    assert build_trainer(cfg).precision == wanted


def test_where_16_bits_are_faster_is_asked_of_the_machine(monkeypatch):
    assert isinstance(build.is_fast_in_16_bits("cpu"), bool)
    for answers, wanted in (((False, False), False), ((True, False), True), ((False, True), True)):
        for name, answer in zip(("avx512_bf16", "amx_tile"), answers, strict=True):
            monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda answer=answer: answer, raising=False)
        assert build.is_fast_in_16_bits("cpu") is wanted
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: "asked")
    assert build.is_fast_in_16_bits("gpu") == "asked"
