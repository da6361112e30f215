"""Cluster state: a small linearizable key-value store. :mod:`locum.store.base` is the interface."""
