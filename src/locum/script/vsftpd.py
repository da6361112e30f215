"""vsftpd's configuration, vsftpd.conf(5): one ``option=value`` per line, without spaces around the ``=``.

This file only reads; missing options have vsftpd's defaults.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from locum.script.failure import Fail

#: Places of the file in distributions.
PLACES = ("/etc/vsftpd.conf", "/etc/vsftpd/vsftpd.conf")


def read_options(config: str | None = None, command: Sequence[str] = ()) -> dict[str, str]:
    """The options in force. ``command``: the command that starts vsftpd; its arguments are files and
    ``-ooption=value``, as vsftpd(8) takes them. ``config``: the file instead of those; without either, the first
    existing file of PLACES. Raises Fail when a named file cannot be read.
    """
    program = next((i for i, word in enumerate(command) if os.path.basename(word) == "vsftpd"), len(command))
    arguments = command[program + 1 :]
    named = [config] if config else [word for word in arguments if not word.startswith("-")]
    options: dict[str, str] = {}
    for path in named or PLACES:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                options.update(_parse(file.read().splitlines()))
        except OSError as error:
            if named:
                raise Fail(f"{path}: {error.strerror or error}") from None
            continue
        if not named:
            break
    options.update(_parse([word[2:] for word in arguments if word.startswith("-o")]))
    return options


def listen_port(options: Mapping[str, str]) -> int:
    """The port on which it listens for clients."""
    return _number(options, "listen_port", 21)


def data_ports(options: Mapping[str, str]) -> tuple[str, ...]:
    """The local ports of its data connections, as ``FIRST-LAST``: those for passive clients (all above 1023 unless
    ``pasv_min_port`` and ``pasv_max_port`` limit them), and, with ``connect_from_port_20``, that for active ones."""
    first = max(_number(options, "pasv_min_port", 0), 1024)
    last = _number(options, "pasv_max_port", 0)
    last = last if first <= last <= 65535 else 65535
    found = [] if _is_off(options.get("pasv_enable", "YES")) else [f"{first}-{last}"]
    if not _is_off(options.get("connect_from_port_20", "NO")):
        port = _number(options, "ftp_data_port", 20)
        found.append(f"{port}-{port}")
    return tuple(found)


def _parse(lines: Sequence[str]) -> dict[str, str]:
    found = {}
    for line in lines:
        name, given, value = line.strip().partition("=")
        if given and not name.startswith("#"):
            found[name] = value
    return found


def _is_off(value: str) -> bool:
    return value.upper() not in ("YES", "TRUE", "1")


def _number(options: Mapping[str, str], name: str, default: int) -> int:
    value = options.get(name, "")
    return int(value) if value.isdecimal() else default
