"""A readable report of what a script was doing when its time limit passed.

Rules of this file: it only reads /proc; unreadable parts are left out.
"""

from __future__ import annotations

from locum.processes import Process, processes, read

#: At most this many processes and this many characters are shown.
PROCESS_LIMIT = 60
TEXT_LIMIT = 24 * 1024


def dump_session(session: int) -> str:
    """The process tree of ``session``, one process a line, with the place in the kernel where each waits.

    Descendants that left the session are shown too, since the script may be waiting for one, marked as such.
    """
    everything = {one.pid: one for one in processes()}
    children: dict[int, list[Process]] = {}
    for one in everything.values():
        children.setdefault(one.parent, []).append(one)
    members = [one for one in everything.values() if one.session == session]
    inside = {one.pid for one in members}
    roots = [one for one in members if one.parent not in inside]
    lines: list[str] = []
    shown: set[int] = set()

    def show(one: Process, depth: int) -> None:
        if one.pid in shown or len(shown) >= PROCESS_LIMIT:
            return
        shown.add(one.pid)
        lines.extend(_describe(one, depth, one.session != session))
        for child in sorted(children.get(one.pid, ()), key=lambda child: child.pid):
            show(child, depth + 1)

    for root in sorted(roots, key=lambda one: (one.pid != session, one.pid)):
        show(root, 0)
    if len(inside - shown) > 0:
        lines.append(f"and {len(inside - shown)} more processes")
    return clip("\n".join(lines))


def clip(text: str) -> str:
    """``text``, cut to its maximum length."""
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + "\n[cut here]"


def _describe(one: Process, depth: int, outside: bool) -> list[str]:
    indent = "  " * depth
    command = _read(one.pid, "cmdline").replace("\0", " ").strip() or f"[{one.name}]"
    where = _read(one.pid, "wchan")
    waits = f" in {where}" if where and where != "0" else ""
    note = " (session of its own, left alone)" if outside else ""
    lines = [f"{indent}{one.pid} {one.state}{waits} {command[:300]}{note}"]
    lines += [f"{indent}    {frame}" for frame in _read(one.pid, "stack").splitlines()[:20]]
    return lines


def _read(pid: int, name: str) -> str:
    return read(pid, name, 16 * 1024).decode("utf-8", "replace")
