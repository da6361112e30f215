"""Settings of one node: what a configuration file may say (:mod:`locum.config.model`), how it is read and
checked (:mod:`locum.config.load`), and the cluster's tunables (:mod:`locum.config.tunables`).
"""
