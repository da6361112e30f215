"""The agent: carries out the decisions of :mod:`locum.rules` on one machine.

:mod:`locum.node.driver` feeds the rules and starts their effects; :mod:`locum.node.steps` takes and releases addresses;
:mod:`locum.node.kernel_watch` turns kernel events into inputs. :mod:`locum.daemon` puts them together,
:mod:`locum.api.control` answers commands.
"""
