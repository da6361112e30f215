"""Writes lines to a descriptor that may stop accepting them: standard error as a full pipe, journald's socket, a file
on a file system that hangs.

Rules of this file: the caller never waits. A thread writes the lines; lines that do not fit into a bounded queue are
dropped and counted, and the count is written as soon as the descriptor accepts lines again. It knows neither levels nor
times.

Why a thread: O_NONBLOCK belongs to the open file, which is shared with every process that inherited it, and has no
effect for a file on a disk.
"""

from __future__ import annotations

import io
import os
import select
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable

from locum import escape

#: Maximum of waiting bytes. At a few hundred bytes a line this covers some minutes of trouble.
ROOM = 256 * 1024
#: Bytes of the latest lines that stay in memory, for reports.
MEMORY = 256 * 1024
#: How long an ending process waits for its last lines to be accepted, in seconds.
FAREWELL = 1.0


def _notice(dropped: int, why: str) -> str:
    return f"{dropped} lines were dropped: standard error did not accept them{f' ({why})' if why else ''}"


class LineWriter:
    """Writes lines to ``descriptor``, in their order, from a thread that starts with the first one.

    ``room``: bytes that may wait. ``notice`` makes the line that reports the number of dropped lines, and why (an error
    of the system, or ""). Usable from any thread; a forked child begins with an empty queue and its own thread.
    """

    def __init__(self, descriptor: int, room: int = ROOM) -> None:
        self.notice: Callable[[int, str], str] = _notice
        #: Lines dropped since the beginning.
        self.dropped = 0
        self._descriptor = descriptor
        self._room = room
        self._begin()
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _begin_anew(this))

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._latest: deque[bytes] = deque()
        self._remembered = 0
        self._waiting = 0
        self._unreported = 0
        self._why = ""
        self._thread: threading.Thread | None = None

    def put(self, line: str) -> None:
        """Write ``line`` (without its end) soon, or drop it; characters that could command a terminal are escaped.
        Never waits, never raises."""
        data = "\n".join(escape.lines(line)).encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            self._remember(data)
            if self._waiting + len(data) > self._room:
                self._drop("")
                return
            self._lines.append(data)
            self._waiting += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="lines", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # no thread can be had now; the next line tries again
                    self._thread = None
            self._changed.notify_all()

    def latest(self) -> list[str]:
        """The latest lines, oldest first, at most MEMORY bytes of them; includes dropped ones."""
        with self._changed:
            return [data.decode("utf-8", "replace").rstrip("\n") for data in self._latest]

    def _remember(self, data: bytes) -> None:
        self._latest.append(data)
        self._remembered += len(data)
        while self._remembered > MEMORY:
            self._remembered -= len(self._latest.popleft())

    def drain(self, seconds: float = FAREWELL) -> bool:
        """Wait until everything was written, at most ``seconds``; returns False after the time limit."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, seconds)

    def _drop(self, why: str) -> None:
        self.dropped += 1
        self._unreported += 1
        self._why = why

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                data = self._lines.popleft()
            why = _write(self._descriptor, data)
            with self._changed:
                reported = 0
                if why is not None:
                    self._drop(why)
                elif self._unreported:
                    reported, because = self._unreported, self._why
            if reported:
                failed = _write(self._descriptor, (self.notice(reported, because) + "\n").encode("utf-8", "replace"))
                with self._changed:
                    self._unreported -= reported if failed is None else 0
            with self._changed:
                # Counted until it is written, so that drain() waits for it.
                self._waiting -= len(data)
                self._changed.notify_all()


def _begin_anew(reference: weakref.ref[LineWriter]) -> None:
    """In a forked child: thread and lines stayed in the parent; the lock may have been held at the fork."""
    writer = reference()
    if writer is not None:
        writer._begin()


def _write(descriptor: int, data: bytes) -> str | None:
    """Write all of ``data``, however long that takes; returns the system's error, or None."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            # Another process that shares the open file has made it non-blocking.
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError as error:
            return error.strerror or str(error)
    return None


class LineStream(io.TextIOBase):
    """A text stream in front of a writer, for ``sys.stderr``: a print or a traceback never waits."""

    def __init__(self, writer: LineWriter, descriptor: int) -> None:
        self._writer = writer
        self._descriptor = descriptor
        self._rest = ""

    def writable(self) -> bool:
        """Always True."""
        return True

    def fileno(self) -> int:
        """The descriptor behind it, for children that inherit it."""
        return self._descriptor

    def write(self, text: str) -> int:
        """Put every whole line. Lines after the first of one piece are indented: an error message in a traceback can
        have several, which must not look like lines of the log."""
        *lines, self._rest = (self._rest + text.removesuffix("\n").replace("\n", "\n" + escape.INDENT)).split("\n")
        if text.endswith("\n"):
            lines, self._rest = [*lines, self._rest], ""
        for line in lines:
            self._writer.put(line)
        return len(text)

    def flush(self) -> None:
        """Do nothing: only an incomplete line waits here."""


#: The one for standard error of this process.
standard_error = LineWriter(2)


def take_standard_error() -> None:
    """From now on writing to ``sys.stderr`` never makes this process wait."""
    if not isinstance(sys.stderr, LineStream):
        sys.stderr = LineStream(standard_error, 2)
