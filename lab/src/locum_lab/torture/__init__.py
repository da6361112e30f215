"""Torture: random real faults on a real cluster, watched continuously.

Pure modules: ``kinds`` has the acts, ``schedule`` draws them and their times (from a seed), ``bounds`` computes how
long service may be away afterwards, ``verdict`` whether it was away longer, ``confirmed`` what must not be lost.
``actions`` carries the acts out, ``commands`` runs an admin's commands, ``machine`` measures the machine's lateness,
``round_report`` describes a violation, ``run`` is the loop.
"""
