"""The allocation of public addresses to nodes.

Rules of this file: one pure function, :func:`allocate`, of the addresses that each node can host and the present
servers. It knows neither views nor records. The same input gives the same answer on every node, whatever the order of
its mappings.

The goals, in order of priority:

1. every address that some node can host is served, by the node that an admin preferred if that one can host it;
2. the nodes' counts are even: the sum of their squares is least, and with it the greatest count;
3. each subnet is spread evenly: the sum over subnets and nodes of the squares of the counts is least;
4. as few addresses as possible leave a node that serves them now and could continue.

Theory of operation. This is a minimum-cost flow with convex costs (address → node within a subnet → node). An
assignment is optimal exactly when no *chain* of moves improves it, in which each address takes the place that the next
one leaves: a negative cycle of the residual graph. So the function leaves everything where it is, places the unserved
addresses by a good heuristic, levels the counts by shortest chains (:func:`_level`), and then searches for improving
chains of any kind (:class:`_Chains`) until none is left. Usually that last search only proves optimality, and often
:func:`_surely_best` proves it without a search.

Addresses of one subnet that the same nodes can host form a *class*; within one, only the present server tells them
apart. The graph has a vertex for each class instead of each address, so its size depends on subnets and nodes.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import pairwise

#: No node: the home of an address that no node serves now.
_NOWHERE = -1


def allocate(
    addresses: Mapping[str, int],
    hosts: Mapping[str, Set[str]],
    current: Mapping[str, str],
    preferred: Mapping[str, str],
    *,
    failback: bool = True,
) -> dict[str, str]:
    """The node that is to serve each address; an address that no node can host is left out.

    ``addresses``: all public addresses → the bits of their subnets. ``hosts``: eligible node → the addresses that it
    can host now. ``current``: address → the node that serves it now. ``preferred``: address → the node that an admin
    moved it to. Names that ``addresses`` or ``hosts`` do not contain are ignored.

    Without ``failback`` (NoIPFailback), an address that an eligible node serves stays there, unless an admin
    preferred another; only the others are placed.
    """
    nodes = sorted(hosts)
    numbers = {node: number for number, node in enumerate(nodes)}
    masks = _masks([hosts[node] for node in nodes])
    keys = {address: _key(address, bits) for address, bits in addresses.items() if address in masks}
    sizes = Counter(key[:2] for key in keys.values())
    state = _State(len(nodes))
    for address in sorted(keys, key=keys.__getitem__):
        mask = masks[address]
        subnet = keys[address][:2]
        # An address that is alone in its subnet is spread evenly on any node.
        where = state.subnet(subnet if sizes[subnet] > 1 else None)
        wanted = numbers.get(preferred.get(address, ""), _NOWHERE)
        home = numbers.get(current.get(address, ""), _NOWHERE)
        if home != _NOWHERE and not mask >> home & 1:
            home = _NOWHERE
        if wanted != _NOWHERE and mask >> wanted & 1:
            state.fix(address, where, wanted)
        elif home != _NOWHERE and not failback:
            state.fix(address, where, home)
        else:
            state.add(address, where, mask, home)
    _place(state)
    _level(state)
    if not _surely_best(state):
        _Chains(state).improve()
    return {address: nodes[node] for address, node in sorted(state.assignment())}


_SubnetKey = tuple[int, int | str]


def _key(address: str, bits: int) -> tuple[int, int | str, int]:
    """Family and bits, network, value. Text that is not an address is a subnet of its own, after all others."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return (9999, address, 0)
    value = int(parsed)
    return (parsed.version * 1000 + bits, value >> max(0, parsed.max_prefixlen - bits), value)


def _masks(hosts: Sequence[Set[str]]) -> dict[str, int]:
    """Address → the nodes that can host it, as a bit mask. Nodes with the same addresses are treated at once."""
    nodes_of: dict[frozenset[str], int] = {}
    for number, able in enumerate(hosts):
        key = frozenset(able)
        nodes_of[key] = nodes_of.get(key, 0) | 1 << number
    masks: dict[str, int] = {}
    for able, bits in nodes_of.items():
        for address in able:
            masks[address] = masks.get(address, 0) | bits
    return masks


