"""A lab whose nodes are members of a Samba domain; the domain controller is in the hub, reached by every host."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from locum_lab import domain, domain_controller, namespaces, node_files, services
from locum_lab.lab import Lab
from locum_lab.samba_host import SambaHost
from tests.lab.services import smb_clients
from tests.lab.services.smb_clients import Session

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
        self._hosts: dict[str, SambaHost] = {}
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

    def _host(self, name: str, smb_conf: str, **hosts: str) -> SambaHost:
        """Make the directories of a host; ``hosts``: names that it knows, without its name server."""
        host = SambaHost(self._directory / name, name, domain.files(CONTROLLER, hosts, smb_conf))
        self._hosts[name] = host
        return host

    def program(self, name: str) -> str:
        """The path of the program that runs others as on this host."""
        return self._hosts[name].program

    def run(self, where: str, host: str, argv: Sequence[str], limit: float = 300.0) -> str:
        """Run a command on a host, in the namespace of ``where``; its output. Fails with it when the command fails."""
        done = self.lab.run(where, self._hosts[host].command(argv), timeout=limit)
        assert done.returncode == 0, f"{host}: {argv}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def on(self, node: str, *argv: str, limit: float = 300.0) -> str:
        """Run a command on a node."""
        return self.run(node, node, argv, limit)

    # -- the domain ------------------------------------------------------------------------------------------------

    def build(self) -> None:
        """Make the domain, join the nodes, and configure 50.samba on each."""
        public = tuple(found.address for found in self.lab.layout.public_addresses if ":" not in found.address)
        # It runs under another host name, in another directory, than where it was made.
        controller = self._host("host-of-the-controller", "")
        archive = self._directory / "domain.tar.gz"
        archive.write_bytes(domain_controller.make(self._directory / "made", CONTROLLER, public))
        namespaces.run(domain_controller.unpack(str(archive), str(controller.root)))
        self._start_controller(controller)
        for node in self.lab.layout.node_names:
            own = {node: self.lab.layout.private_address(node)}
            host = self._host(node, domain.member_configuration(str(self.lab.shared)), **own)
            shutil.copyfile(controller.path(domain.EXPORTED_KEYTAB), host.path(domain.KEYTAB))
            self.on(node, "sh", "-c", domain.join())
            self._configure(node)
        self._host("client", domain.client_configuration())
        # A client whose name server has answered with the first address.
        self._host("pinned", domain.client_configuration(), **{domain.SERVICE: public[0]})

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

    def _start_controller(self, host: SambaHost) -> None:
        """Start the domain controller and wait until it answers."""
        command = self.lab.command("hub", host.command(["samba", "--foreground"]))
        with (self._directory / "controller.log").open("ab") as log:
            self._controller = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        argv = host.command(["sh", "-c", domain.answers()])
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
        argv = smb_clients.login([self.program("client")], command, kerberos=kerberos, address=address)
        return self.lab.run("client", argv, timeout=300)

    def session(self, file: str) -> Session:
        """A client that holds this file open and writes to it, through the first public address."""
        host = self.lab.command("client", [self.program("pinned")])
        return Session(host, file, self.lab.directory, self.lab.wait_for)
