"""The agent: carries out what the rules of :mod:`locum.cluster` decide, on one machine.

:mod:`locum.agent.driver` feeds the rules and starts their effects; :mod:`locum.agent.acts` is where addresses are
taken and released; :mod:`locum.agent.kernel_watch` turns the kernel's news into inputs. :mod:`locum.api.serve` puts
them together, :mod:`locum.api.control` answers commands.
"""
