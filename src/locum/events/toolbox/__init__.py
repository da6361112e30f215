"""What script authors use: the parts of :mod:`locum.script`, each small and imported only where it is needed."""
