"""The groups of the tests in guests: only with the right modules in them does the shared cluster boot once."""

from __future__ import annotations

import re
from pathlib import Path

from tests import vm
from tests.vm import groups

_MODULES = sorted(Path(vm.__path__[0]).glob("test_*.py"))


def test_modules_that_use_the_shared_cluster_are_one_group() -> None:
    using = {path.stem for path in _MODULES if re.search(r"\b(cluster|healed): VmLab\) ->", path.read_text())}
    assert using == groups.OF_THE_CLUSTER


def test_groups_that_are_named_exist() -> None:
    assert {rank for path in _MODULES if (rank := groups.rank(path)) < 6} == set(range(6))
