"""The gate: the kernel lets a public address speak only while the hold of this node lasts."""