class _Class:
    """Addresses of one subnet that the same nodes can host, by the node on which they are placed.

    ``settled``: addresses at home, which would cost a move. ``loose``: the others.
    """

    __slots__ = ("hosts", "loose", "mask", "settled", "subnet")

    def __init__(self, subnet: int, mask: int) -> None:
        self.subnet = subnet
        self.mask = mask
        self.hosts = [number for number in range(mask.bit_length()) if mask >> number & 1]
        self.loose: dict[int, list[int]] = {}
        self.settled: dict[int, list[int]] = {}


class _State:
    """An assignment under construction. Addresses, nodes, subnets and classes are numbers here.

    Addresses are numbered in the order of :meth:`add`, which must be deterministic.
    """

    def __init__(self, nodes: int) -> None:
        self.fixed: list[tuple[str, int]] = []
        self.load = [0] * nodes
        self.names: list[str] = []
        self.home: list[int] = []
        self.node: list[int] = []
        self.class_of: list[_Class] = []
        self.classes: dict[tuple[int, int], _Class] = {}
        #: Per node, the addresses placed on it that may move.
        self.on: list[dict[int, None]] = [{} for _ in range(nodes)]
        #: Per subnet and node, the number of addresses. Subnet 0 holds all that are alone in theirs, with weight 0.
        self.count: list[list[int]] = [[0] * nodes]
        #: Per subnet, the addresses that are placed away from their home.
        self.away: list[dict[int, None]] = [{}]
        #: Subnets with an address that may not move.
        self.partly_fixed: set[int] = set()
        self._subnets: dict[_SubnetKey | None, int] = {None: 0}

    def subnet(self, key: _SubnetKey | None) -> int:
        """The number of a subnet; None is the subnet with weight 0."""
        number = self._subnets.get(key)
        if number is None:
            number = self._subnets[key] = len(self._subnets)
            self.count.append([0] * len(self.load))
            self.away.append({})
        return number

    def fix(self, name: str, subnet: int, node: int) -> None:
        """Place an address that may not move."""
        self.fixed.append((name, node))
        self.load[node] += 1
        self.count[subnet][node] += 1
        self.partly_fixed.add(subnet)

    def add(self, name: str, subnet: int, mask: int, home: int) -> None:
        """Add an address that may be on any node of ``mask``, and is at ``home`` now."""
        group = self.classes.get((subnet, mask))
        if group is None:
            group = self.classes[subnet, mask] = _Class(subnet, mask)
        address = len(self.names)
        self.names.append(name)
        self.home.append(home)
        self.node.append(_NOWHERE)
        self.class_of.append(group)
        if home != _NOWHERE:
            self.put(address, home)

    def put(self, address: int, node: int) -> None:
        """Place an address that has no node yet."""
        group = self.class_of[address]
        self.node[address] = node
        self.load[node] += 1
        self.count[group.subnet][node] += 1
        self.on[node][address] = None
        if self.home[address] == node:
            group.settled.setdefault(node, []).append(address)
        else:
            group.loose.setdefault(node, []).append(address)
            if self.home[address] != _NOWHERE:
                self.away[group.subnet][address] = None

    def move(self, address: int, node: int) -> None:
        """Move an address to another node."""
        group = self.class_of[address]
        old = self.node[address]
        self.load[old] -= 1
        self.count[group.subnet][old] -= 1
        del self.on[old][address]
        kind = group.settled if self.home[address] == old else group.loose
        kind[old].remove(address)
        if not kind[old]:
            del kind[old]
        self.away[group.subnet].pop(address, None)
        self.put(address, node)

    def move_cost(self, address: int, node: int) -> int:
        """The change of the number of moves when ``address`` goes to ``node``: -1, 0 or 1."""
        home = self.home[address]
        if home == _NOWHERE:
            return 0
        return (node != home) - (self.node[address] != home)

    def assignment(self) -> Iterator[tuple[str, int]]:
        """Every address with its node."""
        yield from self.fixed
        yield from zip(self.names, self.node, strict=True)


def _place(state: _State) -> None:
    """Place the unplaced addresses, least choice first: on the least loaded node, then where the subnet has least."""
    load = state.load
    rest = [address for address, node in enumerate(state.node) if node == _NOWHERE]
    rest.sort(key=lambda address: len(state.class_of[address].hosts))
    for address in rest:
        group = state.class_of[address]
        count = state.count[group.subnet]
        state.put(address, min(group.hosts, key=lambda node: (load[node], count[node], node)))


