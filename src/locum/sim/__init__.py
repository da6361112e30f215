"""The whole cluster on a virtual clock: the real rules, with a simulated store, network, kernel and processes.

``python -m locum.sim`` runs it; ``docs/simulation.md`` says what is simulated and what is asserted.

:mod:`locum.sim.engine`, :mod:`locum.sim.clocks` are time; :mod:`locum.sim.kernel`, :mod:`locum.sim.scripts`,
:mod:`locum.sim.network`, :mod:`locum.sim.service` are what a node stands on. :mod:`locum.sim.agent` runs the product's
agent on :mod:`locum.sim.loop`, over :mod:`locum.sim.ports`; :mod:`locum.sim.machine` has the guard.
:mod:`locum.sim.checks` holds the invariants; :mod:`locum.sim.faults` and :mod:`locum.sim.admins` do the harm;
:mod:`locum.sim.world` puts one run together.

One rule holds for every module here: nothing may depend on anything but the seed. No real clock, no global random
generator, no iteration over sets.
"""
