"""`debug=profile`: where the time of a step goes."""

from __future__ import annotations

import json

import pytest

from centernet.callbacks.profile import PARTS
from tests.tiny import NETWORK_OVERRIDES

SHORT = [
    "debug=profile", "trainer.accelerator=cpu", "data.train_count=8", "data.val_count=2", "data.num_workers=0",
    "data.batch_size=4", "resolution=[64,64]", "logger=csv", *NETWORK_OVERRIDES,
]  # fmt: skip


def test_a_profile_is_a_table_whose_parts_add_up_and_a_trace_that_names_them(command):
    few = ["callbacks.profile.warmup=1", "callbacks.profile.steps=2", "callbacks.profile.traced=1"]
    result = command("train", *SHORT, *few, "trainer.max_steps=4")
    assert result.code == 0, result.output
    table, trace = result.run / "profile.txt", result.run / "trace.json"
    assert f"profile       {table}\ntrace         {trace}" in result.output
    rows = {line.split()[0]: float(line.split()[1]) for line in table.read_text().splitlines()[1:]}
    assert list(rows) == ["step", *PARTS]
    assert sum(rows[part] for part in PARTS) == pytest.approx(rows["step"], abs=0.1)
    assert all(rows[part] > 0 for part in ("data", "encode", "forward", "losses", "backward", "optimizer"))
    assert rows["forward"] + rows["backward"] > rows["encode"]
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"encode", "forward", "losses", "backward", "transfer"} <= names


def test_too_few_steps_for_a_profile_are_told(command):
    result = command("train", *SHORT, "trainer.max_steps=2")
    assert "only 2 training steps were made, a profile needs 33; raise trainer.max_steps" in result.output
    assert not (result.run / "profile.txt").exists()
