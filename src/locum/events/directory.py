"""A directory of event scripts: which files are scripts, in which order, and what is wrong with them.

Rules of this file: it reads the file system and never runs anything, changes nothing. Names and order follow CTDB
(``NN.name``, ``ctdb/config/events/README``); what others could write is refused, for scripts run as root.

Two sorts of problem: a *fault* stops every event of the directory (running some scripts and not others could do
more harm than stopping), a *remark* is named by ``locum event check`` alone. A stray file such as an
editor's must not move addresses, so a name that is not a script's is a remark.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from locum.errors import PermissionRequired, ScriptDirectoryError, UsageError
from locum.events.analysis import READ_LIMIT, Analysis, Kind, analyse
from locum.events.environment import search_path

_NAME = re.compile(r"(?P<number>[0-9]{2})\.[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_SUFFIX = ".script"


class Script(msgspec.Struct, frozen=True):
    """One script of a directory.

    ``name`` is the file's name without ``.script``; ``enabled`` whether it is executable. ``events`` are the events
    that it handles as far as that is known (see :class:`locum.events.analysis.Analysis`), None for any.
    """

    name: str
    path: str
    enabled: bool
    kind: Kind
    events: tuple[str, ...] | None

    def handles(self, event: str) -> bool:
        """Whether running the script for ``event`` could do anything, enabled or not."""
        return self.events is None or event in self.events


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a directory: with which file, and what to do. A ``fault`` stops events."""

    place: str
    text: str
    fault: bool

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Listing(msgspec.Struct, frozen=True):
    """A directory as it was at one moment: the scripts in the order in which they run, and all problems."""

    directory: str
    scripts: tuple[Script, ...]
    problems: tuple[Problem, ...]

    @property
    def faults(self) -> tuple[Problem, ...]:
        """The problems that stop events."""
        return tuple(problem for problem in self.problems if problem.fault)


