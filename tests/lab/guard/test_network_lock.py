"""The lock of a network namespace: one guard at a time, and only root can take it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from locum.errors import PermissionRequired, UsageError
from locum.node.guard.locks import LOCK_TABLE, lock_network
from tests.lab.namespaces import Namespace, wait_for

pytestmark = pytest.mark.lab


@pytest.fixture(name="place")
def place_fixture() -> Iterator[Namespace]:
    made = Namespace("lock")
    yield made
    made.delete()


def test_a_second_one_is_refused_and_told_of_the_first(place: Namespace) -> None:
    with place.entered():
        first = lock_network()
        with pytest.raises(UsageError, match=rf"pid {os.getpid()}\).*network namespace of its own"):
            lock_network()
    other = Namespace("other")
    try:
        with other.entered():
            lock_network().close()
    finally:
        other.delete()
    first.close()
    with place.entered():
        lock_network().close()


def test_it_survives_a_flush_of_the_ruleset_and_its_owner_is_in_the_listing(place: Namespace) -> None:
    with place.entered():
        lock = lock_network()
    place.run("nft", "flush", "ruleset")
    assert "flags owner" in place.run("nft", "list", "table", "inet", LOCK_TABLE)
    with place.entered(), pytest.raises(UsageError, match="another Locum daemon"):
        lock_network()
    lock.close()


def test_nothing_is_left_of_it_after_any_death(place: Namespace) -> None:
    code = "import time; from locum.node.guard.locks import lock_network\n"
    code += "lock = lock_network(); print(flush=True); time.sleep(600)"
    with place.entered(), subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UsageError, match=f"pid {process.pid}"):
            lock_network()
        process.kill()

    def free() -> bool:
        with place.entered():
            try:
                lock_network().close()
            except UsageError:
                return False
            return True

    wait_for(free, "the lock of a killed process to be free")


ORDINARY = """
import os
from locum.errors import LocumError
from locum.node.guard.locks import lock_network
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    lock_network()
except LocumError as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(os.stat("/proc/self/ns/user").st_ino != 0xEFFFFFFD, reason="needs a second user")
def test_another_user_cannot_take_it(place: Namespace) -> None:
    with place.entered():
        said = subprocess.run([sys.executable, "-c", ORDINARY], capture_output=True, text=True, check=False)
        assert said.stdout.strip() == PermissionRequired.__name__, said.stderr
        lock_network().close()


def test_without_such_tables_a_lock_on_the_namespace_has_to_do(
    place: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("locum.machine.netlink.nftables._FLAG_OWNER", 1 << 20)
    with place.entered():
        first = lock_network()
        with pytest.raises(UsageError, match="another Locum daemon"):
            lock_network()
        first.close()
        assert LOCK_TABLE not in place.run("nft", "list", "tables")
