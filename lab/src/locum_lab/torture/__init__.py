"""Torture: random real faults on a real cluster, watched all the time.

``kinds`` is what can be done, ``schedule`` decides what is done when (from a seed), ``bounds`` how long service may be
away afterwards, ``verdict`` whether it was away longer, ``ledger`` what must not be lost: all pure. ``acts`` does it,
``commands`` asks for it as an admin would, ``machine`` measures how late the machine is, ``report`` tells the story of
a violation, ``run`` is the loop.
"""
