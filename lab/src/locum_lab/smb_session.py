"""An SMB client that holds a file open, writes to it without end, and reconnects at once when its connection ends.

Runs in the system's Python, which has Samba's modules (Debian package python3-samba), without Locum:
``python3 -P smb_session.py SERVER SHARE USER REALM PASSWORD FILE [SECONDS]``, with Kerberos. It opens the file for
itself alone, and writes a line every tenth of a second. A request that has no answer after ``SECONDS`` ends the
connection; Samba's default is 20. For each step it prints a JSON object: ``t`` (boot time in seconds), ``said``
(``open``, ``wrote`` or ``error``), ``number`` (of the line written) and ``error`` (the NTSTATUS in hexadecimal).
"""

from __future__ import annotations

import json
import sys
import time

#: Windows' access rights: read and write data and attributes.
_READ_WRITE = 0x0012019F
_EXCLUSIVE = 0
_OPEN_OR_CREATE = 3
_PAUSE = 0.1


def line(number: int) -> bytes:
    """The line of that number; all have one length."""
    return b"%09d\n" % number


def main(server: str, share: str, user: str, realm: str, password: str, file: str, limit: str = "") -> None:
    """Write for ever."""
    from samba import NTSTATUSError, credentials  # type: ignore[import-not-found] # noqa: PLC0415
    from samba.samba3 import libsmb_samba_internal, param  # type: ignore[import-not-found] # noqa: PLC0415

    settings = param.get_context()
    settings.load("/etc/samba/smb.conf")
    who = credentials.Credentials()
    who.guess(settings)
    who.set_username(user)
    who.set_realm(realm)
    who.set_password(password)
    who.set_kerberos_state(credentials.MUST_USE_KERBEROS)
    connection, handle, number = None, 0, 0
    while True:
        try:
            if connection is None:
                connection = libsmb_samba_internal.Conn(server, share, lp=settings, creds=who)
                if limit:
                    connection.settimeout(int(limit) * 1000)
                handle = connection.create(
                    file, DesiredAccess=_READ_WRITE, ShareAccess=_EXCLUSIVE, CreateDisposition=_OPEN_OR_CREATE
                )
                _say(said="open")
            connection.write(handle, line(number), number * len(line(0)))
            _say(said="wrote", number=number)
            number += 1
        except NTSTATUSError as error:
            connection = None
            _say(said="error", error=f"0x{error.args[0]:08X}")
        time.sleep(_PAUSE)


def _say(**values: object) -> None:
    sys.stdout.write(json.dumps({"t": time.clock_gettime(time.CLOCK_BOOTTIME), **values}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
