"""The whole cluster on a virtual clock: the real rules, with a simulated store, network, kernel and processes.

``python -m locum_sim`` runs it; ``docs/simulation.md`` says what is simulated and what is asserted.

:mod:`locum_sim.engine`, :mod:`locum_sim.clocks` are time; :mod:`locum_sim.simulated_kernel`, :mod:`locum_sim.scripts`,
:mod:`locum_sim.network`, :mod:`locum_sim.service` are what a node stands on. :mod:`locum_sim.agent` runs the product's
agent on :mod:`locum_sim.loop`, over :mod:`locum_sim.ports`; :mod:`locum_sim.machine` has the guard.
:mod:`locum_sim.checks` holds the invariants; :mod:`locum_sim.faults.draw` and :mod:`locum_sim.admins` do the harm;
:mod:`locum_sim.world` puts one run together.

One rule holds for every module here: nothing may depend on anything but the seed. No real clock, no global random
generator, no iteration over sets.
"""
