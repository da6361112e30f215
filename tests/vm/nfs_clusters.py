"""The two cluster softwares that serve NFS from guests' kernels: Locum, and CTDB as Debian packages it.

Each is configured as its documentation says: docs/nfs.md; ctdb(7), the comments of CTDB's ``statd-callout``.
"""

from __future__ import annotations

import abc

from locum.errors import LocumError
from locum_lab.lab import is_settled
from locum_lab.vm import faults
from locum_lab.vm.lab import VmLab, each
from locum_lab.vm.machine import Machine
from tests.vm.nfs_guests import COMMAND, EXPORT, NAME, PAUSE, install_share

#: Seconds between the end of a lock manager and its start.
RESTART_PAUSE = 3.0
#: Where each node has the records of its NFSv4 clients, in the directory that all nodes share.
_RECOVERY = "/cluster/nfs-recovery"

#: Locum's settings.
SETTINGS = f"""
[tunables]
EventTimeout = 300
MonitorTimeout = 200
# Each monitor takes an emulated processor some seconds.
MonitorInterval = 150
NoIPFailback = 1
DampingWindow = 1

[scripts."60.nfs"]
backend = "kernel"
exports = ["{EXPORT}"]
host_name = "{NAME}"
timeout = 200
restart_pause = {RESTART_PAUSE}
recovery = "{_RECOVERY}"
check_timeout = 60
notify_timeout = 200
"""

# In nfs-utils 2.6.2 the scope of an NFSv4 server is always the host's name.
_SCOPE = f"""
[Service]
ExecStart=
ExecStart=/usr/bin/unshare --uts /bin/sh -c "hostname {NAME} && exec /usr/sbin/rpc.nfsd"
"""
# As long as Linux allows for lockd: a move of emulated machines may take minutes. Tests end the period.
_SECONDS = 240
_GRACE = f"[nfsd]\ngrace-time = {_SECONDS}\nlease-time = 30\n"
_LOCKD = (
    f"echo options lockd nlm_grace_period={_SECONDS} >/etc/modprobe.d/lockd.conf; modprobe lockd;"
    f"sysctl -q fs.nfs.nlm_grace_period={_SECONDS};"
)

# With its default of 9 s for a takeover, emulated nodes form no cluster on a machine with other work.
_CTDB = """
NoIPFailback=1
EventScriptTimeout=600
TakeoverTimeout=300
RecoverTimeout=300
ControlTimeout=300
MonitorInterval=15
"""


class Cluster(abc.ABC):
    """Two guests that serve the export; :meth:`install` before :meth:`start`."""

    #: The systemd unit.
    unit: str

    def __init__(self, lab: VmLab) -> None:
        self.lab = lab

    def install(self, image: bytes | None) -> None:
        """Configure all nodes, at the same time; ``image``: the file system to export, unless a node has it."""

        def one(machine: Machine) -> None:
            if image is not None:
                install_share(machine, image)
            self.configure(machine.name, machine)

        each([self.lab.machine(node) for node in self.lab.layout.node_names], one)

    def start(self) -> None:
        """Start it on all nodes, now and at boot, and wait until it serves."""
        for node in self.lab.layout.node_names:
            self.lab.machine(node).sh(
                f"systemctl enable --quiet {self.unit}; systemctl start --no-block {self.unit}", timeout=COMMAND
            )
        self.wait_settled()

    def stop(self) -> None:
        """Stop it on all nodes, and its NFS server."""
        for node in self.lab.layout.node_names:
            self.lab.machine(node).sh(
                f"systemctl disable --quiet --now {self.unit}; systemctl stop nfs-server rpc-statd", timeout=COMMAND
            )

    @abc.abstractmethod
    def configure(self, node: str, machine: Machine) -> None:
        """What an administrator writes on one node."""

    @abc.abstractmethod
    def served(self) -> dict[str, str]:
        """Public address → node that serves it."""

    @abc.abstractmethod
    def settled(self) -> bool:
        """Whether every node is healthy, and every address served where it should be."""

    @abc.abstractmethod
    def move(self, address: str, node: str) -> None:
        """Begin a planned move."""

    @abc.abstractmethod
    def recorded(self, node: str) -> str:
        """The clients that a move would notify, as a node prints them."""

    def heal(self) -> None:
        """Undo all faults, and wait until every node has booted."""
        dark = [node for node in self.lab.layout.node_names if not self.lab.machine(node).powered]
        faults.heal(self.lab)
        for node in dark:
            self.lab.machine(node).wait_booted()

    def wait_settled(self) -> None:
        """Wait for :meth:`settled`."""
        self.lab.wait_for("every node healthy, every address served", self.settled, pause=PAUSE)

    def holder(self, address: str) -> str:
        """The node that serves an address."""
        return self.served()[address]

    def other(self, node: str) -> str:
        """The node that is not this one."""
        return next(name for name in self.lab.layout.node_names if name != node)


