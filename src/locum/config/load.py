"""Reading a configuration file: every problem found at once, each with its place.

Rules of this file: it knows the keys and their permitted values (``docs/configuration.md`` documents them), and reads
the configuration and its file of public addresses. It does not examine the machine otherwise: see
:mod:`locum.config.environment`. It is fast and light, because every start of a command uses it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping

from locum.config import values
from locum.config.address_file import interface_list, parse_lines
from locum.config.locate import Path
from locum.config.model import (
    HOLD_BOUNDS,
    LOG_FORMATS,
    LOG_LEVELS,
    PROFILE_HOLDS,
    PROFILES,
    ClusterSettings,
    ConnectionSettings,
    EtcdSettings,
    LogSettings,
    NetworkSettings,
    NodeSettings,
    PathSettings,
    PublicAddress,
    ScriptValue,
    Settings,
    default_node_name,
)
from locum.config.reader import Problems, Reader, is_number, shown, suggestion
from locum.config.tunables import TUNABLES
from locum.errors import ConfigError
from locum.store.credential_files import PLAIN_PASSWORD
from locum.store.location import MAX_SOCKET_PATH, StoreUrl

_NO_CONFIGURATION = "give the path of this node's configuration, or write one (docs/configuration.md explains the keys)"

#: The default file of public addresses, if it exists.
DEFAULT_PUBLIC_ADDRESSES = "/etc/locum/public_addresses"

#: Numbers of nodes; three digits are enough for any cluster and keep tables narrow.
MAX_NUMBER = 999

#: A node's addresses; above that even the reading of a plan is slow.
MAX_ADDRESSES = 10_000


def load(path: str | os.PathLike[str]) -> Settings:
    """Load the settings of the file at ``path``.

    Raises :class:`ConfigError` whose ``problems`` are all problems of the file (and of the file of public addresses),
    each one line: ``file:line: key: what was found; what is expected``.
    """
    source = os.fspath(path)
    return parse(_read(source, _NO_CONFIGURATION), source)


def parse(text: str, source: str) -> Settings:
    """:func:`load` for a text; ``source`` is the file's name in messages."""
    problems, data = _toml(text, source)
    root = Reader(problems, (), data)
    node = _node(root.table("node"))
    cluster = _cluster(root.table("cluster"))
    inline = root.tables("address")
    paths = _paths(root.table("paths"), inline=root.has("address"))
    addresses = _addresses(problems, inline, paths.public_addresses, node.private_address)
    settings = Settings(
        source=source,
        node=node,
        cluster=cluster,
        paths=paths,
        addresses=addresses,
        tunables=_tunables(root.table("tunables")),
        scripts=_scripts(root.table("scripts")),
        connections=_connections(root.table("connections")),
        network=_network(root.table("network")),
        log=_log(root.table("log")),
    )
    root.finish()
    if found := problems.texts():
        raise ConfigError(source, found)
    return settings


