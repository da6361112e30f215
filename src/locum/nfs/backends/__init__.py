"""The NFS servers that 60.nfs can manage, by the name that the setting ``backend`` gives."""

from __future__ import annotations

from locum.nfs.backends.base import Backend
from locum.script import Fail


def backend(name: object) -> Backend:
    """The server of that name. Raises Fail that lists them."""
    if name == "ganesha":
        from locum.nfs.backends.ganesha import Ganesha  # noqa: PLC0415

        return Ganesha()
    if name == "kernel":
        from locum.nfs.backends.kernel_server import Kernel  # noqa: PLC0415

        return Kernel()
    raise Fail(f"backend {name!r}: there are 'kernel' and 'ganesha'")
