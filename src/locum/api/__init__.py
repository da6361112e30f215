"""What the daemon says and is told: the control socket, reports, admin commands. :mod:`locum.api.serve` puts the agent
together.
"""
