"""Torture: random real faults on a real cluster, watched all the time.

``schedule`` decides what is done (pure, from a seed), ``acts`` does it, ``verdict`` judges how addresses were served
(pure), ``report`` tells the story of a violation, ``run`` is the loop.
"""
