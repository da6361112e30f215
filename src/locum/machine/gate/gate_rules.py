"""The nftables rules of the gate, as text that ``nft -f -`` loads and an admin reads with ``nft list ruleset``.

Text only: :mod:`locum.machine.gate.gate` changes the elements of the sets, and ``docs/enforcement.md`` argues that
these rules keep the promise.

All three tables say the same: *a packet that concerns a public address passes only if the address is in the "held" set
and a slot is open*. A slot is open while three sets agree: ``slot_N`` (elements that the kernel lets expire),
``until_N`` (wall-clock times before the deadline) and ``ok_N`` (the beat was accepted).
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from locum.errors import LocumError

TABLE = "locum"

#: How many beats can be in flight at once, each with its own slot.
SLOTS = 4

_SETS = """\
	set public4 {{ type ipv4_addr;{public4} }}
	set held4 {{ type ipv4_addr; }}
"""

_SETS6 = """\
	set public6 {{ type ipv6_addr;{public6} }}
	set held6 {{ type ipv6_addr; }}
	# The same addresses as targets of neighbour discovery, which nft 1.0.6 knows only as bytes.
	set public6_target {{ typeof @th,64,128;{target6} }}
	set held6_target {{ typeof @th,64,128; }}
"""

_SETS4_BYTES = """\
	# The same addresses as plain bytes of a frame.
	set public4_bytes {{ typeof @ll,240,32;{bytes4} }}
	set held4_bytes {{ typeof @ll,240,32; }}
"""

_SLOT_SETS = """\
	set slot_{n} {{ type {kind}; flags timeout; }}
	set until_{n} {{ typeof meta time; flags interval; }}
	set ok_{n} {{ type {kind}; }}
"""

# "slot" has to be looked up before "ok": see docs/enforcement.md, "Between two generations".
_SLOT_RULE = "\t\t{key} @slot_{n} meta time @until_{n} {key} @ok_{n} return\n"

_GATE = """\
	chain gate {{
{rules}		counter name "refused" drop
	}}
