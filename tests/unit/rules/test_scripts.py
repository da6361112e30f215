"""The rules as readable scripts; :mod:`tests.unit.rules.script` has their language.

``pytest tests/unit/rules/test_scripts.py --rewrite`` writes the present output into the files: review the diff.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.rules.script import rewritten, scripts


@pytest.mark.parametrize("path", scripts(), ids=lambda path: path.stem)
def test_script(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text(encoding="utf-8")
    present = rewritten(text)
    if request.config.getoption("--rewrite"):
        path.write_text(present, encoding="utf-8")
    else:
        assert present.splitlines() == text.splitlines()


def test_a_script_whose_output_differs_fails() -> None:
    text = "cluster n1\nrun 0.1\n----\n  0.00 n1 does something else\n"
    assert rewritten(text) != text
    assert rewritten(rewritten(text)) == rewritten(text)
