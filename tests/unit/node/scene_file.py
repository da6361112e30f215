"""The files in which the scenes of playbooks are written down."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def read(file: Path) -> dict[str, list[str]]:
    """Title → expected lines."""
    found: dict[str, list[str]] = {}
    for block in file.read_text().split("\n\n"):
        title, *lines = block.strip().splitlines()
        found[title.removeprefix("# ")] = [line.strip() for line in lines]
    return found


def write(file: Path, scenes: Mapping[str, list[str]]) -> None:
    """Write the lines of every scene."""
    blocks = ["\n".join([f"# {title}", *(f"    {line}" for line in lines)]) for title, lines in scenes.items()]
    file.write_text("\n\n".join(blocks) + "\n")
