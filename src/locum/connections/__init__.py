"""Clients' TCP connections to public addresses: found, kept in the store, told of a move, ended.

:mod:`locum.connections.keeper` is the way in.
"""
