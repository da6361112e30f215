"""Functions for authors of event scripts in Python; ``docs/events.md`` is the reference.

A script is a file in the node's script directory that begins with ``#!/usr/bin/env locum-script`` and defines a
function for each event that it handles::

    #!/usr/bin/env locum-script
    from locum.script import check_http, expect_listen, start_service, stop_service, wait_for_port

    def startup():
        start_service("nginx")
        wait_for_port(80)
        expect_listen(80)

    def monitor():
        check_http(80)

    def shutdown():
        stop_service("nginx")

A function that returns has succeeded. ``raise Fail("why")``, any other exception, or a returned number that is not 0
is a failure.
"""

from __future__ import annotations

from locum.script.answers import check_ftp, check_http, check_smb
from locum.script.commands import Completed, run
from locum.script.context import (
    PublicAddress,
    interfaces,
    log,
    node_name,
    public_addresses,
    script_name,
    setting_list,
    settings,
    state_dir,
)
from locum.script.daemon import apply_tunables, monitor_again
from locum.script.failure import Fail
from locum.script.managed import ManagedService, reset_connections
from locum.script.network_interfaces import add_address, announce_address, link_is_up, remove_address
from locum.script.ports import (
    can_connect,
    check_port,
    check_unix_socket,
    expect_listen,
    expect_no_listen,
    is_listening,
    register_connections,
    wait_for_port,
)
from locum.script.services import (
    kill_service,
    reload_service,
    service_is_changing,
    service_is_running,
    service_log,
    start_service,
    stop_service,
)
from locum.script.waiting import check_directories, wait_for, wait_for_command, wait_for_directory

__all__ = [
    "Completed",
    "Fail",
    "ManagedService",
    "PublicAddress",
    "add_address",
    "announce_address",
    "apply_tunables",
    "can_connect",
    "check_directories",
    "check_ftp",
    "check_http",
    "check_port",
    "check_rpc",
    "check_smb",
    "check_unix_socket",
    "expect_listen",
    "expect_no_listen",
    "interfaces",
    "is_listening",
    "kill_service",
    "link_is_up",
    "log",
    "monitor_again",
    "node_name",
    "public_addresses",
    "register_connections",
    "reload_service",
    "remove_address",
    "reset_connections",
    "run",
    "script_name",
    "service_is_changing",
    "service_is_running",
    "service_log",
    "setting_list",
    "settings",
    "start_service",
    "state_dir",
    "stop_service",
    "wait_for",
    "wait_for_command",
    "wait_for_directory",
    "wait_for_port",
]


def check_rpc(
    program: int | str, version: int, host: str = "127.0.0.1", *, tcp: bool = True, timeout: float = 5.0
) -> None:
    """Raise Fail unless the ONC RPC service answers a null call on ``host``, over TCP or UDP, within ``timeout``
    seconds. ``program`` is a number or a common name (``nfs``, ``mountd``, ``nlockmgr``, ``status``)."""
    from locum.rpc import RpcError  # noqa: PLC0415
    from locum.script import rpc  # noqa: PLC0415

    try:
        rpc.check(program, version, host, tcp=tcp, timeout=timeout)
    except RpcError as error:
        raise Fail(str(error)) from None
