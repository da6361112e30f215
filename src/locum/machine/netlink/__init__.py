"""Netlink, as far as Locum needs it: framing in :mod:`locum.machine.netlink.core`, a file per family of messages."""
