"""Clusters in network namespaces, for trials, faults and measurements. Begin with :mod:`locum_lab.lab`."""
