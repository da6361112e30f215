"""Public addresses on this machine: configured, removed, announced, watched, and enforced by the kernel's gate."""