class Locum(Cluster):
    """As docs/nfs.md says."""

    unit = "locum"

    def configure(self, node: str, machine: Machine) -> None:
        """See :class:`Cluster`."""
        records = f"[nfsdcld]\nstoragedir = {_RECOVERY}/{node}\n"
        statd = f"[statd]\nname = {NAME}\nha-callout = /usr/local/bin/locum-statd-callout\n"
        machine.write("/etc/nfs.conf.d/cluster.conf", f"{_GRACE}{records}{statd}[sm-notify]\nlift-grace = n\n")
        machine.write("/etc/systemd/system/nfs-server.service.d/scope.conf", _SCOPE)
        machine.write("/etc/modules-load.d/shared.conf", "9pnet_virtio\n9p\n")
        machine.write("/usr/local/bin/locum-statd-callout", '#!/bin/sh\nexec locum statd-callout "$@"\n', 0o755)
        # rpc.statd takes its user and its group from the owner of its directory, and has no further groups.
        machine.sh(
            f"{_LOCKD}"
            "mkdir /cluster; echo 'shared /cluster 9p trans=virtio,version=9p2000.L 0 0' >>/etc/fstab;"
            f"modprobe -a 9pnet_virtio 9p; mount /cluster; mkdir -p {_RECOVERY};"
            "groupadd --system locum-statd; chgrp locum-statd /var/lib/nfs /var/lib/nfs/sm /var/lib/nfs/sm.bak;"
            "install -d -m 755 /var/lib/locum; install -d -m 755 -o statd -g locum-statd /var/lib/locum/statd;"
            "sed -i '/^.paths.$/a control_group = \"locum-statd\"' /etc/locum/locum.toml;"
            "scripts=$(echo /opt/locum/lib/python3*/site-packages/locum/scripts);"
            'install -m 755 -t /etc/locum/events "$scripts/60.nfs" "$scripts/61.nfstickle";'
            "systemctl daemon-reload",
            timeout=COMMAND,
        )

    def served(self) -> dict[str, str]:
        """See :class:`Cluster`."""
        return self.lab.served()

    def settled(self) -> bool:
        """See :class:`Cluster`."""
        return is_settled(self.lab.status(), self.lab.layout)

    def move(self, address: str, node: str) -> None:
        """See :class:`Cluster`. The command gives up waiting before emulated machines are done."""
        self.lab.machine(node).agent.start(["locum", "ip", "move", address, node])

    def recorded(self, node: str) -> str:
        """See :class:`Cluster`."""
        ask = 'from locum.control_socket import ask; print(ask({"op": "statd-clients"}))'
        return self.lab.machine(node).sh(f"/opt/locum/bin/python -c '{ask}'", timeout=COMMAND)

    def notify_log(self, node: str) -> str:
        """What became of the notifications."""
        found = self.lab.machine(node).run(["cat", "/var/lib/locum/scripts/60.nfs/notify.log"], timeout=COMMAND)
        return found.stdout