def _read(path: str, absent: str = "") -> str:
    """Read the text of a file. Raises :class:`ConfigError` with the reason, and ``absent`` when there is no file."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8-sig")
    except FileNotFoundError as error:
        advice = f"; {absent}" if absent else ""
        raise ConfigError(path, [f"{path}: cannot be read: {error.strerror}{advice}"]) from None
    except OSError as error:
        raise ConfigError(path, [f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, [f"{path}:{line}: found a byte that is not UTF-8; expected UTF-8 text"]) from None


def _toml(text: str, source: str) -> tuple[Problems, Mapping[str, object]]:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).partition(" (at ")
        place = place.rstrip(")")
        # tomllib says "line 3, column 5" or "end of document".
        if place.startswith("line "):
            line, _, column = place.removeprefix("line ").partition(", ")
        else:
            line, column = str(text.count("\n") + 1), place
        message = f"{source}:{line}: not TOML: {what} ({column}); see https://toml.io for the syntax"
        raise ConfigError(source, [message]) from None
    except (ValueError, RecursionError) as error:
        # An integer of thousands of digits, tables nested without end.
        raise ConfigError(source, [f"{source}: not a configuration: {error}"]) from None
    # tomllib reads \r\n as \n; lines are counted by \n either way.
    return Problems(source, text), data


def _node(table: Reader) -> NodeSettings:
    name = table.text("name", values.name)
    if name is None:
        name = default_node_name()
        if not table.has("name"):
            try:
                values.name(name)
            except values.BadValue as error:
                found = f"missing, and the host's name is {shown(name)}"
                table.problems.add((*table.path, "name"), f"{found}; expected {error}")
    number = table.integer("number", 0, MAX_NUMBER)
    private_address = table.text("private_address", values.plain_address)
    return NodeSettings(name=name, number=number, private_address=private_address)


def _cluster(table: Reader) -> ClusterSettings:
    name = table.text("name", values.name)
    store = table.text("store", values.store_location, required=values.STORE_FORMS)
    profile = table.choice("profile", PROFILES) or "default"
    hold = table.number("hold", *HOLD_BOUNDS, "seconds")
    others = table.texts("same_addresses_as", values.names)
    etcd_table = table.table("etcd")
    etcd = _etcd(etcd_table)
    if table.has("etcd") and store is not None and store.kind != "etcd":
        table.problems.add((*table.path, "etcd"), f"found beside store = {shown(str(store))}; expected with etcd only")
    return ClusterSettings(
        store=store or StoreUrl(kind="memory"),
        name=name or "locum",
        hold=PROFILE_HOLDS[profile] if hold is None else hold,
        profile=profile,
        same_addresses_as=others or (),
        etcd=etcd,
    )


def _etcd(table: Reader) -> EtcdSettings:
    settings = EtcdSettings(
        ca=table.text("ca", values.absolute_path),
        cert=table.text("cert", values.absolute_path),
        key=table.text("key", values.absolute_path),
        user=table.text("user", values.name),
        password_file=table.text("password_file", values.absolute_path),
        allow_plain_password=table.flag("allow_plain_password") or False,
    )
    for one, other in (("cert", "key"), ("user", "password_file")):
        for present, absent in ((one, other), (other, one)):
            if table.has(present) and not table.has(absent):
                table.problems.add((*table.path, absent), f"missing beside {present}; expected both or neither")
    if settings.user is not None and not settings.tls and not settings.allow_plain_password:
        table.problems.add((*table.path, "user"), PLAIN_PASSWORD)
    return settings


def _paths(table: Reader, *, inline: bool) -> PathSettings:
    default = PathSettings()
    runtime = table.text("runtime", values.absolute_path) or default.runtime
    state = table.text("state", values.absolute_path) or default.state
    events = table.text("events", values.absolute_path) or default.events
    control = table.text("control", values.socket_path)
    if control is None:
        control = f"{runtime}/control.sock"
        if table.has("runtime") and not table.has("control"):
            try:
                values.socket_path(control)
            except values.BadValue:
                longest = MAX_SOCKET_PATH - len("/control.sock")
                table.wrong("runtime", f"at most {longest} bytes, to leave room for the control socket's name")
    addresses = table.text("public_addresses", values.absolute_path)
    if not table.has("public_addresses") and not inline and os.path.exists(DEFAULT_PUBLIC_ADDRESSES):
        addresses = DEFAULT_PUBLIC_ADDRESSES
    group = table.text("control_group", values.group)
    return PathSettings(
        runtime=runtime,
        state=state,
        events=events,
        control=control,
        public_addresses=addresses,
        control_group=group,
    )


def _addresses(
    problems: Problems, inline: list[Reader], file: str | None, private_address: str | None
) -> tuple[PublicAddress, ...]:
    """The addresses of the file, then those of ``[[address]]``; a duplicate is a problem."""
    found: list[PublicAddress] = []
    places: dict[str, str | Path] = {}

    def add(address: PublicAddress, place: str | Path) -> str | None:
        """Add ``address``, which is at a place in the file or a path of the configuration, or report why not."""
        first = places.get(address.address)
        if first is not None:
            where = first if isinstance(first, str) else problems.place(first)
            return f"found {address.address} again, first at {where}; expected each address once"
        if address.address == private_address:
            return f"found {address.address}, which is node.private_address; expected another address"
        if len(found) == MAX_ADDRESSES:
            return f"found more than {MAX_ADDRESSES} public addresses; expected no more"
        places[address.address] = place
        found.append(address)
        return None

    if file is not None:
        try:
            text = _read(file)
        except ConfigError as error:
            problems.add_elsewhere(("paths", "public_addresses"), error.problems)
            text = ""
        good, bad = parse_lines(text)
        for line, address in good:
            if problem := add(address, f"{file}:{line}"):
                bad.append((line, problem))
        texts = [f"{file}:{line}: {what}" for line, what in sorted(bad)]
        problems.add_elsewhere(("paths", "public_addresses"), texts)
    for table in inline:
        pair = table.text("address", values.public_address, required=f'"{values.ADDRESS_FORM}"')
        interfaces = table.texts("interfaces", interface_list, required='a list of interfaces, ["eth0"]')
        # An address is compared with the others even when its interfaces are wrong.
        if pair is not None:
            path = (*table.path, "address")
            address = PublicAddress(address=pair[0], bits=pair[1], interfaces=interfaces or ())
            if problem := add(address, path):
                problems.add(path, problem)
    return tuple(found)


def _tunables(table: Reader) -> dict[str, int | float]:
    found: dict[str, int | float] = {}
    for key, value in table.items():
        row = TUNABLES.get(key)
        if row is None:
            table.problems.add((*table.path, key), f"no such tunable{suggestion(key, list(TUNABLES))}")
        elif is_number(value) and row.problem(value) is None:
            found[key] = row.kind(value)
        else:
            table.wrong(key, row.expected)
    return found


def _scripts(table: Reader) -> dict[str, dict[str, ScriptValue]]:
    found: dict[str, dict[str, ScriptValue]] = {}
    for script, content in table.items():
        path = (*table.path, script)
        try:
            values.script_name(script)
        except values.BadValue as error:
            hint = ""
            if isinstance(content, dict) and len(script) == 2 and script.isdigit() and content:
                hint = f' (write [scripts."{script}.{next(iter(content))}"], with the quotes)'
            table.problems.add(path, f"found {shown(script)}; expected {error}{hint}")
            continue
        settings = found.setdefault(script, {})
        section = table.table(script)
        variables: dict[str, str] = {}
        for key, value in section.items():
            checked = _script_value(value)
            try:
                values.setting_name(key)
            except values.BadValue as error:
                section.problems.add((*path, key), f"found the name {shown(key)}; expected {error}")
            # Environment variables distinguish neither case nor '-'.
            same = variables.setdefault(key.upper().replace("-", "_"), key)
            if same != key:
                section.problems.add((*path, key), f"found beside {same}, the same for a script; expected one of them")
            if checked is None:
                section.wrong(key, "a string, a number, true or false, or a list of these")
            else:
                settings[key] = checked
    return found


def _script_value(value: object) -> ScriptValue | None:
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list) and all(isinstance(element, str | int | float) for element in value):
        return tuple(value)
    return None


def _connections(table: Reader) -> ConnectionSettings:
    ports, reset_ports = (table.integers(key, 1, 65535) for key in ("ports", "reset_ports"))
    mptcp = table.flag("mptcp")
    return ConnectionSettings(ports=ports or (), reset_ports=reset_ports or (), mptcp=bool(mptcp))


def _network(table: Reader) -> NetworkSettings:
    probe = table.flag("probe")
    ignore = table.texts("ignore", values.hardware_addresses)
    return NetworkSettings(probe=True if probe is None else probe, ignore=ignore or ())


def _log(table: Reader) -> LogSettings:
    level = table.choice("level", LOG_LEVELS) or "info"
    form = table.choice("format", LOG_FORMATS) or "console"
    return LogSettings(level=level, format=form)
