"""What ``locum lab`` does with a lab of guests."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from locum.errors import LocumError, PermissionRequired
from locum_lab import state
from locum_lab.layout import Layout
from locum_lab.vm import faults, store
from locum_lab.vm.lab import VmLab, leftovers


def has_guests(name: str) -> bool:
    """Whether there is a lab of that name, and it is one of guests."""
    found = state.read(name)
    return found is not None and bool(found.guests)


def up(layout: Layout, store_kind: str, wait: bool) -> None:
    """``locum lab up --vm``."""
    if os.geteuid() != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        raise PermissionRequired("a lab of guests needs root and /dev/net/tun (modprobe tun)")
    store.check(store_kind)
    leftovers()
    made = VmLab.up(layout, store_kind=store_kind, say=lambda text: click.echo(f"{text} ...", err=True))
    if wait:
        try:
            made.wait_served()
        except LocumError as error:
            raise LocumError(
                f"lab {layout.name} is up, but {error}; see `locum lab exec n1 -- journalctl -u locum`"
            ) from None
    click.echo(
        f"lab {layout.name}: {layout.nodes} nodes, {layout.clients} clients, {layout.addresses} public addresses, "
        f"files in {made.directory}"
    )


def status(name: str) -> None:
    """``locum lab status``."""
    found = VmLab.load(name)
    click.echo(f"lab {name}: {found.directory}, store {found.state.store}")
    for guest, machine in found.machines.items():
        words = [f"{guest:4}", f"QEMU {machine.process.pid}" if machine.powered and machine.process else "no power"]
        words += [f"FAULT {fault}" for fault in found.noted_faults(guest)]
        if machine.powered and guest in found.layout.node_names:
            words.append(_view(found, guest))
        click.echo("  ".join(words))


def _view(found: VmLab, node: str) -> str:
    # A guest that stands still does not answer: it is not asked.
    if found.noted_faults(node) and not found.machines[node].agent.answers():
        return "does not answer"
    try:
        report = found.status(node)
    except LocumError:
        return "does not answer"
    own = next((item for item in report.nodes if item.name == node), None)
    view = f"epoch {report.epoch}, leader {report.leader or 'none'}"
    return view if own is None else f"{own.state}  {' '.join(own.addresses) or 'no addresses'}  {view}"


def execute(name: str, guest: str, command: Sequence[str]) -> int:
    """``locum lab exec``: run a command in a guest, write its output when it has ended, return its status."""
    lab = VmLab.load(name)
    if guest in ("client", "hub"):
        namespace = lab.layout.client if guest == "client" else lab.layout.hub
        os.execvp("ip", ["ip", "netns", "exec", namespace, *command])
    done = lab.machine(guest).run(command, timeout=3600)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.status if done.status >= 0 else 128 - done.status


def fault(name: str, guest: str, kind: str) -> None:
    """``locum lab fault``."""
    faults.apply(VmLab.load(name), guest, kind)
    click.echo(f"{guest}: {faults.kind(kind).meaning}")


def heal(name: str, guest: str | None) -> None:
    """``locum lab heal``."""
    faults.heal(VmLab.load(name), guest)