class Ctdb(Cluster):
    """Debian's package with its event scripts 10.interface and 60.nfs, unchanged. No recovery lock: there is no cluster
    file system."""

    unit = "ctdb"

    def configure(self, node: str, machine: Machine) -> None:
        """See :class:`Cluster`."""
        layout = self.lab.layout
        machine.write(
            "/etc/nfs.conf.d/cluster.conf", f"{_GRACE}[statd]\nname = {NAME}\nha-callout = /etc/ctdb/statd-callout\n"
        )
        # Locum's way to a scope for the whole cluster helps CTDB's NFSv4 clients as well.
        machine.write("/etc/systemd/system/nfs-server.service.d/scope.conf", _SCOPE)
        nodes = "".join(f"{layout.private_address(name)}\n" for name in layout.node_names)
        machine.write("/etc/ctdb/nodes", nodes)
        pool = "".join(f"{one.address}/{one.bits} eth1\n" for one in layout.public_addresses)
        machine.write("/etc/ctdb/public_addresses", pool)
        machine.write("/etc/ctdb/ctdb.tunables", _CTDB)
        # rpc.rquotad is not installed: "users who don't want it move the check away" (nfs-linux-kernel-callout).
        machine.sh(
            f"{_LOCKD}"
            "rm -f /etc/ctdb/nfs-checks.d/50.rquotad.check; chmod 755 /etc/ctdb/statd-callout;"
            "ln -sf /usr/share/ctdb/events/legacy/60.nfs.script /etc/ctdb/events/legacy/60.nfs.script;"
            # As another user, rpc.statd may not run the call-out as root: Debian's sudoers.d/ctdb names another user,
            # and rpc.statd has given up the capabilities that sudo needs.
            "chown root /var/lib/nfs /var/lib/nfs/sm /var/lib/nfs/sm.bak; systemctl daemon-reload",
            timeout=COMMAND,
        )

    def served(self) -> dict[str, str]:
        """See :class:`Cluster`; of the node that sees most others, since a node that is cut off takes everything."""
        return {address: self.lab.layout.node_names[number] for address, number in self._best()[1].items()}

    def settled(self) -> bool:
        """See :class:`Cluster`."""
        healthy, served = self._best()
        return healthy == len(self.lab.layout.node_names) and len(served) == self.lab.layout.addresses

    def move(self, address: str, node: str) -> None:
        """See :class:`Cluster`."""
        number = self.lab.layout.node_names.index(node)
        self.lab.machine(node).agent.start(["ctdb", "moveip", address, str(number)])

    def recorded(self, node: str) -> str:
        """See :class:`Cluster`."""
        return self.lab.machine(node).sh("ctdb catdb ctdb.tdb | grep statd-state || true", timeout=COMMAND)

    def _best(self) -> tuple[int, dict[str, int]]:
        """The number of healthy nodes, and address → number of its node."""
        found: list[tuple[int, dict[str, int]]] = [(0, {})]
        for node in self.lab.layout.node_names:
            if not self.lab.machine(node).powered or self.lab.noted_faults(node):
                continue
            try:
                text = self.lab.machine(node).sh("ctdb -X status || true; echo ===; ctdb -X ip all", timeout=60)
            except LocumError:
                continue  # it does not run there yet, or is in recovery
            status, _, addresses = text.partition("===")
            # |Node|IP|Disconnected|Unknown|Banned|Disabled|Unhealthy|Stopped|…
            rows = [line.split("|") for line in status.splitlines()]
            healthy = sum(len(row) > 9 and row[1].isdigit() and "1" not in row[3:9] for row in rows)
            # |Public IP|Node|…; an address without a node has number -1.
            places = [line.split("|") for line in addresses.splitlines()]
            found.append((healthy, {row[1]: int(row[2]) for row in places if len(row) > 3 and row[2].isdigit()}))
        return max(found, key=lambda one: one[0])
