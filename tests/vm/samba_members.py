"""Guests in a Samba domain: two members with 50.samba, their domain controller, and a client beside them.

systemd runs smbd, winbindd and the domain controller, from Debian's units. The domain is made on this machine and
carried to its guest: :mod:`locum_lab.domain_controller`. The client is not emulated. The nodes reach the domain
controller over their private network and the hub, which routes; the client reaches everything over the public one.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from locum_lab import domain, domain_controller, namespaces
from locum_lab.samba_host import SambaHost
from locum_lab.vm import image, setup
from locum_lab.vm.lab import VmLab
from locum_lab.vm.machine import Machine
from tests.lab.services import smb_clients
from tests.lab.services.smb_clients import Session

#: The hub's address on the public network.
_ROUTER = "10.77.0.251"
_SHARED = "/srv/shared"
#: The guest that is the domain controller.
CONTROLLER = "c1"
#: Limits in seconds for what takes an emulated processor long.
COMMAND, WITHIN = 900.0, 600.0

#: Locum's settings: limits for an emulated processor.
SETTINGS = """\
[tunables]
DampingWindow = 1
MonitorTimeout = 100
EventTimeout = 300

[scripts."50.samba"]
winbind = true
timeout = 280
check-timeout = 40
winbind-timeout = 200
winbind-check-timeout = 40
testparm-timeout = 60
"""

# It is not enabled: no test starts this guest again.
_START_CONTROLLER = """\
rm -f /etc/samba/smb.conf
{unpack}
systemctl start samba-ad-dc
"""

# As docs/services.md says; in the image, smbd and winbind are disabled.
_PREPARE_MEMBER = """\
mkdir -p {shared}
echo 'shared {shared} 9p trans=virtio,version=9p2000.L 0 0' >>/etc/fstab
mount {shared}
scripts=$(/opt/locum/bin/python -c 'import locum; print(locum.__path__[0])')/scripts
install -m 755 "$scripts/50.samba" /etc/locum/events/
"""


class Members:
    """The cluster. ``lab``: two nodes and a client guest, without Locum running; ``directory``: for clients' files."""

    def __init__(self, lab: VmLab, directory: Path) -> None:
        self.lab = lab
        self._directory = directory
        self._controller = lab.layout.client_addresses(CONTROLLER)[0].partition("/")[0]
        namespaces.run_ip([f"address add {_ROUTER}/24 dev public"], lab.layout.hub)
        namespaces.run(["ip", "netns", "exec", lab.layout.hub, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
        lab.shared.chmod(0o1777)
        service = [public.address for public in lab.layout.public_addresses if ":" not in public.address]
        archive = domain_controller.get(image.default_cache(), self._controller, service)
        self._client = self._host("client")
        # A client whose name server has answered with the first address.
        self._pinned = self._host("pinned", **{domain.SERVICE: self.first})
        nodes = lab.layout.node_names
        key = _member(archive, domain.EXPORTED_KEYTAB)
        with ThreadPoolExecutor() as threads:
            began = [threads.submit(self._start_controller, archive)]
            began += [threads.submit(self._prepare_member, node, key) for node in nodes]
            for step in began:
                step.result()
            lab.wait_for("the domain controller", self._controller_answers, WITHIN)
            for step in [threads.submit(self._start_member, node) for node in nodes]:
                step.result()

    def _start_controller(self, archive: bytes) -> None:
        machine = self.lab.machine(CONTROLLER)
        files = domain.files(self._controller, {}, "")
        del files["/etc/samba/smb.conf"]
        _install(machine, {**files, "/root/domain.tar.gz": archive, **_route(machine, "10.78.0.0/24", _ROUTER)})
        unpack = " ".join(domain_controller.unpack("/root/domain.tar.gz"))
        machine.sh(_START_CONTROLLER.format(unpack=unpack), timeout=COMMAND)

    def _controller_answers(self) -> bool:
        argv = [*self._client, "sh", "-c", domain.answers()]
        return subprocess.run(argv, capture_output=True, timeout=WITHIN, check=False).returncode == 0

    def _prepare_member(self, node: str, key: bytes) -> None:
        machine = self.lab.machine(node)
        own = {node: self.lab.layout.private_address(node)}
        files = domain.files(self._controller, own, domain.member_configuration(_SHARED))
        route = _route(machine, f"{self._controller}/32", setup.OUTSIDE_V4)
        _install(machine, {**files, domain.KEYTAB: key, **route})
        machine.sh(_PREPARE_MEMBER.format(shared=_SHARED), timeout=COMMAND)

    def _start_member(self, node: str) -> None:
        self.lab.machine(node).sh(f"{domain.join()}systemctl enable --quiet --now locum", timeout=COMMAND)

    def _host(self, name: str, **hosts: str) -> list[str]:
        """Make a client; the beginning of a command line that runs the rest on it."""
        files = domain.files(self._controller, hosts, domain.client_configuration())
        host = SambaHost(self._directory / name, name, files)
        return ["ip", "netns", "exec", self.lab.layout.client, host.program]

    @property
    def nodes(self) -> list[Machine]:
        """The two guests."""
        return [self.lab.machine(node) for node in self.lab.layout.node_names]

    @property
    def first(self) -> str:
        """The address of sessions."""
        return self.lab.layout.public_addresses[0].address

    @property
    def holder(self) -> str:
        """The node that serves it."""
        return self.lab.served()[self.first]

    def session(self, file: str) -> Session:
        """A client that holds this file open and writes to it, through the first public address."""
        return Session(self._pinned, file, self.lab.directory, self.lab.wait_for, emulated=True)

    def logs_in(self, address: str, *, kerberos: bool) -> str:
        """Let a user of the domain ask for the files at this address, by the service's public name. Returns what went
        wrong, or "".
        """
        argv = smb_clients.login(self._client, "ls", kerberos=kerberos, address=address)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN, check=False)
        return "" if done.returncode == 0 else f"{address}, Kerberos {kerberos}: {done.stdout}{done.stderr}"

    def set_reachable(self, reachable: bool) -> None:
        """Drop what is sent to the domain controller and from it on its way, or stop doing that."""
        rules = (
            "delete table ip away"
            if reachable
            else (
                "add table ip away; add chain ip away forward { type filter hook forward priority 0; }; "
                f"add rule ip away forward ip daddr {self._controller} drop; "
                f"add rule ip away forward ip saddr {self._controller} drop"
            )
        )
        namespaces.run(["ip", "netns", "exec", self.lab.layout.hub, "nft", rules])


def _member(archive: bytes, path: str) -> bytes:
    """The content of one file in an archive of :mod:`locum_lab.domain_controller`."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        found = files.extractfile(path.lstrip("/"))
        assert found is not None
        return found.read()


def _route(machine: Machine, target: str, gateway: str) -> dict[str, str]:
    """The file of a static route over eth0, which a reboot does not lose."""
    file = "/etc/systemd/network/10-eth0.network"
    return {file: machine.read(file) + f"\n[Route]\nDestination={target}\nGateway={gateway}\n"}


def _install(machine: Machine, files: Mapping[str, str | bytes]) -> None:
    """Write files in a guest, all at once, and let its network follow. Only root reads what is not text."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, content in files.items():
            found = tarfile.TarInfo(path.lstrip("/"))
            data = content.encode() if isinstance(content, str) else content
            found.size, found.mode = len(data), 0o644 if isinstance(content, str) else 0o600
            archive.addfile(found, io.BytesIO(data))
    machine.agent.write("/root/files.tar.gz", packed.getvalue())
    machine.sh(
        "tar --extract --gzip --file /root/files.tar.gz --directory /\n"
        "networkctl reload\n"
        "until ip route | grep -q via; do sleep 0.2; done",
        timeout=COMMAND,
    )
