"""Runs one event function of a Python script, in this process.

Rules of this file: it is the same for a script that the runner forked and for one that was started by hand
(``./50.web monitor``); it does not distinguish them. The result is an exit status; messages go to standard error.
"""

from __future__ import annotations

import os
import sys
import traceback
import types
from collections.abc import Callable, Sequence

from locum.errors import LocumError
from locum.events.runner.reason import MODULE, first_line, reason_of_exception
from locum.script.failure import Fail


def compile_script(path: str) -> types.CodeType:
    """The compiled script. Raises OSError, SyntaxError, ValueError as :func:`compile` does."""
    with open(path, "rb") as file:
        return compile(file.read(), path, "exec", dont_inherit=True)


def _ignore(_reason: str) -> None:
    """Ignore the reason: the output has it."""


def call_event(
    code: types.CodeType,
    path: str,
    event: str,
    arguments: Sequence[str],
    tell: Callable[[str], None] = _ignore,
) -> int:
    """Execute the script's top level, then its function for ``event``. Returns the exit status.

    ``tell`` gets the reason of a failure, one line.

    No such function: 0, as unknown events are ignored by convention. ``Fail``: its status, the message alone is
    printed. Any other exception: 1, with its traceback.
    """
    module = types.ModuleType(MODULE)
    module.__file__ = path
    sys.modules[MODULE] = module
    sys.argv = [path, event, *arguments]
    try:
        exec(code, module.__dict__)
        function = module.__dict__.get(event)
        status = 0 if function is None else _status(event, function(*arguments), tell)
    except Fail as failure:
        _say(str(failure))
        tell(first_line(str(failure)))
        status = failure.status
    except LocumError as error:  # its message is the reason
        _say(str(error))
        tell(first_line(str(error)))
        status = 1
    except SystemExit as end:
        status = _exit_status(end.code, tell)
    except BaseException as error:
        _say("".join(_traceback(error, path)).rstrip("\n"))
        tell(reason_of_exception(error, path))
        status = 1
    return status


def finish(status: int) -> int:
    """Run exit handlers and flush buffers; return the status, or 1 when the output cannot be written."""
    import atexit  # noqa: PLC0415

    try:
        atexit._run_exitfuncs()
    except Exception:
        status = status or 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = status or 1
    return status


def _status(event: str, value: object, tell: Callable[[str], None]) -> int:
    """Convert a function's return value: nothing or 0 is success, another whole number is the status."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        text = (
            f"{event}() returned {value!r}, which is neither success nor failure: return nothing (or 0) for success,"
            " raise locum.script.Fail(reason) for failure"
        )
        _say(text)
        tell(first_line(text))
        return 1
    return value if 0 <= value <= 255 else 1


def _exit_status(code: object, tell: Callable[[str], None]) -> int:
    """As for :func:`sys.exit`: None is 0, a number is itself, anything else is printed and 1."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    _say(str(code))
    tell(first_line(str(code)))
    return 1


def _traceback(error: BaseException, path: str) -> list[str]:
    """The traceback from the script's first frame on: the frames of the caller do not help its author."""
    start = error.__traceback__
    while start is not None and start.tb_frame.f_code.co_filename != path:
        start = start.tb_next
    return traceback.format_exception(type(error), error, start or error.__traceback__)


def _say(text: str) -> None:
    try:
        sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        try:
            os.write(2, text.encode("utf-8", "backslashreplace") + b"\n")  # the script closed or replaced sys.stderr
        except OSError:
            pass