"""

_INET = """\
table inet locum {{
	comment "{comment}"
	counter refused {{ }}
	set interfaces {{ type ifname;{interfaces} }}
{sets}
	# Returns while a slot is open, else drops.
{gate}
	# Returns for frames that a bridge on this machine passes between two ports. With br_netfilter they pass here,
	# without an input interface but with a link-layer header. Packets made on this machine have no such header yet.
	chain bridged {{
		meta iif != 0 counter name "refused" drop
		@ll,48,48 != 0 return
		counter name "refused" drop
	}}
	# From a public address that is not configured here. Packets routed from the node that holds the address come in
	# from the public network and pass. No other packet may have this source.
	chain foreign {{
		iifname @interfaces return
		goto bridged
	}}
	chain from4 {{
		ip saddr @held4 goto gate
		fib saddr type != local goto foreign
		counter name "refused" drop
	}}
	chain from6 {{
		ip6 saddr @held6 goto gate
		fib saddr type != local goto foreign
		counter name "refused" drop
	}}
	# Neighbour advertisements about a public address, from any sender (the target is 8 bytes into ICMPv6).
	chain advertise6 {{
		@th,64,128 @held6_target goto gate
		goto bridged
	}}
	# After source NAT: answers of a service behind address translation already have their public source.
	chain leave {{
		type filter hook postrouting priority 300; policy accept;
		ip saddr @public4 jump from4
		ip6 saddr @public6 jump from6
		icmpv6 type nd-neighbor-advert @th,64,128 @public6_target jump advertise6
	}}

	# To a public address that is configured here.
	chain to4 {{
		ip daddr @held4 goto gate
		counter name "refused" drop
	}}
	chain to6 {{
		ip6 daddr @held6 goto gate
		counter name "refused" drop
	}}
	# Before connection tracking and destination NAT. "goto" ends the chain for a packet that may pass. An address on an
	# interface in a VRF is in the table of the VRF, into which (before Linux 6.16) only the second lookup looks.
	chain arrive {{
		type filter hook prerouting priority raw; policy accept;
		ip daddr @public4 fib daddr type local goto to4
		ip daddr @public4 fib daddr . iif type local goto to4
		ip6 daddr @public6 fib daddr type local goto to6
		ip6 daddr @public6 fib daddr . iif type local goto to6
	}}
	# Whatever routing table delivers the packet to this machine: that of a VRF, or of a rule (policy routing).
	chain deliver {{
		type filter hook input priority raw; policy accept;
		ip daddr @public4 goto to4
		ip6 daddr @public6 goto to6
	}}
}}
"""

_ARP = """\
table arp locum {{
	comment "{comment}"
	counter refused {{ }}
{sets}
{gate}
	chain from4 {{
		arp saddr ip @held4 goto gate
		counter name "refused" drop
	}}
	# Requests as well as replies: each tells its receivers which machine has the sender's address.
	chain leave {{
		type filter hook output priority filter; policy accept;
		arp saddr ip @public4 jump from4
	}}
}}
"""

_NETDEV = """\
table netdev locum {{
	comment "{comment}"
	counter refused {{ }}
{sets}
{gate}
	chain arp4 {{
		arp saddr ip @held4 goto gate
		counter name "refused" drop
	}}
	chain from4 {{
		ip saddr @held4 goto gate
		counter name "refused" drop
	}}
	chain from6 {{
		ip6 saddr @held6 goto gate
		counter name "refused" drop
	}}
	chain advertise6 {{
		@th,64,128 @held6_target goto gate
		counter name "refused" drop
	}}
{frames}	chain sent {{
		arp saddr ip @public4 jump arp4
		ip saddr @public4 jump from4
		ip6 saddr @public6 jump from6
		icmpv6 type nd-neighbor-advert @th,64,128 @public6_target jump advertise6
		# Once more by the bytes that neighbours read: behind VLAN tags (a tag of VLAN 0 is only a priority), and
		# whichever protocol the sender named to the kernel.
		jump frame0
	}}
	# Frames that a socket of this network namespace sent (a rule about the owner matches no frame without one): a
	# packet socket bypasses the tables inet and arp. The base chains also judge frames with the device's own hardware
	# address: the kernel's own answers have no owner, and an answer that waits for its neighbour's resolution leaves
	# long after the other tables judged it. Frames that other stacks (macvlan, bridged containers and virtual
	# machines) send through the device with their own addresses pass.
	chain judge {{
		meta skuid != 4294967295 jump sent
	}}
{chains}}}
"""

# A frame with {depth} tags; each tag moves what follows by four bytes. Offsets are in bits of the frame.
_FRAME = """\
	chain frame{depth}_arp {{
		@ll,{arp_source},32 @held4_bytes goto gate
		counter name "refused" drop
	}}
	chain frame{depth}_from4 {{
		@ll,{source4},32 @held4_bytes goto gate
		counter name "refused" drop
	}}
	chain frame{depth}_from6 {{
		@ll,{source6},128 @held6_target goto gate
		counter name "refused" drop
	}}
	chain frame{depth}_nd6 {{
		@ll,{target6},128 @held6_target goto gate
		counter name "refused" drop
	}}
	chain frame{depth} {{
		@ll,{kind},16 0x0806 @ll,{arp_source},32 @public4_bytes jump frame{depth}_arp
		@ll,{kind},16 0x0800 @ll,{source4},32 @public4_bytes jump frame{depth}_from4
		@ll,{kind},16 0x86dd @ll,{source6},128 @public6_target jump frame{depth}_from6
		@ll,{kind},16 0x86dd @ll,{next6},8 58 @ll,{type6},8 136 @ll,{target6},128 @public6_target jump frame{depth}_nd6
{deeper}	}}
"""

#: EtherTypes of tags that Linux knows (``eth_type_vlan``): 802.1Q and 802.1ad.
TAG_TYPES = (0x8100, 0x88A8)
#: How many tags the rules look behind: two, as of 802.1ad ("QinQ").
TAG_DEPTH = 2

_EGRESS = """\
	chain {name} {{
		type filter hook egress device "{interface}" priority 0; policy accept;
{own}		jump judge
	}}
