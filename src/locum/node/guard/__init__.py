"""The guard: the small parent process that keeps the hold's word and brings the agent back.

It knows the hold's deadline (:mod:`locum.node.guard.hold_page`) and the configured addresses, and nothing of the
cluster.
"""
