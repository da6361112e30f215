"""The parts of netlink that Locum needs: framing in :mod:`locum.machine.netlink.core`, a file per message family."""
