"""Samba's configuration as Samba itself reads it: by testparm(1), which knows defaults, includes and the registry.

This file interprets only the output of testparm. testparm may be slow or hang (the registry can be in a clustered
database), so it has a time limit, and its last good answer is kept.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from locum.script.commands import TIMED_OUT, as_words, run
from locum.script.context import log, settings, state_dir
from locum.script.failure import Fail

Sections = dict[str, dict[str, str]]

#: VFS modules that reach another system by its own library: a share's path is not local there (vfs_glusterfs(8),
#: vfs_ceph(8), vfs_ceph_new(8), vfs_ceph_rgw(8)). All other modules of Samba, including glusterfs_fuse and
#: ceph_snapshots, use this machine's file systems.
ELSEWHERE = frozenset({"glusterfs", "ceph", "ceph_new", "ceph_rgw"})


class SambaConfiguration:
    """The effective configuration: parameters of each section, their names as testparm prints them."""

    def __init__(self, sections: Sections) -> None:
        self.sections = sections

    def ports(self) -> tuple[int, ...]:
        """``smb ports``. Raises Fail when there are none."""
        words = self.sections.get("global", {}).get("smb ports", "").replace(",", " ").split()
        found = tuple(int(word) for word in words if word.isdecimal())
        if not found:
            raise Fail("testparm does not print 'smb ports': set 'ports'")
        return found

    def share_directories(self, skip: Collection[str] = ()) -> tuple[str, ...]:
        """The directories that smbd opens in this machine's file system when a client connects, each once.

        Those with ``%`` are templates (smb.conf(5)). ``skip``: names of shares that are left out.
        """
        skipped = {name.lower() for name in skip}
        root = self._value("global", "root directory").strip('"')
        paths = [
            root.rstrip("/") + path if root else path
            for name in self.sections
            if name not in skipped and (path := self._value(name, "path").strip('"')) and self._is_local(name)
        ]
        return tuple(dict.fromkeys(paths))

    def _is_local(self, name: str) -> bool:
        """Whether smbd opens the share's path for a client, and in this machine's file system.

        make_connection_snum of smbd/smb2_service.c: an unavailable share is refused first, a command for new
        connections may create the directory. A printer's path is a spool; the path of a DFS proxy is not used.
        """
        if name in ("global", "ipc$") or not _is_true(self._value(name, "available"), True):
            return False
        if _is_true(self._value(name, "printable"), False) or self._value(name, "msdfs proxy"):
            return False
        if self._value(name, "preexec") or self._value(name, "root preexec"):
            return False
        modules = self._value(name, "vfs objects").replace(",", " ").replace('"', " ").split()
        return ELSEWHERE.isdisjoint(map(_module, modules))

    def _value(self, section: str, name: str) -> str:
        """The value of a section. testparm omits values that equal those in [global]."""
        own = self.sections.get(section, {})
        return own[name] if name in own else self.sections.get("global", {}).get(name, "")


def _module(word: str) -> str:
    """The name of a VFS module, which may have a path before it and a parameter behind it."""
    return os.path.basename(word).partition(":")[0].removesuffix(".so").lower()


def _is_true(word: str, default: bool) -> bool:
    return default if not word else word.lower() in ("yes", "true", "1", "on")


def parse(text: str) -> SambaConfiguration:
    """testparm's output. Lines that are neither a section nor a parameter are skipped."""
    sections: Sections = {}
    current = sections.setdefault("global", {})
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            current = sections.setdefault(stripped[1:-1].lower(), {})
        elif "=" in stripped and not stripped.startswith(("#", ";")):
            key, _, value = stripped.partition("=")
            current[" ".join(key.lower().split())] = value.strip()
    return SambaConfiguration(sections)


def cached_configuration() -> SambaConfiguration:
    """The last known configuration; testparm runs only if it never ran before. Raises Fail."""
    try:
        with open(_cache(), encoding="utf-8", errors="replace") as file:
            return parse(file.read())
    except FileNotFoundError:
        return read_configuration()


def read_configuration() -> SambaConfiguration:
    """Run testparm, for at most the setting ``testparm-timeout`` seconds (10), and keep its output.

    When it fails, the last good output is used and the reason is logged: a running server continues with the
    configuration that it has read. Raises Fail without an earlier output.
    """
    limit = float(str(settings().get("testparm-timeout", 10)))
    command = [*as_words(str(settings().get("testparm", "testparm"))), "--suppress-prompt", "--verbose"]
    if settings().get("config"):
        command.append(str(settings()["config"]))
    cache = _cache()
    # Complaints about the configuration are on standard error, and must not be taken for a part of it.
    errors = f"{cache}.err"
    done = run(
        ["sh", "-c", 'errors=$1; shift; exec "$@" 2>"$errors"', "sh", errors, *command], check=False, timeout=limit
    )
    if done.status == 0:
        with open(f"{cache}.new", "w", encoding="utf-8", errors="replace") as file:
            file.write(done.output)
        os.replace(f"{cache}.new", cache)
        return parse(done.output)
    if done.status == TIMED_OUT:
        problem = f"testparm did not end within {limit:g} s"
    else:
        with open(errors, encoding="utf-8", errors="replace") as file:
            problem = f"testparm refuses the configuration:\n{file.read().strip()}"
    if not os.path.exists(cache):
        raise Fail(problem)
    log(f"{problem}\nThe previous configuration is used.")
    return cached_configuration()


def _cache() -> str:
    return os.path.join(state_dir(), "smb.conf.cache")
