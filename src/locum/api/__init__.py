"""The daemon's interface: the control socket, reports, admin commands. :mod:`locum.daemon` puts the agent together."""
