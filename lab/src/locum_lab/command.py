"""``locum lab``: a cluster of network namespaces on this machine, for trials, faults and measurements.

Arguments in, calls of :mod:`locum_lab` out, results printed. It imports much, so the parent command imports it only
when it is used.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from locum import escape
from locum.cli.groups import PlainGroup
from locum.cli.options import F, Number
from locum.errors import LocumError, UsageError
from locum_lab import faults, namespaces, processes, rootless, service_table, state, transfers
from locum_lab import observer as observing
from locum_lab import probe as probing
from locum_lab.lab import Lab
from locum_lab.lab import down as take_down
from locum_lab.layout import Layout
from locum_lab.services import SERVICES
from locum_lab.state import NodeState
from locum_lab.vm import command as vm_command

DEFAULT_NAME = "lab"


def name_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option that names the lab."""
    option = click.option(
        "--name", default=DEFAULT_NAME, show_default=True, envvar="LOCUM_LAB", metavar="LAB", help="Which lab."
    )
    return option(function)


_store_option = click.option(
    "--store", default="embedded", show_default=True, help="embedded, embedded-file or etcd (a member on each node)."
)
_seconds_option = click.option(
    "--seconds", default=None, type=Number("a number of seconds", 0), help="End after this time; else when interrupted."
)
_output_option = click.option(
    "--output", default="-", type=click.File("w"), help="A file for the lines instead of standard output."
)


def _milliseconds(name: str, default: float, least: float, text: str) -> Callable[[F], F]:
    """An option that takes a time of at least ``least`` milliseconds."""
    kind = Number("a number of milliseconds", least)
    return click.option(name, type=kind, default=default, show_default=True, metavar="MS", help=text)


class _LabGroup(PlainGroup):
    """Keeps the original arguments, to restart the same command with more privileges."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = tuple(args)
        return super().parse_args(ctx, args)


@click.group(name="lab", cls=_LabGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def lab(ctx: click.Context) -> None:
    """A cluster on this machine: nodes as network namespaces, with faults, a client and an observer.

    Needs root; for an ordinary user everything runs inside a user namespace, where the kernel allows that.
    """
    # The directories of ip, nft and nginx, which not every user's PATH has.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    if not _asks_for_help(ctx.obj) and not rootless.privileged():
        ctx.exit(rootless.run_inside(ctx.obj))


def _asks_for_help(arguments: tuple[str, ...]) -> bool:
    """Whether only help is requested, which needs no privileges; in ``exec n1 -- ls --help`` it is another
    program's."""
    ours = arguments[:2] if arguments[:1] == ("exec",) else arguments
    return "--help" in ours or "-h" in ours


@lab.command()
@click.option("--nodes", default=3, show_default=True, help="Number of nodes.")
@click.option("--addresses", default=6, show_default=True, help="Number of public addresses, IPv4 and IPv6 in turn.")
@click.option("--hold", default=2.0, show_default=True, help="Seconds for which a node may answer without the store.")
@click.option("--interfaces", default=1, show_default=True, help="Public interfaces per node, 1 or 2.")
@click.option(
    "--services",
    default="web",
    show_default=True,
    help=f"Services on every node, separated by commas, of: {', '.join(SERVICES)}.",
)
@_store_option
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until every address is served.")
@click.option("--vm", is_flag=True, help="Virtual machines instead of namespaces; --services is then ignored.")
@click.option("--clients", default=0, show_default=True, help="With --vm: number of client machines.")
@name_option
def up(
    *,
    nodes: int,
    addresses: int,
    hold: float,
    interfaces: int,
    services: str,
    store: str,
    wait: bool,
    vm: bool,
    clients: int,
    name: str,
) -> None:
    """Build a lab and start everything in it."""
    if clients and not vm:
        raise UsageError("--clients: only a lab of virtual machines has client machines; add --vm")
    if vm:
        vm_command.up(
            Layout(name=name, nodes=nodes, addresses=addresses, interfaces=interfaces, hold=hold, clients=clients),
            "outside" if store == "embedded" else store,
            wait,
        )
        return
    layout = Layout(name=name, nodes=nodes, addresses=addresses, interfaces=interfaces, hold=hold)
    made = Lab.up(layout, services=[service for service in services.split(",") if service], store=store)
    if wait:
        try:
            made.wait_served()
        except LocumError as error:
            raise LocumError(
                f"lab {name} is up, but {error}; see `locum lab status` and the logs in {made.directory}/nodes"
            ) from None
    click.echo(f"lab {name}: {nodes} nodes, {addresses} public addresses, files in {made.directory}")


