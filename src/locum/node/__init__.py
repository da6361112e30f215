"""The agent: carries out what the rules of :mod:`locum.rules` decide, on one machine.

:mod:`locum.node.driver` feeds the rules and starts their effects; :mod:`locum.node.steps` is where addresses are
taken and released; :mod:`locum.node.kernel_watch` turns the kernel's news into inputs. :mod:`locum.daemon` puts
them together, :mod:`locum.api.control` answers commands.
"""