def _level(state: _State) -> None:
    """Make the counts even (goal 2) by chains of moves from a node to one with at least two addresses less.

    A node that cannot reach such a node has its final count, and so has every node that it reaches. Nodes are taken
    from the most loaded down, so a later chain that touched one of them would have to end among them.
    """
    load = state.load
    reach: dict[int, int] = {}
    open_nodes = set(range(len(load)))
    while open_nodes:
        start = max(open_nodes, key=lambda node: (load[node], -node))
        chain = _shortest_chain(state, start, reach)
        if not chain:
            open_nodes.remove(start)
            continue
        # From the far end, so that each address finds its place free.
        for source, target in reversed(list(pairwise(chain))):
            state.move(_best_to_move(state, source, target), target)
        for node in chain:
            reach.pop(node, None)


def _shortest_chain(state: _State, start: int, reach: dict[int, int]) -> list[int]:
    """Nodes from ``start`` to the least loaded of the nearest ones with two addresses less; empty without one."""
    enough = state.load[start] - 2
    before: dict[int, int] = {}
    seen = 1 << start
    frontier = [start]
    while frontier:
        found = []
        for node in frontier:
            if node not in reach:
                reach[node] = 0
                for address in state.on[node]:
                    reach[node] |= state.class_of[address].mask
            new = reach[node] & ~seen
            seen |= new
            while new:
                bit = new & -new
                new ^= bit
                other = bit.bit_length() - 1
                before[other] = node
                found.append(other)
        end = min(found, key=lambda node: (state.load[node], node), default=start)
        if found and state.load[end] <= enough:
            chain = [end]
            while chain[-1] != start:
                chain.append(before[chain[-1]])
            return chain[::-1]
        frontier = found
    return []


def _best_to_move(state: _State, source: int, target: int) -> int:
    """The address on ``source`` whose move to ``target`` is best for goals 3 and 4."""

    def cost(address: int) -> tuple[int, int, int]:
        count = state.count[state.class_of[address].subnet]
        spread = count[target] - count[source] if state.class_of[address].subnet else -1
        return (spread, state.move_cost(address, target), address)

    return min((a for a in state.on[source] if state.class_of[a].mask >> target & 1), key=cost)


def _surely_best(state: _State) -> bool:
    """Whether goals 3 and 4 are certainly met: each subnet is even by itself and no address has moved."""
    if any(state.away):
        return False
    seen: set[int] = {0}
    for group in state.classes.values():
        if group.subnet == 0:
            continue
        if group.subnet in seen or group.subnet in state.partly_fixed:
            return False
        seen.add(group.subnet)
        count = [state.count[group.subnet][node] for node in group.hosts]
        if max(count) - min(count) > 1:
            return False
    return True


