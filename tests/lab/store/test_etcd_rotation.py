"""Nodes on an etcd with TLS and passwords: everything that they prove themselves with is renewed, and clients notice
nothing."""

from __future__ import annotations

import http.client
import itertools
import shutil
import ssl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from locum.errors import LocumError
from locum_lab import namespaces, stores
from locum_lab.etcd_store import CLIENT_PORT, EtcdLabStore
from locum_lab.lab import Lab
from locum_lab.layout import Layout
from locum_lab.watching import Watching
from tests.lab.conftest import MakeLab
from tests.lab.store.certificates import Authority
from tests.lab.store.test_etcd_members import wait_for_member, watch_for

pytestmark = [pytest.mark.lab, pytest.mark.long]

_numbers = itertools.count()

LOCUM = str(Path(sys.executable).parent / "locum")

PASSWORD = "Hr4-cosy-Otter"

#: Seconds, far longer than an election of etcd takes on a slow machine: with a short hold an election is an outage.
HOLD = 6.0

#: As etcd's 'root' user, who changes others' passwords.
ROOT = ("--user", "root:rootpassword")


class Keys:
    """The files of etcd's members and of the nodes, the same for each of them."""

    def __init__(self, directory: Path, hosts: Sequence[str]) -> None:
        self.directory = directory
        self._hosts = ",".join(f"IP:{host}" for host in (*hosts, "127.0.0.1"))
        self.old, self.new = Authority(directory / "old", "old"), Authority(directory / "new", "new")
        for whose in ("server", "client"):
            (directory / whose).mkdir()
            self.put(whose, self.old, self.old)
        self.put_password("secret")

    def put(self, whose: str, signer: Authority | None, *trusted: Authority) -> None:
        """A new pair from ``signer`` and the ``trusted`` authorities, as certificate managers put files: whole."""
        place = self.directory / whose
        files: dict[str, bytes] = {}
        if signer is not None:
            pair = signer.issue(f"{whose}{next(_numbers)}", hosts=self._hosts, common_name=False)
            files = {name: path.read_bytes() for name, path in zip(("cert.pem", "key.pem"), pair, strict=True)}
        if trusted:
            files["ca.pem"] = b"".join(authority.certificate.read_bytes() for authority in trusted)
        for name, content in files.items():
            _replace(place / name, content)

    def put_password(self, password: str) -> None:
        _replace(self.directory / "password", f"{password}\n".encode())

    @property
    def settings(self) -> str:
        """For the nodes' configuration."""
        client = self.directory / "client"
        return (
            f'[cluster.etcd]\nca = "{client}/ca.pem"\ncert = "{client}/cert.pem"\nkey = "{client}/key.pem"\n'
            f'user = "locum"\npassword_file = "{self.directory}/password"\n'
        )

    def context(self) -> ssl.SSLContext:
        """For questions of the lab itself: with the members' files, which are always good."""
        server = self.directory / "server"
        context = ssl.create_default_context(cafile=str(server / "ca.pem"))
        context.load_cert_chain(server / "cert.pem", server / "key.pem")
        return context


def _replace(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.chmod(0o600)
    part.replace(path)


def secure_store(keys: Keys) -> type[EtcdLabStore]:
    """The lab's etcd, which speaks TLS to clients and wants their certificates."""

    class SecureEtcd(EtcdLabStore):
        def _address(self, node: str, port: int) -> str:
            address = super()._address(node, port)
            return address.replace("http:", "https:") if port == CLIENT_PORT else address

        def command(self, node: str) -> Sequence[str]:
            server = keys.directory / "server"
            return (
                *super().command(node),
                *("--cert-file", f"{server}/cert.pem", "--key-file", f"{server}/key.pem"),
                *("--client-cert-auth", "--trusted-ca-file", f"{server}/ca.pem"),
            )

        def _ask(self, node: str, path: str, body: bytes, timeout: float) -> bytes:
            def ask() -> bytes:
                connection = http.client.HTTPSConnection(
                    self._layout.private_address(node), CLIENT_PORT, timeout=timeout, context=keys.context()
                )
                connection.request("POST", path, body)
                answer = connection.getresponse()
                text = answer.read()
                connection.close()
                if answer.status != 200:
                    raise LocumError(f"etcd on {node}: {text.decode()}")
                return text

            try:
                return namespaces.inside(self._layout.namespace(node), ask)
            except (OSError, http.client.HTTPException) as error:
                raise LocumError(f"etcd on {node} gives no answer: {error}") from error

    return SecureEtcd


def etcdctl(lab: Lab, keys: Keys, *arguments: str, said: str = "") -> None:
    client, node = keys.directory / "client", lab.layout.node_names[0]
    subprocess.run(
        lab.command(
            node,
            [
                *("etcdctl", "--endpoints", f"https://{lab.layout.private_address(node)}:{CLIENT_PORT}"),
                *("--cacert", f"{client}/ca.pem", "--cert", f"{client}/cert.pem", "--key", f"{client}/key.pem"),
                *arguments,
            ],
        ),
        input=said.encode(),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "ETCDCTL_API": "3"},
        check=True,
        capture_output=True,
        timeout=60,
    )


