"""Public addresses on this machine: configured and removed, announced, watched, and held back by the kernel's gate."""