"""

_OWN = "ether saddr {hardware} jump sent"

_EGRESS_PREFIX = "egress-"


class Device(NamedTuple):
    """An existing interface: index, name, hardware address (``02:00:5e:00:53:01``; "" without one)."""

    number: int
    name: str
    hardware: str


def egress_chain(number: int) -> str:
    """The name of the base chain on the interface with that index."""
    return f"{_EGRESS_PREFIX}{number}"


def is_egress_chain(name: str) -> bool:
    """Whether a chain of the netdev table is the base chain of an interface."""
    return name.startswith(_EGRESS_PREFIX)


def _quotable(interface: str) -> str:
    """The name of an interface as nft(8) accepts it between quotes, which allow no escapes.

    Raises LocumError for a name with a quote: the kernel allows it, and a container can give it to a device that it
    hands back.
    """
    if not interface.isprintable() or set('"\\*') & set(interface):
        raise LocumError(f"the packet filter cannot have an interface called {interface!r}: rename it (ip link set)")
    return interface


def _elements(values: Iterable[str], quoted: bool = False) -> str:
    text = ", ".join(f'"{_quotable(value)}"' if quoted else value for value in values)
    return f" elements = {{ {text} }};" if text else ""


def _sets6(public6: Sequence[str]) -> str:
    targets = (f"0x{socket.inet_pton(socket.AF_INET6, address).hex()}" for address in public6)
    return _SETS6.format(public6=_elements(public6), target6=_elements(targets))


def _slots(kind: str) -> str:
    return "".join(_SLOT_SETS.format(n=n, kind=kind) for n in range(SLOTS))


def _gate(key: str) -> str:
    return _GATE.format(rules="".join(_SLOT_RULE.format(n=n, key=key) for n in range(SLOTS)))


def _tag_types() -> str:
    return ", ".join(f"0x{kind:04x}" for kind in TAG_TYPES)


def _frame(depth: int) -> str:
    """The chains for frames with ``depth`` tags."""
    shift = 32 * depth
    kind = 96 + shift
    deeper = f"\t\t@ll,{kind},16 {{ {_tag_types()} }} jump frame{depth + 1}\n" if depth < TAG_DEPTH else ""
    return _FRAME.format(
        depth=depth,
        deeper=deeper,
        kind=kind,
        arp_source=(14 + 14) * 8 + shift,
        source4=(14 + 12) * 8 + shift,
        source6=(14 + 8) * 8 + shift,
        next6=(14 + 6) * 8 + shift,
        type6=(14 + 40) * 8 + shift,
        target6=(14 + 48) * 8 + shift,
    )


def identity() -> str:
    """The mark of the tables of this version of the rules; it is their comment."""
    parts = (
        _SETS,
        _SETS6,
        _SETS4_BYTES,
        _SLOT_SETS,
        _SLOT_RULE,
        _GATE,
        _INET,
        _ARP,
        _NETDEV,
        _FRAME,
        _EGRESS,
        _OWN,
        str(SLOTS),
    )
    text = "".join((*parts, _tag_types(), str(TAG_DEPTH)))
    return f"Locum: who may speak for public addresses. Rules {zlib.crc32(text.encode()):08x}"


def ruleset(public4: Sequence[str], public6: Sequence[str], interfaces: Sequence[str]) -> str:
    """Tables ``inet`` and ``arp``, in place of existing ones: no address held, no slot open.

    ``interfaces`` are the names of the public interfaces; they need not exist.
    """
    sets = _SETS.format(public4=_elements(public4))
    sets6 = _sets6(public6)
    inet = _INET.format(
        comment=identity(),
        interfaces=_elements(interfaces, quoted=True),
        sets=sets + sets6 + _slots("nf_proto"),
        gate=_gate("meta nfproto"),
    )
    arp = _ARP.format(comment=identity(), sets=sets + _slots("ether_type"), gate=_gate("arp ptype"))
    return replace("inet") + inet + replace("arp") + arp


def egress_ruleset(public4: Sequence[str], public6: Sequence[str], devices: Sequence[Device]) -> str:
    """Table ``netdev``, in place of an existing one, on interfaces that exist."""
    bytes4 = (f"0x{socket.inet_aton(address).hex()}" for address in public4)
    sets = _SETS.format(public4=_elements(public4)) + _sets6(public6) + _SETS4_BYTES.format(bytes4=_elements(bytes4))
    netdev = _NETDEV.format(
        comment=identity(),
        sets=sets + _slots("ether_type"),
        gate=_gate("meta protocol"),
        # The deepest first: a jump needs its target.
        frames="".join(_frame(depth) for depth in range(TAG_DEPTH, -1, -1)),
        chains="".join(_egress(device) for device in devices),
    )
    return replace("netdev") + netdev


def egress_addition(device: Device) -> str:
    """One more interface for the existing netdev table."""
    return f"table netdev {TABLE} {{\n{_egress(device)}}}\n"


def _egress(device: Device) -> str:
    own = f"\t\t{_own(device)}\n" if device.hardware else ""
    return _EGRESS.format(name=egress_chain(device.number), interface=_quotable(device.name), own=own)


def _own(device: Device) -> str:
    return _OWN.format(hardware=device.hardware)


def egress_hardware(chain: str, device: Device) -> str:
    """A rule for an interface that has ``chain`` and a new hardware address. The earlier address stays judged."""
    return f"insert rule netdev {TABLE} {chain} {_own(device)}\n"


def replace(family: str) -> str:
    """Delete the table if it exists; in one transaction with the text that follows."""
    return f"add table {family} {TABLE}\ndelete table {family} {TABLE}\n"
