"""The compiler of torch, imported when it is first needed.

Optimizers, Lightning, timm and torchvision all mention ``torch._dynamo``, mostly to say that a function is not to be
compiled, and so import it: three of the ten seconds before the first step of a run that compiles nothing.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"
UTILS = f"{NAME}.utils"


def defer_compiler() -> None:
    """Let ``torch._dynamo`` be imported by whatever needs more of it than to know that nothing is compiled yet.

    For a process that is not going to compile: what is said before that import about functions that are not to be
    compiled is lost. Does nothing if it has been imported already.
    """
    import torch  # itself in full

    if NAME in sys.modules:
        return
    compiler, utils = _Deferred(NAME), _Deferred(UTILS)
    compiler.__path__ = [str(Path(torch.__file__).parent / "_dynamo")]
    vars(compiler).update(disable=_disable, graph_break=_nothing, OptimizedModule=_Compiled, utils=utils)
    vars(utils).update(is_compile_supported=_is_compile_supported)
    sys.modules.update({NAME: compiler, UTILS: utils})
    sys.meta_path.insert(0, _FINDER)


class _Deferred(ModuleType):
    """In place of a module; any attribute that it does not have is one of the real module, which is imported then."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # of modules in general: what looks at all of them wants nothing of this one
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        _import()
        return getattr(sys.modules[self.__name__], name)


class _Finder(MetaPathFinder):
    """Finds other modules of the package: imports the whole of it first, as ever."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not name.startswith(f"{NAME}."):
            return None
        _import()
        return spec_from_loader(name, _Imported()) if name in sys.modules else None


class _Imported(Loader):
    """Gives the module that there is by now."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        pass


_FINDER = _Finder()


def _import() -> None:
    if isinstance(sys.modules.get(NAME), _Deferred):
        sys.meta_path.remove(_FINDER)
        for name in (NAME, UTILS):
            del sys.modules[name]
        importlib.import_module(NAME)


# What holds while nothing is compiled.


class _Compiled:
    """There is no compiled module."""


def _disable(fn: Any = None, *_: Any, **options: Any) -> Any:
    """Also a decorator, with and without arguments."""
    return (lambda function: function) if fn is None else fn


def _nothing(*_: Any, **options: Any) -> None:
    pass


def _is_compile_supported(*arguments: Any) -> Any:
    _import()
    return sys.modules[UTILS].is_compile_supported(*arguments)
