"""Problems of a node's credentials for its store: files that are unusable, expire, or are readable by others.

Rules of this file: it reads the files and opens no connection. ``check-config``, ``doctor`` and a starting daemon
report the same, because all use this module.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Literal, NamedTuple

from locum.config.model import Settings

Kind = Literal["unusable", "ended", "warning", "good"]


class Remark(NamedTuple):
    """One result. ``unusable``: a daemon cannot start with it; ``ended``: it can, and etcd will probably refuse it."""

    kind: Kind
    text: str


def examine(settings: Settings) -> list[Remark]:
    """All remarks about the credentials of ``settings``; empty without credentials."""
    files = settings.cluster.etcd
    if settings.cluster.store.kind != "etcd" or not (files.tls or files.user):
        return []
    # Needs ssl, which takes longer to import than everything else that a guard needs.
    from locum.store.credentials import described, ended, endings, look, merge  # noqa: PLC0415

    place = f"{settings.source}: cluster.etcd"
    missing = {key: path for key, path in _paths(settings).items() if not _readable(path)}
    found = [
        Remark("unusable", f"{place}.{key}: found {path}, {_why_not(path)}; expected a readable file")
        for key, path in missing.items()
    ]
    seen = look(files)
    now = time.time()
    if not missing:
        found += [Remark("unusable", f"{place}: {problem.removeprefix('etcd: ')}") for problem in seen.problems]
    contents, _ = merge(None, seen, now)
    if contents is not None:
        kind: Kind = "ended" if ended(contents, now) else "warning"
        found += [Remark(kind, text) for text in endings(contents, now)]
        if contents.pair is not None and files.user is not None and contents.pair.certificate.common_name:
            found.append(
                Remark(
                    "warning",
                    f"client certificate {contents.pair.path} has a common name (CN): etcd's gateway refuses it while"
                    " users and passwords are enabled; use one without",
                )
            )
        if not files.tls:
            found.append(
                Remark("warning", "the password for etcd is sent unencrypted (cluster.etcd.allow_plain_password)")
            )
        found += [Remark("good", text) for text in described(None, contents)]
    for key, what in (("password_file", "the password"), ("key", "the key")):
        path = _paths(settings).get(key)
        if path is not None and _readable_by_others(path):
            found.append(
                Remark(
                    "warning",
                    f"{path}: users other than its owner may read {what}; make it root's and chmod 600 {path}",
                )
            )
    return found


def _paths(settings: Settings) -> dict[str, str]:
    files = settings.cluster.etcd
    given = {"ca": files.ca, "cert": files.cert, "key": files.key, "password_file": files.password_file}
    return {key: path for key, path in given.items() if path is not None}


def _readable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.R_OK)


def _why_not(path: str) -> str:
    return "which this process may not read" if os.path.isfile(path) else "which does not exist"


def _readable_by_others(path: str) -> bool:
    """Whether users other than root and the daemon's own user may read the file at ``path``."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return bool(
        status.st_mode & stat.S_IROTH
        or (status.st_mode & stat.S_IRGRP and status.st_gid != 0)
        or status.st_uid not in (0, os.geteuid())
    )
