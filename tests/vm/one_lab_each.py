"""A scheduler of pytest-xdist that gives each group of tests to one worker."""

from __future__ import annotations

from pathlib import Path

from xdist.scheduler.loadscope import LoadScopeScheduling  # type: ignore[import-untyped]

from tests.vm import groups


class OneLabEach(LoadScopeScheduling):  # type: ignore[misc]
    """See :mod:`tests.vm.groups`."""

    def _split_scope(self, nodeid: str) -> str:
        return groups.of(Path(nodeid.partition("::")[0]))
