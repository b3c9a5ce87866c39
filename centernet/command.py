"""How a command ends: bad input with one sentence and status 2, Ctrl-C with one word and status 130.

Plain Python, so that commands and scripts can use it before anything heavy is imported.
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from centernet.errors import BAD_INPUT, InputError
from centernet.folders import is_first_process
from centernet.runs import in_one_line

INTERRUPTED = 128 + signal.SIGINT
"""Exit status that a shell expects of a command that Ctrl-C ended."""

UNREAD = 128 + 13
"""Exit status that a shell expects of a command whose output nobody reads any more (SIGPIPE), as in `... | head`."""


def run_command(main: Callable[[], None]) -> None:
    """Run the main function of a command to an end that its user can read."""
    atexit.unregister(_leave_the_rest)  # once is enough, however many commands a process runs
    atexit.register(_leave_the_rest)
    try:
        main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread():
            raise
        sys.exit(UNREAD)
    except KeyboardInterrupt:
        say_interrupted()
        sys.exit(INTERRUPTED)
    except SystemExit as stop:
        if stop.code != 1 or not _is_interrupt(stop):
            raise
        say_interrupted()
        sys.exit(INTERRUPTED)
    except InputError as error:
        fail(error)


def _is_unread() -> bool:
    """Whether the reader of the output is gone; if so, what is still to be written goes nowhere."""
    if not hasattr(select, "poll"):
        return False
    output = select.poll()
    output.register(1, select.POLLOUT)
    if not any(events & select.POLLERR for _, events in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def _leave_the_rest() -> None:
    """Write what is left to be written, without a word if nobody reads it; collect what the command left behind, and
    let the interpreter end without doing so again: it would look through all that was imported several times more, for
    over a second.

    Types of triton would report that they are still there, so with it everything is collected as ever.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _is_unread()
    except (OSError, ValueError):  # a full disk is told by the interpreter; a closed stream has nothing left
        pass
    if "triton" not in sys.modules:
        gc.collect()
        gc.freeze()


def fail(error: Exception) -> NoReturn:
    """End the process with the sentence of an error."""
    print(f"error: {in_one_line(error)}", file=sys.stderr, flush=True)
    sys.exit(BAD_INPUT)


def say_interrupted() -> None:
    """Written past Python's streams, which a signal may have stopped in the middle of a print."""
    if is_first_process():
        with suppress(OSError, AttributeError):  # its reader may be gone, or there is none
            sys.stdout.flush()
        os.write(2, b"\ninterrupted\n")


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether an exit follows from Ctrl-C: Lightning turns a KeyboardInterrupt into status 1."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def imports() -> Iterator[None]:
    """While libraries are imported, Ctrl-C ends the process at once, and no garbage is collected.

    A KeyboardInterrupt would be raised within an import, where some libraries catch everything and others print a
    traceback of C++. There is nothing to clean up yet. A command that runs in the background of a shell goes on to
    ignore Ctrl-C.

    Imports make hundreds of thousands of objects that stay, and looking through them again and again for garbage is
    a tenth of the time that they take.
    """
    with _without_collection(), _ended_by_ctrl_c():
        yield


@contextmanager
def _without_collection() -> Iterator[None]:
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    is_main = threading.current_thread() is threading.main_thread()  # which alone receives signals
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    before = signal.signal(signal.SIGINT, _end_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def hidden(name: str, *attributes: str) -> Iterator[None]:
    """While a library is imported, it does not find this other module, which it imports without need; or, with
    ``attributes`` that it asks for, finds an empty one.

    The module stays as it is if it has been imported already, and can be imported afterward.
    """
    if name in sys.modules:
        yield
        return
    empty = types.ModuleType(name)
    vars(empty).update(dict.fromkeys(attributes))
    # None is what Python keeps for a module that cannot be imported.
    sys.modules[name] = empty if attributes else None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def _end_at_once(number: int, frame: FrameType | None) -> None:
    if is_first_process():
        os.write(2, b"\ninterrupted\n")
    os._exit(INTERRUPTED)
