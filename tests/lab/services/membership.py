"""A lab whose nodes are members of a Samba domain; the domain controller is in the hub, reached by every host.

Samba's paths are built into its programs. Every program of a host therefore runs in a mount namespace in which these
paths are the host's own directories.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import pytest

from locum_lab import domain, namespaces, node_files, services, smb_session
from locum_lab.lab import Lab
from locum_lab.tail import Tail

#: The domain controller's address in the hub, and the hub's on the public network, over which the client reaches it.
CONTROLLER = "10.78.0.254"
HUB_PUBLIC = "10.77.0.251"

#: Debian packages, by what shows that they are there: a program, or a file.
NEEDED = {
    "samba": "samba",
    "winbindd": "winbind",
    "smbclient": "smbclient",
    **{
        f"/usr/share/doc/{package}/copyright": package
        for package in ("samba-ad-provision", "samba-dsdb-modules", "samba-vfs-modules", "libnss-winbind")
    },
}

#: What a client may be told when its connection ends: STATUS_CONNECTION_DISCONNECTED, _RESET, _REFUSED (MS-ERREF). A
#: time-out is not among them: the client would have waited for it.
CONNECTION_ENDED = {"0xC000020C", "0xC000020D", "0xC0000236"}

_OWN = ("etc/samba", "var/lib/samba", "var/cache/samba", "var/log/samba", "run/samba")

_INSIDE = """\
#!/bin/sh
# Run a command as on the host {name}.
exec unshare --mount --uts --propagation private sh -c '
hostname {name}
for place in {directories}; do mkdir -p /$place && mount --bind {root}/$place /$place || exit 1; done
for file in {files}; do [ -e /$file ] || : >/$file; mount --bind {root}/$file /$file || exit 1; done
exec "$@"' sh "$@"
"""


class Step(msgspec.Struct, frozen=True):
    """What the client of :mod:`locum_lab.smb_session` did at boot time ``t``."""

    t: float
    said: str
    number: int = -1
    error: str = ""


class Steps:
    """What that client wrote. ``new_lines`` returns the complete lines since its last call."""

    def __init__(self, new_lines: Callable[[], Iterable[bytes]]) -> None:
        self._new_lines = new_lines
        self._all: list[Step] = []

    def read(self) -> list[Step]:
        """Every step so far."""
        self._all += (msgspec.json.decode(line, type=Step) for line in self._new_lines())
        return self._all

    def wrote_since(self, t: float) -> list[Step]:
        """The lines whose writing the server has confirmed after ``t``."""
        return [step for step in self.read() if step.said == "wrote" and step.t > t]

    def errors_since(self, t: float) -> list[str]:
        """What went wrong after ``t``."""
        return [step.error for step in self.read() if step.said == "error" and step.t > t]

    def expected(self) -> bytes:
        """What the file has to contain: every confirmed line."""
        number = max(step.number for step in self.read() if step.said == "wrote")
        return b"".join(map(smb_session.line, range(number + 1)))


def require() -> None:
    """Skip where a member of a domain cannot run, and say why."""
    missing = {
        package
        for path, package in NEEDED.items()
        if shutil.which(path, path="/usr/sbin:/usr/bin:/sbin:/bin") is None and not Path(path).exists()
    }
    if missing:
        pytest.skip(f"NOT TESTED: a Samba domain needs the Debian packages {', '.join(sorted(missing))}")
    if Path("/proc/self/uid_map").read_text().split()[:3] != ["0", "0", "4294967295"]:
        pytest.skip("NOT TESTED: a domain controller keeps access lists in attributes that only the machine's root has")


class Membership:
    """The domain and its members. ``lab``: nodes with the script 50.samba that manages smbd and winbindd."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab = lab
        self._directory = directory
        self._controller: subprocess.Popen[bytes] | None = None
        namespaces.run_ip(
            [
                f"address add {CONTROLLER}/24 dev private",
                f"address add {HUB_PUBLIC}/32 dev public",
                # Its DNS server does not choose a source address: the kernel does.
                f"route add 10.77.0.0/24 dev public src {CONTROLLER}",
            ],
            lab.layout.hub,
        )
        namespaces.run_ip([f"route add {CONTROLLER} via {HUB_PUBLIC}"], lab.layout.client)
        lab.shared.chmod(0o1777)

    # -- hosts -----------------------------------------------------------------------------------------------------

    def host(self, name: str, smb_conf: str, **hosts: str) -> Path:
        """Make the directories of a host; its program that runs others."""
        root = self._directory / name
        for place in (*_OWN, "var/lib/samba/private", "etc"):
            (root / place).mkdir(parents=True, exist_ok=True)
        (root / "var/lib/samba/private").chmod(0o700)
        files = domain.files(CONTROLLER, hosts, smb_conf)
        for path, text in files.items():
            (root / path.lstrip("/")).write_text(text)
        single = [path.lstrip("/") for path in files if not path.startswith("/etc/samba")]
        program = root / "inside"
        program.write_text(_INSIDE.format(name=name, root=root, directories=" ".join(_OWN), files=" ".join(single)))
        program.chmod(0o755)
        return program

    def program(self, name: str) -> str:
        """The path of the program that runs others as on this host."""
        return str(self._directory / name / "inside")

    def run(self, where: str, host: str, argv: Sequence[str], limit: float = 300.0) -> str:
        """Run a command on a host, in the namespace of ``where``; its output. Fails with it when the command fails."""
        done = self.lab.run(where, [self.program(host), *argv], timeout=limit)
        assert done.returncode == 0, f"{host}: {argv}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def on(self, node: str, *argv: str, limit: float = 300.0) -> str:
        """Run a command on a node."""
        return self.run(node, node, argv, limit)

    # -- the domain ------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Make the domain, join the nodes, and configure 50.samba on each."""
        public = tuple(found.address for found in self.lab.layout.public_addresses if ":" not in found.address)
        self.host(domain.CONTROLLER, "")
        (self._directory / domain.CONTROLLER / "etc/samba/smb.conf").unlink()
        self._as_controller(domain.provision(CONTROLLER))
        self.start_controller()
        self._as_controller(domain.prepare(public))
        for node in self.lab.layout.node_names:
            own = {node: self.lab.layout.private_address(node)}
            self.host(node, domain.member_configuration(str(self.lab.shared)), **own)
            key = self._directory / domain.CONTROLLER / domain.EXPORTED_KEYTAB.lstrip("/")
            shutil.copyfile(key, self._directory / node / domain.KEYTAB.lstrip("/"))
            self.on(node, "sh", "-c", domain.join())
            self._configure(node)
        self.host("client", domain.client_configuration())
        # A client whose name server has answered with the first address.
        self.host("pinned", domain.client_configuration(), **{domain.SERVICE: public[0]})

    def _as_controller(self, script: str) -> str:
        return self.run("hub", domain.CONTROLLER, ["sh", "-euc", script])

    def _configure(self, node: str) -> None:
        inside = self.program(node)
        values = {
            "command": [inside, "smbd", "--foreground", "--no-process-group"],
            "testparm": f"{inside} testparm",
            "cleanup": f"{inside} smbstatus --numeric --processes",
            "winbind": True,
            "winbind-command": [inside, "winbindd", "--foreground", "--no-process-group"],
            "winbind-check": f"{inside} wbinfo --ping",
        }
        table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        directory = self.lab.node_directory(node)
        with (directory / "config.toml").open("a") as file:
            file.write(f'\n[scripts."50.samba"]\n{table}')
        node_files.install(services.shipped("50.samba"), directory / "events")

    def start_controller(self) -> None:
        """Start the domain controller and wait until it answers."""
        command = self.lab.command("hub", [self.program(domain.CONTROLLER), "samba", "--foreground"])
        with (self._directory / "controller.log").open("ab") as log:
            self._controller = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        argv = [self.program(domain.CONTROLLER), "sh", "-c", domain.answers()]
        self.lab.wait_for("the domain controller", lambda: self.lab.run("hub", argv).returncode == 0, 300)

    def set_reachable(self, reachable: bool) -> None:
        """Drop everything that is sent to the domain controller, without an answer, or stop doing that."""
        rules = (
            "flush ruleset ip"
            if reachable
            else (
                "add table ip away; add chain ip away input { type filter hook input priority 0; }; "
                f"add rule ip away input ip daddr {CONTROLLER} drop"
            )
        )
        namespaces.run(["ip", "netns", "exec", self.lab.layout.hub, "nft", rules])

    def end(self) -> None:
        """Collect the process that :meth:`Lab.down` has ended."""
        if self._controller is not None:
            self._controller.wait(60)

    # -- clients ---------------------------------------------------------------------------------------------------

    def connect(self, command: str, *, kerberos: bool, address: str | None = None) -> subprocess.CompletedProcess[str]:
        """Carry out a command of smbclient at the service's public name; ``address`` chooses one of its addresses."""
        chosen = ["--ip-address", address] if address else []
        argv = domain.connect(domain.name(domain.SERVICE), command, kerberos=kerberos)
        return self.lab.run("client", [self.program("client"), *argv, *chosen], timeout=300)

    def session(self, file: str) -> Session:
        """A client that holds this file open and writes to it, through the first public address."""
        return Session(self, file)


class Session:
    """The client of :mod:`locum_lab.smb_session`, for the length of a ``with`` block."""

    def __init__(self, members: Membership, file: str) -> None:
        path = members.lab.directory / f"session-{file}.jsonl"
        path.unlink(missing_ok=True)
        self.steps = Steps(Tail(path).lines)
        self._lab = members.lab
        command = [
            *(members.program("pinned"), "/usr/bin/python3", "-P", smb_session.__file__, domain.name(domain.SERVICE)),
            *(domain.SHARE, domain.USER, domain.REALM, domain.PASSWORD, file),
        ]
        with path.open("wb") as output:
            self._process = subprocess.Popen(
                members.lab.command("client", command), stdin=subprocess.DEVNULL, stdout=output, stderr=sys.stderr
            )

    def __enter__(self) -> Session:
        self.wait_wrote(0.0)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def wait_wrote(self, since: float, limit: float = 120.0) -> Step:
        """Wait until the server confirms a line after ``since``; the first that it did."""

        def wrote() -> Step | None:
            assert self._process.poll() is None, "the client has ended"
            return next(iter(self.steps.wrote_since(since)), None)

        found = self._lab.wait_for("a line from the client", wrote, limit)
        assert found is not None
        return found
