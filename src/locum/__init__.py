"""Locum keeps clustered services reachable: public addresses, event scripts, failover.

Start reading at :mod:`locum.events` (the event engine) and :mod:`locum.rules` (the rules).
"""

__version__ = "0.1.0"
