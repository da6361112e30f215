"""Netlink, as far as Locum needs it: framing in :mod:`locum.netlink.core`, a file per family of messages."""
