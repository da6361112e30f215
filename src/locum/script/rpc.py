"""Checks of ONC RPC services: by name, for scripts, and as a program for the shell functions."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # The shell functions run this file without site packages, which may be how the package is found.
    sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))

from locum import rpc

#: Names that may be given instead of program numbers (the common ones of rpc(5)).
PROGRAMS = {
    "portmapper": 100000,
    "rpcbind": 100000,
    "rstatd": 100001,
    "rusersd": 100002,
    "nfs": 100003,
    "ypserv": 100004,
    "mountd": 100005,
    "rquotad": 100011,
    "nlockmgr": 100021,
    "lockd": 100021,
    "status": 100024,
    "statd": 100024,
    "nfs_acl": 100227,
}


def check(program: int | str, version: int, host: str = "127.0.0.1", *, tcp: bool = True, timeout: float = 5.0) -> None:
    """Call procedure 0 of ``program``, a number or a name, in ``version`` on ``host``. Raises
    :class:`locum.rpc.RpcError`.

    ``timeout`` is for the whole check, in seconds.
    """
    number = program if isinstance(program, int) else PROGRAMS.get(program)
    if number is None:
        if not str(program).isdecimal():
            raise rpc.RpcError(f"unknown RPC program {program!r}; give its number, or one of {', '.join(PROGRAMS)}")
        number = int(program)
    try:
        rpc.null_call(number, version, host, tcp=tcp, timeout=timeout)
    except rpc.RpcError as error:
        raise rpc.RpcError(f"RPC service {program}: {error}") from None


def main(arguments: list[str]) -> int:
    """``rpc.py PROGRAM VERSION [HOST [tcp|udp]]``, for the shell functions."""
    if not 2 <= len(arguments) <= 4 or not arguments[1].isdecimal():
        print("usage: PROGRAM VERSION [HOST [tcp|udp]]", file=sys.stderr)
        return 2
    program, version, host, protocol = (*arguments, *("127.0.0.1", "tcp")[len(arguments) - 2 :])
    try:
        check(program, int(version), host, tcp=protocol != "udp")
    except rpc.RpcError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
