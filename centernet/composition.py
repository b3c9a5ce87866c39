"""The configuration of a command, composed and checked before anything heavy is imported and any folder is made.

Hydra composes it again for the run, which takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from centernet import choices, schema
from centernet.choices import FROM_CHECKPOINT, groups
from centernet.cli import WITH_VALUE
from centernet.continued import NO_CHECKPOINT, require_checkpoint
from centernet.errors import InputError, propose
from centernet.folders import is_first_process, require_file, require_folder, require_writable
from centernet.kinds import MISSING

# Data modules that read files of the user's; the built-in ones write theirs.
READERS = tuple(f"centernet.data.{format_}." for format_ in ("coco", "kitti", "voc", "yolo", "createml", "auto"))
BUILT_IN = "centernet.data.builtin."


def check_command(name: str, words: Sequence[str]) -> None:
    """Check what ``python NAME.py WORDS`` configures. ``name``: train or eval.

    Raises ``InputError`` for an unknown key, a value of a wrong type or out of range, or a path that does not exist or
    cannot be written. The jobs of a sweep are left to themselves, and so is whatever only shows the configuration.
    """
    options, overrides = split_words(words)
    if any(option.partition("=")[0] in SHOWS for option in options):
        return
    parsed = parse(overrides)
    sweeps = [override for override in parsed if override.is_sweep_override()]
    single = [override.input_line for override in parsed if not override.is_sweep_override()]
    with _configs(options):
        if (folder := _option(options, "--config-dir", "-cd")) is not None:
            single += _search(folder)
        cfg = composed(_option(options, "--config-name", "-cn") or name, single)
    if {"-m", "--multirun"} & set(options) or cfg.hydra.mode == RunMode.MULTIRUN:
        chosen = _hydra_folder(cfg, "hydra.sweep.dir")
        require_writable(*reversed(chosen or ("paths.runs", f"{cfg.paths.runs}/sweep")))
        return
    if sweeps:
        word = sweeps[0].input_line
        key, _, values = word.partition("=")
        raise InputError(f"{word} is several values; add -m for a run with each of them, or write {key}=[{values}]")
    check_paths(name, cfg, check(name, cfg))


# Options of Hydra that run nothing.
SHOWS = {
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--hydra-help",
    "--version",
    "--shell-completion",
    "-sc",
    "--experimental-rerun",
}


def training(overrides: Sequence[str]) -> DictConfig:
    """The configuration of ``python train.py OVERRIDES``, composed and checked, for what is done before a training.

    Raises ``InputError`` as ``check_command`` does.
    """
    with _configs([]):
        cfg = composed("train", [*overrides, "paths.run=."])
        check_paths("train", cfg, check("train", cfg))
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra")  # of a command that does not run; its folders cannot be resolved
    OmegaConf.set_struct(cfg, True)
    return cfg


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options of Hydra, with their values after ``=``, and overrides."""
    options, overrides = [], []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
        elif word in WITH_VALUE:
            options.append(f"{word}={next(rest, '')}")
        else:
            options.append(word)
    return options, overrides


def _option(options: Sequence[str], *names: str) -> str | None:
    found = [value for option in options for key, _, value in [option.partition("=")] if key in names]
    return found[-1] if found else None


def _configs(options: Sequence[str]) -> Any:
    folder = Path(_option(options, "--config-path", "-cp") or choices.CONFIGS)
    return initialize_config_dir(str(folder.resolve()), version_base="1.3")


def parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides of a command line. Raises ``InputError`` for a word that is none."""
    parser, parsed = OverridesParser.create(), []
    for word in overrides:
        try:
            parsed += parser.parse_overrides([word])
        except (OverrideParseException, ValueError):
            key, equals, value = word.partition("=")
            hint = f"put the value in quotes: '{key}=\"{value}\"'" if equals else "write KEY=VALUE"
            raise InputError(f"{word} is not understood; {hint}") from None
    return parsed


def _search(folder: str) -> list[str]:
    if not Path(folder).is_dir():
        raise InputError(f"--config-dir {folder} is not an existing folder; give a folder of configuration files")
    return [f"hydra.searchpath=['file://{Path(folder).resolve()}']"]


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of a command with Hydra's own node, where Hydra is initialized. Raises ``InputError``."""
    overrides = list(overrides)
    try:
        return compose(name, overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise InputError(reason_of(error, name, overrides)) from None


def reason_of(error: Exception, name: str, overrides: Sequence[str]) -> str:
    """What Hydra refuses of a command's overrides, in a sentence."""
    text = str(error) or str(error.__cause__)
    first = " ".join(text.partition("\n")[0].split()).rstrip(".")
    if isinstance(error, ValueError):  # a value for a group
        wrong = next((word for word in overrides if word.lstrip("+~").partition("=")[0] in groups()), "")
        return f"{wrong} does not name an option; python {name}.py --help {wrong.partition('=')[0]} lists them"
    if first.startswith("Could not override '"):
        key = first.split("'")[1]
        kept = [word for word in overrides if word.partition("=")[0] != key]
        try:
            known = keys_of(compose(name, kept))
        except (HydraException, OmegaConfBaseException, ValueError):  # another mistake, which is told next
            known = []
        return f"{key} is unknown; {propose(key, known)}"
    if first.startswith("Could not append to config"):
        return f"{first.split(chr(39))[1]} exists already; leave out the + before it"
    if first.startswith("Could not delete from config"):
        return f"{first.split(chr(39))[1]} does not exist, so it cannot be left out by ~"
    if "Could not find '" in first:
        wanted = first.split("Could not find '")[1].split("'")[0]
        listed = [line.strip() for line in text.splitlines() if line.startswith("\t") and "provider" not in line]
        return f"{wanted} does not exist; " + (f"choose one of {', '.join(listed)}" if listed else "check its name")
    return first


def keys_of(cfg: DictConfig) -> list[str]:
    """The dotted keys of a configuration, those of nodes included."""
    content = OmegaConf.to_container(cfg, resolve=False)
    content.pop("hydra", None)
    return list(_dotted(content, ""))


def _dotted(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")


def check(name: str, cfg: DictConfig) -> dict[str, Any]:
    """Check keys and values of a composed configuration that includes Hydra's own node; returns its plain values, those
    left out that an evaluation takes from the checkpoint."""
    content = {}
    before, HydraConfig.instance().cfg = HydraConfig.instance().cfg, None
    try:
        HydraConfig.instance().set_config(cfg)  # which values may refer to
        for key in cfg:
            if key != "hydra" and not (name == "eval" and key in FROM_CHECKPOINT):
                content[key] = MISSING if OmegaConf.is_missing(cfg, key) else _plain(cfg[key])
    except OmegaConfBaseException as error:
        reason = " ".join(str(error).partition("\n")[0].split())
        raise InputError(f"{error.full_key or key} refers to what does not exist ({reason})") from None
    finally:
        HydraConfig.instance().cfg = before
    if content.get("ckpt") == MISSING:
        raise InputError(NO_CHECKPOINT)
    schema.check(name, content, keys_of(cfg))
    return content


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def check_paths(name: str, cfg: DictConfig, content: Mapping[str, Any]) -> None:
    """Raise ``InputError`` for files and folders that a command reads and that do not exist, or that it writes and
    cannot."""
    require_checkpoint(name, ckpt := content.get("ckpt"))
    teacher, pretrained = content.get("teacher"), content.get("pretrained")
    if isinstance(teacher, str):
        require_file(teacher, f"{teacher}: the file does not exist; give a checkpoint")
    if isinstance(pretrained, str) and pretrained != "auto" and ckpt in (None, "auto"):  # else a checkpoint's are used
        require_file(pretrained, f"pretrained={pretrained} is not an existing file; give a weight file, true or false")
    data = content["data"]
    if _reads(data):
        require_data(data, ("val",) if name == "eval" else ("train", "val"))
    if is_first_process():  # others write nothing that is kept
        for option, folder in _written(name, cfg, content):
            require_writable(folder, option)


def require_data(data: Mapping[str, Any], splits: Sequence[str]) -> None:
    """Raise ``InputError`` for a folder or a file of these splits that is given and does not exist, or if none is."""
    root, base = data.get("root"), Path(data.get("root") or "")
    if isinstance(root, str):
        require_folder(root, f"data.root={root} is not an existing folder; give the folder that holds the data")
    elif "_target_" in data and data.get(f"{splits[0]}_annotations") is None and data.get("yaml") is None:
        raise InputError("no data given; set data.root=DIR, the folder that holds it (or the four paths of data=coco)")
    if isinstance(path := data.get("yaml"), str) and not (base / path).is_file():
        require_file(path, f"data.yaml={path} does not exist; give the yaml that describes the data")
    for split in splits:
        if split == "val" and data.get("validate_on") == "train":
            continue
        if isinstance(path := data.get(key := f"{split}_annotations"), str):
            require_file(base / path, f"{split} annotations {base / path} do not exist; set data.{key}=FILE.json")
        if isinstance(path := data.get(key := f"{split}_images"), str):
            require_folder(base / path, f"{split} image folder {base / path} does not exist; set data.{key}=FOLDER")


def _reads(data: Mapping[str, Any]) -> bool:
    """Whether a node of data reads files that have to be there."""
    return data.get("_target_") is None or str(data["_target_"]).startswith(READERS)


def _hydra_folder(cfg: DictConfig, key: str) -> tuple[str, str] | None:
    """An option of Hydra that chooses a folder, with the folder, if it is given."""
    is_given = any(word.startswith(f"{key}=") for word in cfg.hydra.overrides.hydra)
    return (key, str(OmegaConf.select(cfg, key))) if is_given else None


def _written(name: str, cfg: DictConfig, content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Folders that a command writes into, with what chooses them."""
    paths = content["paths"]
    if (chosen := _hydra_folder(cfg, "hydra.run.dir")) is not None:
        yield chosen
    elif isinstance(paths.get("run"), str):
        yield "paths.run", paths["run"]
    elif isinstance(ckpt := content.get("ckpt"), str) and name == "train" and Path(ckpt).is_dir():
        yield "ckpt", ckpt
    elif isinstance(paths.get("runs"), str):
        yield "paths.runs", f"{paths['runs']}/{name}"
    root = content["data"].get("root")
    if isinstance(root, str) and str(content["data"].get("_target_")).startswith(BUILT_IN) and not Path(root).is_dir():
        yield "data.root", root  # drawn there on first use