def enable_authentication(lab: Lab, keys: Keys) -> None:
    for command in (
        "user add root:rootpassword",
        "user grant-role root root",
        "user add locum:secret",
        "role add locum",
        "role grant-permission locum --prefix=true readwrite /locum/",
        "user grant-role locum locum",
        "auth enable",
    ):
        etcdctl(lab, keys, *command.split())


def restart_members(lab: Lab) -> None:
    """One after the other, as an admin does: the next when the cluster has been whole for longer than a hold."""
    for node in lab.store.hosts:
        lab.fault(node, "kill-etcd")
        lab.heal(node)
        wait_for_member(lab, node)
        watch_for(lab, lab.layout.hold + 1.0)


def reload(lab: Lab, what: str) -> None:
    """Every node says that it has read ``what`` anew."""
    for node in lab.layout.node_names:
        said = lab.run(node, [LOCUM, "reload"], timeout=60)
        assert f"read again: {what}" in said.stdout, (node, said)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """Keys for a lab of three nodes, whose etcd wants them from now on."""
    layout = Layout(name="x", nodes=3, addresses=6)
    keys = Keys(tmp_path, [layout.private_address(node) for node in layout.node_names])
    monkeypatch.setattr(stores, "EtcdLabStore", secure_store(keys))
    return keys


def test_rotation_of_certificates_authority_and_password_costs_no_address(make_lab: MakeLab, keys: Keys) -> None:
    lab = make_lab(store="etcd", hold=HOLD, settings=keys.settings)
    lab.wait_served()
    served, epoch = lab.served(), lab.status().epoch
    with Watching(lab) as watching:
        # Users are configured before etcd wants them.
        enable_authentication(lab, keys)
        keys.put("client", None, keys.old, keys.new)
        reload(lab, "etcd's authority")
        keys.put("server", None, keys.old, keys.new)
        restart_members(lab)
        keys.put("client", keys.new)
        reload(lab, "client certificate")
        keys.put("server", keys.new)
        restart_members(lab)
        keys.put("client", None, keys.new)
        reload(lab, "etcd's authority")
        keys.put("server", None, keys.new)
        restart_members(lab)
        keys.put_password(PASSWORD)
        reload(lab, "the password for etcd")
        etcdctl(lab, keys, *ROOT, "user", "passwd", "locum", "--interactive=false", said=f"{PASSWORD}\n")
        restart_members(lab)
        last = watching.end()
    assert lab.served() == served
    report = lab.status()
    assert report.epoch == epoch, "addresses were planned anew"
    assert report.warnings == ()
    assert last.violations == 0
    assert [attempt for attempt in watching.attempts if not attempt.ok] == []
    for node in lab.layout.node_names:
        log = lab.daemon_log(node).read_text()
        shown = [
            log,
            *(lab.run(node, [LOCUM, *words]).stdout for words in (["status", "--json"], ["doctor", "--json"])),
        ]
        shown += [Path(f"/proc/{process.pid}/cmdline").read_text() for process in lab.ours(node)]
        assert not [text for text in shown if PASSWORD in text]
        assert "hold has ended" not in log


def test_files_that_are_wrong_on_all_nodes_alike_silence_none(make_lab: MakeLab, keys: Keys) -> None:
    key = keys.directory / "client" / "key.pem"
    lab = make_lab(store="etcd", hold=HOLD, settings=keys.settings)
    lab.wait_served()
    with Watching(lab) as watching:
        enable_authentication(lab, keys)
        good = key.read_bytes()
        shutil.copy(keys.new.issue("stranger")[1], key)
        for node in lab.layout.node_names:
            said = lab.run(node, [LOCUM, "reload"], timeout=60)
            assert "nothing has taken effect" in said.stdout
            assert "the key belongs to another certificate; the last good one stays in use" in said.stderr
        restart_members(lab)
        lab.wait_for("warnings of all nodes", lambda: len(lab.status().warnings) == 3)
        _replace(key, good)
        lab.wait_for("no warnings", lambda: lab.status().warnings == (), 60.0)
        last = watching.end()
    assert last.violations == 0
    assert [attempt for attempt in watching.attempts if not attempt.ok] == []
