"""Settings of one node: the configuration as values (:mod:`locum.config.model`), reading and checking a file
(:mod:`locum.config.load`), and the cluster's tunables (:mod:`locum.config.tunables`).
"""