@lab.command()
@name_option
def down(name: str) -> None:
    """Remove a lab completely, also after a crash."""
    click.echo(f"lab {name}: {'gone' if take_down(name) else 'there was none'}")


@lab.command()
@name_option
def status(name: str) -> None:
    """Show the nodes of a lab: processes, faults, and the status of their daemons."""
    if vm_command.has_guests(name):
        vm_command.status(name)
        return
    found = Lab.load(name)
    click.echo(f"lab {name}: {found.directory}, store {found.state.store}")
    for node in found.layout.node_names:
        click.echo("  ".join(_node_words(found, node)))


def _node_words(found: Lab, node: str) -> list[str]:
    recorded = found.state.nodes.get(node, NodeState())
    guard = recorded.daemon
    words = [f"{node:4}", f"daemon {guard.pid}" if guard is not None and processes.alive(guard) else "no daemon"]
    words += [
        f"{service} {process.pid if processes.alive(process) else 'dead'}"
        for service, process in recorded.services.items()
    ]
    words += [f"FAULT {fault.kind}" for fault in recorded.faults]
    try:
        report = found.status(node, timeout=0.5)
    except LocumError:
        return [*words, "does not answer"]
    own = next((item for item in report.nodes if item.name == node), None)
    if own is not None:
        words += [own.state, " ".join(own.addresses) or "no addresses"]
    words.append(f"epoch {report.epoch}, leader {report.leader or 'none'}")
    return [*words, "all of which may be outdated: it has no contact with the store"] if report.stale else words