class _Chains:
    """Improving chains of moves: negative cycles of the residual graph, found by Bellman and Ford's method.

    Vertices, and the cost of one more address along an arc:

    - the hub T, and each node: T → node means "this node gives an address", node → T "this node takes one" (goal 2);
    - each (subnet, node): node → (subnet, node) means "one of this subnet", back "takes one of it" (goal 3);
    - each class: (subnet, node) → class means "an address of this class leaves", class → (subnet, node) "goes here".
      It costs a move when all of them there are at home. An address away from home can also go
      (subnet, node) → (subnet, home), which saves a move (goal 4).

    A cycle passes each vertex once, so its cost is exactly the change that its moves make together. Labels are kept
    from round to round: any labels that no arc shortens prove that no negative cycle exists. Parents are not kept.
    """

    def __init__(self, state: _State) -> None:
        self.state = state
        self.nodes = len(state.load)
        self.top = self.nodes
        subnets = len(state.count)
        self.first_class = self.nodes + 1 + subnets * self.nodes
        self.groups = list(state.classes.values())
        self.by_subnet: list[list[tuple[int, _Class]]] = [[] for _ in range(subnets)]
        for number, group in enumerate(self.groups):
            self.by_subnet[group.subnet].append((self.first_class + number, group))
        vertices = self.first_class + len(self.groups)
        self.label = [0] * vertices
        self.parent = [-1] * vertices
        #: Vertices reached by an address that goes home, and that address.
        self.homeward: dict[int, int] = {}
        # Weights: all moves together cost less than one step of goal 3, all of goal 3 less than one step of goal 2.
        self.spread_weight = len(state.names) + 1
        self.load_weight = self.spread_weight * (1 + sum(sum(count) ** 2 for count in state.count))

    def improve(self) -> None:
        """Carry out improving chains until none is left."""
        while self._relax():
            cycles = self._cycles()
            for cycle in cycles:
                self._carry_out(cycle)
            if cycles:
                self.parent = [-1] * len(self.parent)
                self.homeward.clear()

    def _base(self, subnet: int) -> int:
        return self.nodes + 1 + subnet * self.nodes

    def _relax(self) -> bool:
        """One pass over all arcs, in the order in which a chain runs through them; whether a label fell."""
        state, label, parent = self.state, self.label, self.parent
        changed = False
        top = self.top
        weight = self.load_weight
        for node, load in enumerate(state.load):
            value = label[top] - weight * (2 * load - 1)
            if state.on[node] and value < label[node]:
                label[node], parent[node], changed = value, top, True
        for subnet, groups in enumerate(self.by_subnet):
            base = self._base(subnet)
            count = state.count[subnet]
            weight = self.spread_weight if subnet else 0
            touched = 0
            for vertex, group in groups:
                best, source = label[vertex], -1
                for extra, placed in ((0, group.loose), (1, group.settled)):
                    for node in placed:
                        # The two arcs node → (subnet, node) → class at once, except through the label between them.
                        value = label[node] - weight * (2 * count[node] - 1)
                        if value < label[base + node]:
                            label[base + node], parent[base + node], changed = value, node, True
                            self.homeward.pop(base + node, None)
                        value = label[base + node] + extra
                        if value < best:
                            best, source = value, base + node
                if source >= 0:
                    label[vertex], parent[vertex], changed = best, source, True
                for node in group.hosts:
                    if best < label[base + node]:
                        label[base + node], parent[base + node], changed = best, vertex, True
                        self.homeward.pop(base + node, None)
                touched |= group.mask
            for address in state.away[subnet]:
                source = base + state.node[address]
                target = base + state.home[address]
                if label[source] - 1 < label[target]:
                    label[target], parent[target], changed = label[source] - 1, source, True
                    self.homeward[target] = address
            for node in range(self.nodes):
                if touched >> node & 1:
                    value = label[base + node] + weight * (2 * count[node] + 1)
                    if value < label[node]:
                        label[node], parent[node], changed = value, base + node, True
        weight = self.load_weight
        for node, load in enumerate(state.load):
            value = label[node] + weight * (2 * load + 1)
            if value < label[top]:
                label[top], parent[top], changed = value, node, True
        return changed

    def _cycles(self) -> list[list[int]]:
        """The cycles among the parents, each in the direction of its arcs. They share no vertex."""
        parent = self.parent
        seen = [0] * len(parent)
        found = []
        for start in range(len(parent)):
            if parent[start] < 0 or seen[start]:
                continue
            vertex = start
            while vertex >= 0 and not seen[vertex]:
                seen[vertex] = start + 1
                vertex = parent[vertex]
            if vertex >= 0 and seen[vertex] == start + 1:
                cycle = [vertex]
                while parent[cycle[-1]] != vertex:
                    cycle.append(parent[cycle[-1]])
                found.append(cycle[::-1])
        return found

    def _carry_out(self, cycle: list[int]) -> None:
        """Make the moves of one cycle; all are chosen before the first is made."""
        state = self.state
        moves = []
        for position, vertex in enumerate(cycle):
            target = cycle[(position + 1) % len(cycle)]
            if vertex >= self.first_class:
                group = self.groups[vertex - self.first_class]
                base = self._base(group.subnet)
                source = cycle[position - 1] - base
                goal = target - base
                candidates = group.loose.get(source) or group.settled[source]
                _, address = min((state.move_cost(address, goal), address) for address in candidates)
                moves.append((address, goal))
            elif self.nodes < vertex and self.nodes < target < self.first_class:
                address = self.homeward[target]
                moves.append((address, state.home[address]))
        for address, node in moves:
            state.move(address, node)
