"""A host for Samba's programs on this machine, beside others: its files are in a directory of its own.

Samba's paths are built into its programs. Every program of a host therefore runs in a mount namespace in which these
paths are the host's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

#: The directories in which Samba keeps what belongs to one host.
PLACES = ("etc/samba", "var/lib/samba", "var/cache/samba", "var/log/samba", "run/samba")

_INSIDE = """\
#!/bin/sh
# Run a command as on the host {name}.
exec unshare --mount --uts --propagation private sh -c '
hostname {name}
for place in {places}; do mkdir -p /$place && mount --bind {root}/$place /$place || exit 1; done
for file in {files}; do [ -e /$file ] || : >/$file; mount --bind {root}/$file /$file || exit 1; done
exec "$@"' sh "$@"
"""


class SambaHost:
    """One host. ``root``: the directory that holds its files. ``files``: path → text.

    ``program``: the path of a program that runs its arguments as on this host.
    """

    def __init__(self, root: Path, name: str, files: Mapping[str, str]) -> None:
        self.root = root
        for place in (*PLACES, "var/lib/samba/private"):
            (root / place).mkdir(parents=True, exist_ok=True)
        (root / "var/lib/samba/private").chmod(0o700)
        for path, text in files.items():
            self.path(path).write_text(text)
        single = [path.lstrip("/") for path in files if not path.startswith("/etc/samba")]
        program = root / "inside"
        program.write_text(_INSIDE.format(name=name, root=root, places=" ".join(PLACES), files=" ".join(single)))
        program.chmod(0o755)
        self.program = str(program)

    def path(self, path: str) -> Path:
        """Where one of the host's files is on this machine."""
        return self.root / path.lstrip("/")

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs ``argv`` as on this host."""
        return [self.program, *argv]
