"""What the daemon says and is told: the control socket, reports, admin commands. :mod:`locum.daemon` puts the agent
together.
"""
