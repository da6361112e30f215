"""The rules: view, hold, leader, plan, allocation, phases. Pure; the simulation runs these very modules.

Two rules hold for every module in this folder. It does no I/O and knows no event loop: input and time come in
as arguments, things to do come out as values (:mod:`locum.cluster.effects`). And it is the only place where a
decision about members, claims, plans or the leader is made.

Begin with :mod:`locum.cluster.schema` (what the store holds), then :mod:`locum.cluster.node` (what one node
does about it).
"""
