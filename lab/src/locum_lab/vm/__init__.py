"""A cluster of Debian guests in QEMU: kernel, systemd and services as users have them. See :mod:`locum_lab.vm.lab`."""
