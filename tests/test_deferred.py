"""The compiler of torch is imported by what compiles, and by nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEGIN = """
import sys
from centernet.deferred import defer_compiler
defer_compiler()
def is_there():
    return "torch._dynamo.symbolic_convert" in sys.modules
"""


def run(code: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_training_step_does_without_the_compiler_and_a_compiled_function_then_gets_it():
    shown = run(
        "import torch, torchvision, timm, pytorch_lightning as pl\n"
        "class Line(pl.LightningModule):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(2, 1)\n"
        "    def training_step(self, batch, index):\n"
        "        return self.layer(batch).sum()\n"
        "    def configure_optimizers(self):\n"
        "        return torch.optim.AdamW(self.parameters())\n"
        "options = ('logger', 'enable_progress_bar', 'enable_checkpointing', 'enable_model_summary')\n"
        "quiet = dict.fromkeys(options, False)\n"
        "line = Line()\n"
        "trainer = pl.Trainer(max_steps=2, accelerator='cpu', **quiet)\n"
        "trainer.fit(line, torch.utils.data.DataLoader(torch.ones(4, 2)))\n"
        "print(is_there())\n"
        "print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)).tolist(), is_there())\n"
        "trainer.fit(line, torch.utils.data.DataLoader(torch.ones(4, 2)))\n"
        "print(torch._dynamo is sys.modules['torch._dynamo'], torch._dynamo.OptimizedModule.__module__)\n"
    )
    assert shown == "False\n[2.0, 2.0] True\nTrue torch._dynamo.eval_frame\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    ["import torch._dynamo.config as found", "from torch._dynamo import config as found",
     "import torch._dynamo.backends.registry as found"],
)  # fmt: skip
def test_any_part_of_the_compiler_can_be_imported_and_is_there_once(words):
    code = f"{words}\nimport torch._dynamo\nprint(is_there(), found is sys.modules[found.__name__])\n"
    assert run(code) == "True True\n"


@pytest.mark.slow
def test_a_function_that_needs_the_compiler_gets_it():
    assert run("from torch._dynamo.utils import counters\nprint(is_there(), type(counters).__name__)\n") == (
        "True defaultdict\n"
    )
    code = "from torch._dynamo.utils import is_compile_supported as f\nprint(is_there(), f('cpu'), is_there())\n"
    assert run(code) == "False True True\n"


def test_an_unknown_attribute_is_an_error_as_ever():
    assert run("import torch\nprint(hasattr(torch._dynamo, 'no_such_thing'))\n") == "False\n"


def test_nothing_is_deferred_once_the_compiler_is_there():
    code = "import torch._dynamo\ndefer_compiler()\nprint(type(sys.modules['torch._dynamo']).__name__)\n"
    done = subprocess.run(
        [sys.executable, "-c", "import torch._dynamo\n" + BEGIN + code], capture_output=True, text=True
    )
    assert done.stdout == "module\n"


@pytest.mark.slow
def test_what_a_command_does_not_need_is_not_imported_and_can_be_afterward():
    shown = run(
        "from centernet.app import _quiet\n"
        "_quiet()\n"
        "print([name for name in ('triton', 'sympy', 'scipy.signal', 'wandb') if name in sys.modules])\n"
        "from importlib.util import find_spec\n"
        "from torch.utils._triton import has_triton_package\n"
        "print(has_triton_package() == (find_spec('triton') is not None))\n"
    )
    assert shown == "[]\nTrue\n"