class ScriptDirectory:
    """Reads a directory as often as asked; files that did not change since the last time are not opened again."""

    def __init__(self, path: Path | str) -> None:
        self.path = os.fspath(path)
        self._search_path = search_path()
        self._analyses: dict[str, tuple[tuple[int, ...], Analysis]] = {}

    def scan(self) -> Listing:
        """Read the directory now. Everything that is wrong is in the listing; nothing is raised."""
        problems = self._directory_problems()
        scripts: list[Script] = []
        try:
            names = sorted(os.listdir(self.path))
        except OSError as error:
            if not problems:
                problems = [Problem(self.path, f"cannot be read: {error.strerror}", True)]
            return Listing(self.path, (), tuple(problems))
        analyses: dict[str, tuple[tuple[int, ...], Analysis]] = {}
        numbers: dict[str, list[str]] = {}
        for name in names:
            if name.endswith("~") or name.startswith("."):
                continue
            match = _NAME.fullmatch(name)
            if match is None:
                text = "is not named NN.name or NN.name.script, so it never runs: rename it, or move it elsewhere"
                problems.append(Problem(name, text, False))
                continue
            numbers.setdefault(match["number"], []).append(name)
            script = self._read(name, analyses, problems)
            if script is not None:
                scripts.append(script)
        self._analyses = analyses
        for number, same in numbers.items():
            if len(same) > 1:
                text = f"have the same number {number}.: give each its own, the order is undefined otherwise"
                problems.append(Problem(" and ".join(same), text, True))
        if not numbers and not any(problem.fault for problem in problems):
            problems.append(Problem(self.path, "holds no event script (NN.name)", True))
        return Listing(self.path, tuple(scripts), tuple(problems))

    def load(self) -> tuple[Script, ...]:
        """The scripts in the order in which they run. Raises :class:`ScriptDirectoryError` with every fault."""
        listing = self.scan()
        if listing.faults:
            raise ScriptDirectoryError(self.path, [str(problem) for problem in listing.faults])
        return listing.scripts

    def check(self) -> Listing:
        """The listing of a directory without flaw. Raises :class:`ScriptDirectoryError` with faults and remarks."""
        listing = self.scan()
        if listing.problems:
            raise ScriptDirectoryError(self.path, [str(problem) for problem in listing.problems])
        return listing

    def find(self, name: str) -> Script:
        """The script called ``name``: ``50.web``, the file's name, a path to it, or ``web`` when only one is called
        that. Raises UsageError."""
        listing = self.scan()
        base = os.path.basename(name.rstrip("/")).removesuffix(_SUFFIX)
        exact = [script for script in listing.scripts if script.name == base]
        found = exact or [script for script in listing.scripts if script.name.split(".", 1)[1] == base]
        if len(found) == 1:
            return found[0]
        names = ", ".join(script.name for script in found or listing.scripts) or "none"
        if found:
            raise UsageError(f"{name!r} could be any of {names}: give the whole name")
        raise UsageError(f"there is no script {name!r} in {self.path}; there are {names}")

    def set_enabled(self, script: Script, enabled: bool) -> bool:
        """Make ``script`` executable or not; False when it was so already.

        Raises UsageError when that cannot be done, and :class:`ScriptDirectoryError` instead of enabling a script
        that would stop every event.
        """
        if script.enabled == enabled:
            return False
        file = os.path.basename(script.path)
        if os.path.islink(script.path):
            raise UsageError(
                f"{script.path} is a link to {os.path.realpath(script.path)}, whose mode decides for everybody who"
                " links to it: put a copy in its place, or remove the link"
            )
        if enabled:
            problems = [str(problem) for problem in self.scan().faults if problem.place == file]
            with open(script.path, "rb") as content:
                analysis = analyse(content.read(READ_LIMIT), script.path, self._search_path)
            problems += [f"{file}: {text}" for text in analysis.problems]
            if problems:
                raise ScriptDirectoryError(self.path, problems)
        mode = stat.S_IMODE(os.stat(script.path).st_mode)
        try:
            os.chmod(script.path, mode | (mode & 0o444) >> 2 if enabled else mode & ~0o111)
        except PermissionError:
            raise PermissionRequired(f"{script.path}: only its owner or root can change its mode") from None
        return True

    def _directory_problems(self) -> list[Problem]:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return [Problem(self.path, "there is no such script directory", True)]
        except OSError as error:
            return [Problem(self.path, f"cannot be read: {error.strerror}", True)]
        if not stat.S_ISDIR(status.st_mode):
            return [Problem(self.path, "is not a directory", True)]
        return [Problem(self.path, text, True) for text in unsafe(status, self.path)]

    def _read(
        self, name: str, analyses: dict[str, tuple[tuple[int, ...], Analysis]], problems: list[Problem]
    ) -> Script | None:
        path = os.path.join(self.path, name)

        def fault(text: str) -> None:
            problems.append(Problem(name, text, True))

        try:
            link = os.lstat(path)
            status = os.stat(path) if stat.S_ISLNK(link.st_mode) else link
        except FileNotFoundError:
            if os.path.islink(path):
                fault(f"is a link to {os.readlink(path)}, which does not exist")
            return None
        except OSError as error:
            fault(f"cannot be read: {error.strerror}")
            return None
        if not stat.S_ISREG(status.st_mode):
            what = "directory" if stat.S_ISDIR(status.st_mode) else "special file"
            fault(f"is a {what}, not a script")
            return None
        for text in unsafe(status, path):
            fault(text)
        if status is not link:
            self._check_target(path, fault)
        enabled = bool(status.st_mode & 0o111)
        signature = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        known = self._analyses.get(name)
        if known is None or known[0] != signature:
            try:
                with open(path, "rb") as file:
                    content = file.read(READ_LIMIT)
            except OSError as error:
                fault(f"cannot be read: {error.strerror}")
                return None
            known = (signature, analyse(content, path, self._search_path))
        analyses[name] = known
        analysis = known[1]
        problems.extend(Problem(name, text, enabled) for text in analysis.problems)
        problems.extend(Problem(name, text, False) for text in analysis.remarks)
        return Script(name.removesuffix(_SUFFIX), path, enabled, analysis.kind, analysis.events)

    def _check_target(self, path: str, fault: Callable[[str], None]) -> None:
        """A link is as safe as the directory it points into: who can write that can replace the script."""
        parent = os.path.dirname(os.path.realpath(path))
        try:
            texts = unsafe(os.stat(parent), parent)
        except OSError as error:
            texts = [f"cannot be read: {error.strerror}"]
        for text in texts:
            fault(f"is a link into {parent}, which {text}")


def unsafe(status: os.stat_result, path: str) -> list[str]:
    """Why somebody other than us could change the file or directory with this ``status``; empty when nobody can."""
    texts = []
    us = os.geteuid()
    if status.st_uid not in (0, us):
        owner = "root" if us == 0 else "you or root"
        texts.append(f"belongs to user {status.st_uid}, not to {owner}: chown {'root' if us == 0 else us} {path}")
    if status.st_mode & 0o022:
        mode = stat.S_IMODE(status.st_mode)
        texts.append(f"can be written by group or others (mode {mode:04o}): chmod go-w {path}")
    return texts