@lab.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@name_option
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(name: str, node: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on NODE (n1, n2, …, client or hub); its LOCUM_SOCKET and LOCUM_CONFIG are set.

    In a lab of virtual machines NODE may be a client machine (c1, c2, …); the output appears when COMMAND has ended.
    """
    if command[0] == "--":
        command = command[1:]
    if not command:
        raise UsageError("locum lab exec NODE -- COMMAND: the command is missing")
    if vm_command.has_guests(name):
        sys.exit(vm_command.execute(name, node, command))
    found = Lab.load(name)
    argv = found.command(node, command)
    os.execvpe(argv[0], argv, {**os.environ, **found.command_environment(node)})


@lab.command()
@name_option
@click.option("--interface", default=None, help="For `link`: the public interface; default: eth1.")
@click.argument("node")
@click.argument("kind")
def fault(name: str, node: str, kind: str, interface: str | None) -> None:
    """Do KIND to NODE.

    \b
    The whole node   cut, kill-all, freeze
    Its networks     link, cut-private, mute-private, deaf-private,
                     mute-public, deaf-public
    Its processes    kill-agent, freeze-agent, service, hang
    Its store        kill-store, freeze-store, kill-etcd, freeze-etcd

    mute: NODE's packets there are lost; deaf: packets to NODE are lost.

    \b
    A virtual machine  power-cut, power-off, reset, freeze, pause, sleep,
                       cut, cut-private, link
    """
    if vm_command.has_guests(name):
        vm_command.fault(name, node, kind)
        return
    meaning = faults.kind(kind).meaning
    Lab.load(name).fault(node, kind, interface)
    click.echo(f"{node}: {meaning}")


@lab.command()
@name_option
@click.argument("node", required=False)
def heal(name: str, node: str | None) -> None:
    """Undo the faults of NODE, or of all nodes; restart killed processes."""
    if vm_command.has_guests(name):
        vm_command.heal(name, node)
        return
    Lab.load(name).heal(node)


@lab.command()
@name_option
@click.option("--mode", type=click.Choice(["http", "udp"]), default="http", show_default=True)
@_milliseconds("--interval", 10.0, 0.1, "Milliseconds between two attempts per address.")
@_milliseconds("--timeout", 250.0, 1, "Milliseconds until an attempt has failed.")
@_seconds_option
@click.option("--address", "addresses", multiple=True, help="Only this address; may be given several times.")
@_output_option
def probe(
    *,
    name: str,
    mode: str,
    interval: float,
    timeout: float,
    seconds: float | None,
    addresses: tuple[str, ...],
    output: Any,
) -> None:
    """Send requests to every public address from the client continuously; one JSON line per attempt."""
    layout = _layout(name)
    pool = [public.address for public in layout.public_addresses]
    if strangers := set(addresses) - set(pool):
        raise UsageError(f"--address {min(strangers)}: not one of the lab's: {', '.join(pool)}")
    namespaces.enter(layout.client)
    emit, flush = probing.writer(output)
    kind = probing.UdpProber if mode == "udp" else probing.HttpProber
    prober = kind(emit, timeout / 1000)
    probing.run(prober, addresses or pool, interval / 1000, _until(seconds))
    flush()


@lab.command()
@name_option
@_milliseconds("--interval", 10.0, 0.1, "Milliseconds between two questions per address.")
@click.option(
    "--window",
    default=None,
    type=Number("a number of milliseconds", 0),
    help="Milliseconds of the criterion; default: three intervals.",
)
@click.option("--vlan", type=click.IntRange(0, 4094), default=0, help="Ask in this VLAN (IEEE 802.1Q).")
@_seconds_option
@_output_option
def observe(*, name: str, interval: float, window: float | None, vlan: int, seconds: float | None, output: Any) -> None:
    """Watch on the public network which node speaks for each address; exit status 1 when two nodes did."""
    layout = _layout(name)
    namespaces.enter(layout.hub)
    watching = observing.Observer(
        layout, observing.writer(output), interval / 1000, None if window is None else window / 1000, vlan
    )
    watching.run(_until(seconds))
    if watching.violations:
        raise LocumError(f"two nodes answered for one address, {watching.violations} times")


@lab.command()
@click.option("--nodes", default=3, show_default=True, help="Number of nodes.")
@click.option("--addresses", default=6, show_default=True, help="Number of public addresses, IPv4 and IPv6 in turn.")
@click.option("--hold", default=2.0, show_default=True, help="Seconds for which a node may answer without the store.")
@click.option("--rounds", default=4, show_default=True, help="Number of rounds of all faults.")
@click.option("--budget", default=45.0, show_default=True, help="Begin no second round after this number of seconds.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
@_store_option
@click.option("--name", default="demo", show_default=True, metavar="LAB", help="The name of its lab.")
def demo(
    *,
    nodes: int,
    addresses: int,
    hold: float,
    rounds: int,
    budget: float,
    json_file: Path | None,
    store: str,
    name: str,
) -> None:
    """Watch a cluster serve clients while its nodes fail, and measure it.

    Exit status 1 when an address stayed unserved or two nodes ever answered for one.
    """
    # Not at the top: the probe and the observer start without rich.
    from rich.console import Console  # noqa: PLC0415

    from locum_lab import demo as demonstration  # noqa: PLC0415

    if nodes < 2 or addresses < 1:
        raise UsageError("the demo moves addresses between nodes: --nodes must be 2 or more, --addresses 1 or more")
    layout = Layout(name=name, nodes=nodes, addresses=addresses, hold=hold)
    _end_on_sigterm()
    made = Lab.up(layout, store=store, daemons=False, owner=processes.find(os.getpid()))
    try:
        outcome = demonstration.run(made, rounds=rounds, budget=budget, console=Console(), json_file=json_file)
    finally:
        made.down()
    if outcome.problems:
        sys.exit(1)


@lab.command("services-table")
@click.option(
    "--client",
    "clients",
    multiple=True,
    help=f"Only this client, of: {', '.join(transfers.CLIENTS)}. May be given several times.",
)
@click.option("--fault", "wanted", multiple=True, help=f"Only this fault, of: {', '.join(service_table.FAULTS)}.")
@click.option("--hold", default=2.0, show_default=True, help="Seconds for which a node may answer without the store.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
def services_table(*, clients: tuple[str, ...], wanted: tuple[str, ...], hold: float, json_file: Path | None) -> None:
    """Measure the effect of each fault on a client of each service.

    Exit status 1 when a client did not end with the right file.
    """
    for given, known in ((clients, transfers.CLIENTS), (wanted, service_table.FAULTS)):
        if strangers := set(given) - set(known):
            raise UsageError(f"{min(strangers)!r}: there are {', '.join(known)}")
    _end_on_sigterm()
    sys.exit(service_table.main(clients, wanted, json_file, hold))


@lab.command()
@click.option("--minutes", default=1.0, show_default=True, help="Begin no new round after this time.")
@click.option("--seed", type=int, default=None, help="Repeats the same faults; default: random.")
@click.option("--first-round", default=0, show_default=True, help="Begin with this round of the seed.")
@click.option("--store", type=click.Choice(["embedded", "etcd"]), default="embedded", show_default=True)
@click.option("--nodes", default=3, show_default=True, help="Number of nodes.")
@click.option("--addresses", default=6, show_default=True, help="Number of public addresses, IPv4 and IPv6 in turn.")
@click.option("--hold", default=2.0, show_default=True, help="Seconds for which a node may answer without the store.")
@click.option("--slack", default=5.0, show_default=True, help="Seconds by which the machine may exceed the bounds.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the outcome to this file.")
@click.option("--name", default="torture", show_default=True, metavar="LAB", help="The name of its lab.")
def torture(
    *,
    minutes: float,
    seed: int | None,
    first_round: int,
    store: str,
    nodes: int,
    addresses: int,
    hold: float,
    slack: float,
    json_file: Path | None,
    name: str,
) -> None:
    """Apply random faults to a cluster continuously, and watch it.

    Exit status 1 when two nodes ever answered for one address, when a confirmed command was lost, or when an address
    stayed unserved too long. The same seed gives the same faults; the reactions of processes differ from run to run.
    """
    import random  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from locum_lab.torture import run as torturing  # noqa: PLC0415

    seed = random.randrange(10**6) if seed is None else seed
    click.echo(f"seed {seed}: locum lab torture --seed {seed} --store {store} --nodes {nodes} --addresses {addresses}")
    layout = Layout(name=name, nodes=nodes, addresses=addresses, hold=hold)
    _end_on_sigterm()
    # A store that is killed must have a file, or it forgets who holds what (docs/stores.md).
    kind = "embedded-file" if store == "embedded" else store
    made = Lab.up(layout, store=kind, owner=processes.find(os.getpid()))
    try:
        outcome = torturing.run(
            made, seed=seed, seconds=60 * minutes, slack=slack, console=Console(), first_round=first_round
        )
    finally:
        made.down()
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(outcome), indent=1) + b"\n")
    if outcome.problems:
        sys.exit(1)


def _end_on_sigterm() -> None:
    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


def _layout(name: str) -> Layout:
    """The layout of a lab of either kind; raises UsageError without one."""
    found = state.read(name)
    return Lab.load(name).layout if found is None else found.layout


def _until(seconds: float | None) -> Callable[[], bool]:
    """A function that returns True once the time is over or an end was requested."""
    end = float("inf") if seconds is None else time.monotonic() + seconds
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    return lambda: bool(asked) or time.monotonic() >= end


def main() -> None:
    """``python -m locum_lab.command``: the group on its own."""
    try:
        sys.exit(lab(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except LocumError as error:
        click.echo(f"locum lab: {escape.one_line(str(error))}", err=True)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()
