"""The environment of scripts: its variables, and the form of settings in it.

Rules of this file: pure, except that it determines the place of this installation. Every variable is documented for
script authors in ``docs/events.md``; nothing of the daemon's own environment is passed on, so that a script runs the
same way from the daemon and from a shell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

#: The search path of programs, as on a root login; this installation's own directory comes last.
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: The library of shell functions, ``. "$LOCUM_FUNCTIONS"``.
FUNCTIONS = os.path.join(_PACKAGE, "script", "functions")


def search_path() -> str:
    """PATH for scripts. It ends with the directory of this Python, where ``locum`` and ``locum-script`` are."""
    own = os.path.dirname(sys.executable)
    return STANDARD_PATH if own in STANDARD_PATH.split(":") else f"{STANDARD_PATH}:{own}"


def common_environment(runtime: str, state: str) -> dict[str, str]:
    """The variables of every script and event. The caller adds node, socket and the like."""
    return {
        "PATH": search_path(),
        "LANG": "C.UTF-8",
        "HOME": "/root" if os.geteuid() == 0 else os.path.expanduser("~"),
        "SHELL": "/bin/sh",
        "LOCUM_RUNTIME": runtime,
        "LOCUM_STATE": state,
        "LOCUM_FUNCTIONS": FUNCTIONS,
        "LOCUM_PYTHON": sys.executable,
    }


def environments(
    runtime: str, state: str, settings: Mapping[str, Mapping[str, object]], *added: Mapping[str, str]
) -> Callable[[str], dict[str, str]]:
    """Returns the whole environment of a script by its name. ``settings`` are by script name; ``added`` come last."""
    common = common_environment(runtime, state)
    for variables in added:
        common |= variables
    return lambda name: {**common, **script_environment(name, state, settings.get(name, {}))}


def script_environment(name: str, state: str, settings: Mapping[str, object]) -> dict[str, str]:
    """The additional variables of one script: its name, its state directory, its settings."""
    import json  # noqa: PLC0415

    environment = {
        "LOCUM_SCRIPT": name,
        "LOCUM_SCRIPT_STATE": script_state(state, name),
        "LOCUM_SETTINGS": json.dumps(settings, default=str),
    }
    for key, value in settings.items():
        environment[setting_variable(key)] = _text(value)
    return environment


def script_state(state: str, name: str) -> str:
    """The state directory of the script ``name``."""
    return os.path.join(state, "scripts", name)


def setting_variable(key: str) -> str:
    """The variable that carries the setting ``key``: ``start-timeout`` is in LOCUM_SETTING_START_TIMEOUT."""
    return "LOCUM_SETTING_" + "".join(c if c.isascii() and c.isalnum() else "_" for c in key.upper())


def _text(value: object) -> str:
    """A setting as text: booleans as TOML writes them, lists separated by spaces, tables as JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return " ".join(_text(item) for item in value)
    if isinstance(value, Mapping):
        import json  # noqa: PLC0415

        return json.dumps(value, default=str)
    return str(value)
