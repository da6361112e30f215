"""The NFS servers that 60.nfs can manage, by the value of the setting ``backend``."""

from __future__ import annotations

from locum.nfs.backends.base import Backend
from locum.script import Fail


def backend(name: object) -> Backend:
    """The server of that name. Raises Fail with the valid names."""
    if name == "ganesha":
        from locum.nfs.backends.ganesha import Ganesha  # noqa: PLC0415

        return Ganesha()
    if name == "kernel":
        from locum.nfs.backends.kernel_server import Kernel  # noqa: PLC0415

        return Kernel()
    raise Fail(f"invalid backend {name!r}: use 'kernel' or 'ganesha'")
