"""Clients' TCP connections to public addresses: detection, lists in the store, tickles after a move, and their end.

Begin with :mod:`locum.connections.tracker`.
"""
