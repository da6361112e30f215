"""The lines of keys, wherever TOML allows them to be."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.config.locate import Path, locate

TEXT = '''\
# comment [not.a.table]
top = 1
[a]                       # [b]
x = "]"
"quoted.key" = 1
dotted . inner = 2
'lit' = \'\'\'
y = 1
\'\'\'
s = """
[no]
\\"""" # a quote, escaped, before the end
z = [
  1,
  # comment = 5
  [2,
   "]"],
]
inline = { p = 1, "q" = { r = [3,
  4] } }
[a.b]
c = 1
[[list]]
k = 1
[list.sub]
m = 1
[[list]]
k = 2
  [[list.inner]]
  n = 1979-05-27T07:32:00Z
  [[list.inner]]
  n = "a\\\\"
[ "x y" . 'z' ]
w = ""
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("a",), 3),
        (("a", "x"), 4),
        (("a", "quoted.key"), 5),
        (("a", "dotted"), 6),
        (("a", "dotted", "inner"), 6),
        (("a", "lit"), 7),
        (("a", "s"), 10),
        (("a", "z"), 13),
        (("a", "z", 0), 14),
        (("a", "z", 1), 16),
        (("a", "z", 1, 1), 17),
        (("a", "inline"), 19),
        (("a", "inline", "p"), 19),
        (("a", "inline", "q", "r", 1), 20),
        (("a", "b"), 21),
        (("a", "b", "c"), 22),
        (("list", 0), 23),
        (("list", 0, "k"), 24),
        (("list", 0, "sub", "m"), 26),
        (("list", 1), 27),
        (("list", 1, "k"), 28),
        (("list", 1, "inner", 0, "n"), 30),
        (("list", 1, "inner", 1, "n"), 32),
        (("x y", "z", "w"), 34),
    ],
)
def test_lines(path: Path, line: int) -> None:
    assert locate(TEXT)[path] == line


def paths(value: object, path: Path = ()) -> set[Path]:
    """Every path of a parsed text."""
    if isinstance(value, dict):
        items: list[tuple[str | int, object]] = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {path}
    return {path}.union(*(paths(inner, (*path, key)) for key, inner in items))


def test_every_key_of_the_text_is_found_and_no_other() -> None:
    assert set(locate(TEXT)) == paths(tomllib.loads(TEXT)) - {()}


@given(st.text(alphabet="ab.=[]{}\"'\\# ,\n1", max_size=40))
def test_any_text_that_toml_accepts(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except ValueError:
        return
    lines = locate(text)
    assert set(lines) == paths(data) - {()}
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
