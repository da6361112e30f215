"""``locum-script``: runs one event of a Python script by hand, and is the interpreter in its first line.

``./50.web monitor`` runs the function ``monitor`` of the script, in this process, with its own
environment. Rules of this file: only the additional needs of a hand-started script over
:mod:`locum.events.runner.python_script`.
"""

from __future__ import annotations

import os
import sys

from locum.events.runner.python_script import call_event, compile_script, finish

USAGE = """\
usage: SCRIPT EVENT [ARGUMENT...]
       locum-script SCRIPT EVENT [ARGUMENT...]

Runs the function of an event script for one event. To run a whole directory as the daemon does:
locum event run --dir DIRECTORY EVENT [ARGUMENT...]\
"""


def main() -> None:
    """Exit with the status of the event's function; 2 for wrong usage or an unreadable script."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if arguments else 2)
    path = arguments[0]
    try:
        code = compile_script(path)
    except SyntaxError as error:
        sys.exit(_wrong(f"{path}, line {error.lineno}: {error.msg}"))
    except (OSError, ValueError) as error:
        sys.exit(_wrong(f"cannot read {path}: {getattr(error, 'strerror', None) or error}"))
    if len(arguments) < 2:
        sys.exit(_wrong(f"{USAGE}\n\n{path} handles: {_handled(path)}"))
    name = os.path.basename(path).removesuffix(".script")
    os.environ.setdefault("LOCUM_SCRIPT", name)
    os.environ.setdefault("LOCUM_EVENT", arguments[1])
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    status = finish(call_event(code, path, arguments[1], arguments[2:]))
    sys.exit(status)


def _handled(path: str) -> str:
    from locum.events.python_analysis import analyse_python  # noqa: PLC0415

    with open(path, "rb") as file:
        events, _, _ = analyse_python(file.read(), path)
    return "any event" if events is None else ", ".join(events) or "no event"


def _wrong(text: str) -> int:
    print(text, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
