"""One tree of errors; each message says what is wrong and what to do.

::

    LocumError
    ├── ConfigError            the configuration is wrong (carries every problem found)
    ├── ScriptDirectoryError   an event script directory is wrong (carries every problem found)
    ├── UsageError             a command cannot be carried out as given; has the reason
    ├── PermissionRequired     the process lacks a privilege; names it
    ├── StoreError
    │   ├── StoreUnavailable   no answer: the operation had no effect, or its effect is unknown
    │   └── StoreCorrupt       a value in the store is not what the schema says
    ├── NetlinkError           the kernel refused a netlink request (carries errno)
    └── ProtocolError          a peer on a socket sent something that is not the protocol

The command line turns any of these into one line on standard error and ``exit_status``.
"""

from __future__ import annotations

from collections.abc import Sequence


class LocumError(Exception):
    """Base of all errors that Locum raises on purpose."""

    exit_status = 1


class UsageError(LocumError):
    """A command cannot be carried out as given."""

    exit_status = 2


class PermissionRequired(LocumError):
    """The process lacks a privilege; the message names it."""


class ProblemsError(LocumError):
    """Several problems found in one pass, each one line: place, what was found, what is expected."""

    exit_status = 2

    def __init__(self, subject: str, problems: Sequence[str]) -> None:
        self.subject = subject
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(ProblemsError):
    """The configuration is wrong; ``problems`` lists all of its problems."""


class ScriptDirectoryError(ProblemsError):
    """An event script directory is wrong; ``problems`` lists all of its problems."""


class StoreError(LocumError):
    """Base of all errors of a store."""


class StoreUnavailable(StoreError):
    """The store gave no answer. A commit that raises this may or may not have been carried out."""


class StoreCorrupt(StoreError):
    """A value in the store does not decode as its key's record."""


class NetlinkError(LocumError):
    """The kernel refused a netlink request. ``errno`` is the positive error number from the kernel's answer."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class HoldEnded(LocumError):
    """The hold ended before the node had finished an action that requires it."""

    def __init__(self) -> None:
        super().__init__("the hold has ended")


class ProtocolError(LocumError):
    """A peer on a socket sent something that is not the protocol."""
