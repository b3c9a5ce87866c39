"""Optimizer and learning rate."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from centernet.models import build_network
from centernet.schedule import DECAYS, Schedule
from centernet.structures import InputError
from tests import tiny

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))


def test_the_defaults_are_the_papers():
    schedule = Schedule()
    assert schedule.scaled_lr(32) == 1.25e-4
    factors = [schedule.factor(epoch) for epoch in (0, 89.9, 90, 119.9, 120, 139)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@given(st.integers(1, 512), st.integers(1, 512))
def test_the_learning_rate_grows_linearly_with_the_batch(base, batch):
    assert Schedule(lr=0.01, lr_batch_size=base).scaled_lr(batch) == pytest.approx(0.01 * batch / base)
    assert Schedule(lr=0.01, lr_batch_size=None).scaled_lr(batch) == 0.01


def test_the_warm_up_rises_linearly_and_ends_at_one():
    for decay in DECAYS:
        schedule = Schedule(decay=decay, epochs=20, warmup_epochs=2, warmup_factor=0.1, milestones=[10])
        assert [schedule.factor(epoch) for epoch in (0, 1, 2)] == pytest.approx([0.1, 0.55, 1])


def test_the_cosine_falls_from_one_to_its_minimum_and_stays_there():
    schedule = Schedule(decay="cosine", epochs=10, min_lr_ratio=0.05, warmup_epochs=2)
    values = [schedule.factor(2 + n / 10) for n in range(81)]
    assert values[0] == pytest.approx(1)
    assert values[40] == pytest.approx((1 + 0.05) / 2)
    assert values[80] == pytest.approx(0.05)
    assert all(a > b for a, b in itertools.pairwise(values))
    assert schedule.factor(15) == pytest.approx(0.05)


def test_a_flat_cosine_is_flat_first():
    schedule = Schedule(decay="flat_cosine", epochs=20, flat=0.4, min_lr_ratio=0.1, warmup_epochs=1)
    assert schedule.factor(0.5) < 1
    assert {schedule.factor(epoch) for epoch in (1, 3, 7.9, 8)} == {1.0}
    assert schedule.factor(14) == pytest.approx((1 + 0.1) / 2)
    assert schedule.factor(20) == schedule.factor(30) == pytest.approx(0.1)
    assert Schedule(decay="flat_cosine", flat=1.0, epochs=5).factor(5) == 1.0


def test_a_constant_rate_is_constant():
    assert {Schedule(decay="constant").factor(epoch) for epoch in (0, 5, 1000)} == {1.0}


@given(st.floats(0, 200), st.sampled_from(DECAYS), st.floats(0, 5))
def test_the_rate_is_never_negative_and_never_above_its_base(epoch, decay, warmup):
    assert 0 < Schedule(decay=decay, warmup_epochs=warmup).factor(epoch) <= 1 + 1e-9


def test_optimizers_train_every_parameter_with_the_scaled_rate():
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        made = Schedule(optimizer=name, lr=0.1, lr_batch_size=8).build_optimizer(NETWORK, 16)
        assert type(made) is kind
        assert {group["lr"] for group in made.param_groups} == {0.2}
        assert sum(len(group["params"]) for group in made.param_groups) == len(list(NETWORK.parameters()))
    assert Schedule(optimizer="sgd", momentum=0.7).build_optimizer(NETWORK, 1).param_groups[0]["momentum"] == 0.7


def test_norms_and_biases_are_not_decayed():
    groups = Schedule(optimizer="adamw", weight_decay=0.05).build_optimizer(NETWORK, 1).param_groups
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.05 if parameter.ndim > 1 else 0)
    assert sum(len(group["params"]) for group in groups) == 5


def test_frozen_parameters_are_left_out():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    groups = Schedule().build_optimizer(network, 1).param_groups
    assert [len(group["params"]) for group in groups] == [2]


def test_a_schedule_is_made_from_plain_data():
    assert Schedule.of(None) == Schedule()
    assert Schedule.of({"lr": 1.0, "decay": "cosine"}) == Schedule(lr=1.0, decay="cosine")
    schedule = Schedule(lr=3.0)
    assert Schedule.of(schedule) is schedule


def test_a_description_in_an_older_checkpoint_keeps_its_meaning():
    old = {"optimizer": "adam", "lr": 1e-3, "batch_size": 8, "decay": "cosine", "final": 0.2}
    assert Schedule.of(old) == Schedule(lr=1e-3, lr_batch_size=8, decay="cosine", min_lr_ratio=0.2)
    assert Schedule.of({"batch_size": None}).lr_batch_size is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamax"}, "schedule.optimizer='adamax' is unknown; choose one of adam, adamw, sgd"),
        ({"decay": "linear"}, "schedule.decay='linear' is unknown; choose one of step, cosine, flat_cosine, constant"),
        ({"lr": -1.0}, "schedule.lr=-1.0 is not positive"),
        ({"flat": 1.5}, "schedule.flat=1.5 is not a fraction; use 0 to 1"),
        ({"epochs": 0}, "schedule.epochs=0 is too small; use at least 1"),
        (
            {"learning_rate": 1.0},
            "schedule: .*unexpected keyword argument 'learning_rate'; choose from optimizer, lr, ",
        ),
    ],
)
def test_a_bad_option_is_named_with_what_there_is(options, message):
    with pytest.raises(InputError, match=message):
        Schedule.of(options)


def test_stages_of_the_backbone_learn_at_falling_rates():
    network = build_network(tiny.NETWORK, {})
    schedule = Schedule(lr=1.0, lr_batch_size=None, backbone_lr_factor=0.5, layer_decay=0.1, weight_decay=0.01)
    groups = schedule.build_optimizer(network, 8).param_groups
    rates = {name: group["lr"] for group in groups for name in group["param_names"]}
    assert rates.keys() == dict(network.named_parameters()).keys()
    assert {rate for name, rate in rates.items() if not name.startswith("backbone.")} == {1.0}
    body = "backbone.body."
    # The last stage at half the rate, each before it at a tenth of the next; a norm at the rate of its convolution.
    assert rates[f"{body}blocks.4.0.conv_pw.weight"] == pytest.approx(0.5)
    assert rates[f"{body}blocks.3.0.conv_pw.weight"] == pytest.approx(0.05)
    assert rates[f"{body}conv_stem.weight"] == rates[f"{body}bn1.weight"] == pytest.approx(0.5e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone_lr_factor": 0}, "schedule.backbone_lr_factor=0 is not a fraction"),
        ({"layer_decay": 1.5}, "schedule.layer_decay=1.5 is not a fraction"),
        ({"freeze_epochs": -1}, "schedule.freeze_epochs=-1 is negative"),
    ],
)
def test_rates_and_epochs_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Schedule(**options)
