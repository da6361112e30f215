"""The whole cluster on a virtual clock: the real rules, with a simulated store, network, kernel and processes.

``python -m locum_sim`` runs it; ``docs/simulation.md`` says what is simulated and what is asserted.

:mod:`locum_sim.engine` and :mod:`locum_sim.clocks` are time; :mod:`locum_sim.simulated_kernel`,
:mod:`locum_sim.scripts`, :mod:`locum_sim.network` and :mod:`locum_sim.service` are a node's environment.
:mod:`locum_sim.agent` runs the product's agent on :mod:`locum_sim.loop`, over :mod:`locum_sim.ports`;
:mod:`locum_sim.guard` runs the guard on :mod:`locum_sim.program`, over :mod:`locum_sim.guard_ports`.
:mod:`locum_sim.checks` has the invariants; :mod:`locum_sim.faults.draw` and :mod:`locum_sim.admins` inject faults and
commands; :mod:`locum_sim.world` puts one run together.

From the bottom up: :mod:`locum_sim.run_state`; the observers (:mod:`locum_sim.observers`), which see machines through
:mod:`locum_sim.views` alone; :mod:`locum_sim.machine_state`, which reports to them; ports; agent and guard;
:mod:`locum_sim.host` and :mod:`locum_sim.machine`; the world.

One rule holds for every module here: a run depends only on its seed. No real clock, no global random generator, no
iteration over sets.
"""
