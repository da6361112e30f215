"""Clusters in network namespaces, to try out, to break and to measure. :mod:`locum_lab.lab` is the way in."""
