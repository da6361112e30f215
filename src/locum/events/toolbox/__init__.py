"""The parts of :mod:`locum.script`, which authors of scripts use: small modules, imported only where needed."""
