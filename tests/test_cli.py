"""The command line before Hydra: help texts, renamed options, choices of groups, proposals for unknown words."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from centernet import app, choices, cli
from centernet.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE
from centernet.errors import InputError, did_you_mean
from centernet.models.centernet import network_spec
from tests.places import ROOT

COMMANDS = ("train", "eval")
GROUPS = [path.name for path in (ROOT / "configs").iterdir() if path.is_dir() and path.name != "hydra"]


def options_in(text: str, group: str) -> dict[str, str]:
    """The lines of one group in an overview: what stands beside each option."""
    block = re.search(rf"^{group}: .*\n((?:  .*\n)+)", text + "\n", re.MULTILINE)[1]
    return {m[1]: m[2] for m in re.finditer(r"^  (\w+)(?: \*)? *(.*)$", block, re.MULTILINE)}


# The overview.


def test_the_overview_lists_every_group_with_every_option_and_a_line_on_it():
    shown = cli.help_text("train")
    for group in GROUPS:
        listed = options_in(shown, group)
        files = {path.stem for path in (ROOT / "configs" / group).glob("[!_]*.yaml")} - {"checkpoint"}
        names = files | {*ARCHITECTURES, "NAME"} if group == "backbone" else files
        assert set(listed) == names
        assert all(listed.values()), f"{group}: an option without a line"


def test_the_overview_marks_the_defaults_and_names_the_keys_with_their_comments():
    shown = cli.help_text("train")
    for line in ("  ctdet_iou * ", "  modern * ", "  shapes * ", "  auto * "):
        assert f"\n{line}" in shown
    assert re.search(r"\n  seed: 0 +# of random weights", shown)
    assert re.search(r"\n  ckpt: null +# RUN continues in that folder with its settings, auto in the la", shown)


def test_the_evaluation_lists_its_own_groups_and_keys():
    shown = cli.help_text("eval")
    assert "checkpoint" in options_in(shown, "data")
    assert "pictures: 8" in shown
    for group in ("task", "backbone", "augment", "schedule", "callbacks"):
        assert not re.search(rf"^{group}: ", shown, re.MULTILINE), f"{group} comes from the checkpoint"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_of_the_overview_is_explained(name):
    lines = cli.help_text(name).partition("\nKeys (")[2].partition("\nMore help")[0].splitlines()[2:]
    keys = [line for line in lines if line.strip() and not line.rstrip().endswith(":")]
    assert len(keys) >= 6
    for line in keys:
        assert "  # " in line, line


def test_every_option_of_the_trainer_is_explained():
    nodes = choices.read_choice("trainer", "default").nodes["trainer"].value
    assert not [key for key, node in nodes.items() if not node.comment and not node.above and key != "_target_"]


def test_the_evaluation_does_not_list_what_has_no_effect_there():
    trainer = cli.help_text("eval", ["trainer=default"])
    assert "\n  precision: auto" in trainer
    assert "\n  limit_val_batches: null" in trainer
    for key in ("max_epochs", "gradient_clip_val", "accumulate_grad_batches", "val_check_interval"):
        assert key not in trainer
        assert key in cli.help_text("train", ["trainer=default"])
    data = cli.help_text("eval", ["data=coco"])
    assert "\n  val_annotations: null" in data
    for key in ("train_annotations", "augment", "skip_empty", "recipe:"):
        assert key not in data
    preset = cli.help_text("eval", ["experiment=ctdet_hardnet85"])
    assert "\nchooses data=coco\n" in preset
    assert "\npretrained:" not in preset
    assert "schedule:" not in preset
    assert "ladder" not in options_in(cli.help_text("eval"), "experiment")
    with pytest.raises(InputError, match=r"task comes from the checkpoint in an evaluation; python train.py --help t"):
        cli.help_text("eval", ["task=ddd"])


def test_files_to_inherit_from_are_not_offered():
    for group in GROUPS:
        assert not [option for option in choices.options(group) if option.startswith("_")]
    assert not re.search(r"^  _", cli.help_text("train"), re.MULTILINE)


@pytest.mark.parametrize(("name", "words"), [("train", []), ("eval", []), ("train", ["task=ddd", "backbone=dla34"])])
def test_help_needs_neither_torch_nor_a_composition(name, words, tmp_path):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{name}.py', '--help', *{words!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / f'{name}.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    heavy = {'torch', 'numpy', 'timm', 'cv2', 'pytorch_lightning', 'hydra'}\n"
        "    print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.endswith("loaded: []\n")
    assert not list(tmp_path.iterdir())


# Help on a choice.


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "backbone"])
def test_a_choice_is_shown_with_all_its_keys_and_comments(group):
    for path in (ROOT / "configs" / group).glob("[!_]*.yaml"):
        shown = " ".join(cli.help_text("train", [f"{group}={path.stem}"]).split())
        for line in path.read_text().splitlines():
            if line.startswith(("defaults:", "  - ", "# @package")):
                continue
            for part in re.split(r"\s+(?=# )", line.strip()):
                assert " ".join(part.removeprefix("# ").split()) in shown, f"{path}: {line}"


def test_a_choice_shows_what_it_inherits_with_the_comments_of_its_base():
    shown = cli.help_text("train", ["data=voc_coco"])
    assert re.search(r"\n  eval_batch_size: null +# null: batch_size ", shown)
    assert re.search(r"\n  train_annotations: annotations/\S+ +# json, relative to root", shown)
    assert re.search(r"\n  normalization: imagenet\n", shown)
    assert "normalization: coco" not in shown
    assert re.search(r"\n  batch_size: 8 +# per process\n", cli.help_text("train", ["data=shapes"]))
    assert re.search(r"\n  weight_decay: 1.0e-4 +# not applied", cli.help_text("train", ["schedule=sgd_150"]))


def test_a_preset_shows_its_header_and_what_it_chooses():
    shown = cli.help_text("train", ["experiment=ddd_dla34_subcnn"])
    assert "\npublished: easy/moderate/hard" in shown
    assert "\nchooses task=ddd data=kitti backbone=dla34 augment=ddd schedule=adam_70\n" in shown
    assert "normalization: imagenet_swapped" in shown


def test_a_network_is_described_by_the_table():
    shown = cli.help_text("train", ["backbone=dla34"])
    assert ARCHITECTURES["dla34"]["about"] in shown
    assert "neck: {name: dla_up, deformable: true}" in shown
    other = cli.help_text("train", ["backbone=dla43"])
    assert "timm" in other
    assert "did you mean dla34" in other


def test_help_takes_groups_several_choices_and_passes_over_other_words():
    assert cli.help_text("train", ["--help", "logger"]).startswith("logger: ")
    shown = cli.help_text("train", ["task=ctdet,ddd", "-m", "data.batch_size=4", "seed=1", "+logger=csv", "--help"])
    assert re.findall(r"^(\w+=\w+)$", shown, re.MULTILINE) == ["task=ctdet", "task=ddd", "logger=csv"]
    assert cli.help_text("train", ["seed=1", "--config-dir", "mine"]) == cli.help_text("train")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["taks"], "unknown group 'taks'; did you mean task"),
        (["task=ctdt"], "unknown task 'ctdt'; did you mean ctdet"),
        (["data=_loader"], "unknown data '_loader'; "),
        (["debug=zzz"], "unknown debug 'zzz'; choose one of fast, overfit"),
    ],
)
def test_an_unknown_group_or_option_is_answered_with_close_ones(words, message):
    with pytest.raises(InputError, match=message):
        cli.help_text("train", words)


def test_an_unknown_word_after_help_ends_with_one_sentence_and_code_2(command):
    result = command("train", "--help", "experiment=ctdet_hardnet_85")
    assert result.code == 2
    assert result.output == (
        "error: unknown experiment 'ctdet_hardnet_85'; did you mean ctdet_hardnet85, ctdet_hardnet68, ctdet_resdcn18?\n"
    )


def test_hydras_own_help_and_information_still_work(command):
    assert "Hydra" in command("train", "--hydra-help").output
    shown = command("train", "--cfg", "job", "schedule=adam_70")
    assert shown.code == 0
    assert "  lr_batch_size: 32\n" in shown.output


# Renamed options.


def test_old_names_are_replaced_with_a_note():
    words = ["schedule.batch_size=8", "+schedule.final=0.1", "++recipe.lr_batch=4", "~schedule.final", "-m", "seed=1"]
    current, notes = cli.current_names(words)
    assert current == [
        "schedule.lr_batch_size=8",
        "++schedule.min_lr_ratio=0.1",
        "++recipe.lr_batch_size=4",
        "~schedule.min_lr_ratio",
        "-m",
        "seed=1",
    ]
    assert notes[0] == "schedule.batch_size was renamed; use schedule.lr_batch_size"
    assert len(notes) == 4


def test_options_that_had_to_be_added_to_a_schedule_still_can_be(command):
    shown = command("train", "+schedule.weight_decay=0.05", "+schedule.final=0.2", "--cfg", "job")
    assert shown.code == 0, shown.output
    assert "  weight_decay: 0.05\n" in shown.output
    assert "  min_lr_ratio: 0.2\n" in shown.output


def test_only_whole_keys_are_replaced():
    words = ["data.batch_size=8", "schedule.batch_size_2=1", "x=schedule.batch_size=8", "schedule.final.deep=1"]
    assert cli.current_names(words) == (words, [])


def test_an_old_name_works_on_the_command_line_also_in_a_sweep(command):
    shown = command("train", "schedule.batch_size=16", "--cfg", "job")
    assert shown.code == 0
    assert "schedule.batch_size was renamed; use schedule.lr_batch_size" in shown.output
    assert "  lr_batch_size: 16\n" in shown.output
    assert cli.current_names(["-m", "schedule.batch_size=8,16"])[0] == ["-m", "schedule.lr_batch_size=8,16"]


def test_renamed_options_exist_under_their_new_names():
    keys = choices.merge_nodes(
        choices.read_choice("data", "shapes").nodes, choices.read_choice("schedule", "auto").nodes
    )
    for old, new in cli.RENAMED.items():
        group, _, key = new.partition(".")
        if group in keys:
            assert key in keys[group].value, new
            assert old.partition(".")[2] not in keys[group].value, old


# Backbones.


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_network_of_the_table_is_an_option_once_registered(name):
    app.register_backbones()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(choices.CONFIGS), version_base="1.3"):
        cfg = compose("train", [f"backbone={name}", "backbone.neck={bilinear: all}"])
    assert cfg.backbone == {"name": name, "neck": {"bilinear": "all"}, "head_channels": None, "head_tower": None}


def test_a_sweep_over_backbones_registers_all_of_them():
    for sweep in ("backbone=resnet18,convnext_pico", "backbone=choice(resnet18,convnext_nano)"):
        cli.understand_groups([sweep])
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(choices.CONFIGS), version_base="1.3"):
        names = [compose("train", [f"backbone={name}"]).backbone.name for name in ("convnext_pico", "convnext_nano")]
    assert names == ["convnext_pico", "convnext_nano"]


def test_the_line_about_a_network_is_not_part_of_its_description():
    for name, spec in ARCHITECTURES.items():
        assert spec["about"]
        assert "about" not in network_spec(name)
    assert "about" not in DEFAULT_ARCHITECTURE


# Proposals.


def test_close_words_are_proposed_and_else_all_are_listed():
    assert did_you_mean("dla43", ["dla34", "dlav0_34", "resnet18"]) == "did you mean dla34, dlav0_34?"
    assert did_you_mean("x", ["b", "a"]) == "choose one of b, a"
    assert did_you_mean("x", ["b", "a"], "see the list") == "see the list"
