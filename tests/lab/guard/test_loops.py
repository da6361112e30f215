"""Agent and guard go on while what they use hangs: the log's reader, the script directory, the kernel's locks."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from locum.errors import LocumError
from tests.lab.clusters import addresses_of, install_recorder, locum, node_report, seen, wait_state
from tests.lab.conftest import MakeLab
from tests.lab.guard.hanging import is_full, log_that_is_not_read, path_that_hangs


def test_a_log_that_no_one_reads_moves_no_address_and_the_node_can_be_stopped(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=4)
    lab.wait_served()
    node = "n1"
    with log_that_is_not_read(lab, node) as pipe:
        wait_state(lab, node, "OK", limit=60.0)
        lab.wait_served()
        lab.wait_for(f"{node} to serve", lambda: addresses_of(lab, node), 60.0)
        before = node_report(lab, node)
        assert before is not None
        address = addresses_of(lab, node)[0]

        def removed_and_back() -> bool:
            interface = lab.configured(node).get(address)
            if interface is not None:
                lab.run(node, ["ip", "address", "flush", "to", address])
            return is_full(pipe)

        lab.wait_for("the log to accept nothing more", removed_and_back, 120.0)
        end = time.monotonic() + 4 * 2.0  # several holds
        while time.monotonic() < end:
            removed_and_back()
            time.sleep(0.2)
        lab.wait_for(f"{address} on {node}", lambda: address in lab.configured(node), 60.0)
        after = node_report(lab, node, asked=node)
        assert after is not None
        assert after.incarnation == before.incarnation, "the node fell silent"
        assert is_full(pipe)
        lab.stop_daemon(node)
        lab.wait_for("its addresses elsewhere", lambda: not addresses_of(lab, node), 60.0)


def test_a_script_directory_that_hangs_moves_no_address_and_events_go_on(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=4)
    install_recorder(lab)
    lab.wait_served()
    node = "n1"
    before = node_report(lab, node)
    agent = lab.agent(node)
    served = lab.served()
    assert before is not None
    with path_that_hangs(lab, node, lab.node_directory(node) / "events", most=12.0) as hang:
        begun = time.time()
        asked = 0
        locum(lab, node, "event", "run", "monitor")
        while hang.poll() is None:
            assert node_report(lab, node, asked=node) is not None, "the agent does not answer"
            asked += 1
            time.sleep(0.2)
    assert asked > 3
    after = node_report(lab, node, asked=node)
    assert after is not None
    assert (after.incarnation, lab.agent(node)) == (before.incarnation, agent)
    assert lab.served() == served
    assert [one for one in seen(lab, node, "monitor") if begun < one.began < begun + 12], "no script ran meanwhile"
    log = lab.daemon_log(node).read_text()
    assert "does not answer: its file system hangs" in log
    lab.wait_for("word of its return", lambda: "is good again" in lab.daemon_log(node).read_text(), 60.0)


def blocklist(path: Path, count: int) -> None:
    """A ruleset of one large interval set."""
    numbers = random.Random(1)
    found = {numbers.randrange(1 << 24, 224 << 24) for _ in range(count)}
    elements = ",\n".join(".".join(str(v >> bits & 255) for bits in (24, 16, 8, 0)) for v in sorted(found))
    path.write_text(
        "table inet blocklist {\n set bad {\n type ipv4_addr; flags interval; auto-merge\n elements = {"
        f"{elements}\n}}\n}}\n chain in {{\n type filter hook input priority 0\n ip saddr @bad drop\n }}\n}}\n"
    )


@pytest.mark.alone
def test_a_large_ruleset_of_another_program_keeps_no_agent_from_answering(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, addresses=4)
    lab.wait_served()
    node = "n1"
    rules = lab.node_directory(node) / "blocklist"
    blocklist(rules, 120_000)
    agent = lab.agent(node)
    waits = []
    with subprocess.Popen(lab.command(node, ["nft", "-f", str(rules)])) as nft:
        while nft.poll() is None:
            begun = time.monotonic()
            try:
                lab.status(node, timeout=30.0)
            except LocumError as error:
                pytest.fail(f"the agent does not answer: {error}")
            waits.append(time.monotonic() - begun)
            time.sleep(0.05)
    assert nft.returncode == 0
    lab.run(node, ["nft", "delete", "table", "inet", "blocklist"])
    print(f"{len(waits)} answers while nft ran, the slowest after {max(waits):.2f} s")
    assert lab.agent(node) == agent
    lab.wait_served()
    told = [line for line in lab.daemon_log(node).read_text().splitlines() if "nftables lock" in line]
    print("\n".join(told))
    if told:
        assert "nft (process" in told[0]
