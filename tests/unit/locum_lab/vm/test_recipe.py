"""The contents of the guests' image: commands of README.md, and names of layers that change with their contents."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from locum.errors import LocumError
from locum_lab.vm import image, recipe

README = (image.checkout() / "README.md").read_text(encoding="utf-8")


def test_the_commands_are_those_of_the_readme() -> None:
    install, start = recipe.readme_commands(README)
    assert install[0].startswith("python3 -m venv /opt/locum && ")
    assert any(line.endswith("examples/locum.toml /etc/locum/") for line in install)
    assert "systemctl enable --now locum" in start
    assert all(line in README for line in (*install, *start))


def test_a_readme_without_the_two_blocks_is_refused() -> None:
    with pytest.raises(LocumError, match="two blocks"):
        recipe.readme_commands("## Run it\n\n```\nmake\n```\n\n## Read on\n")


def test_the_image_has_the_packages_that_the_readme_asks_for() -> None:
    asked = re.search(r"`apt install ([^`]*)`", README)
    assert asked
    assert set(asked[1].split()) <= set(recipe.PACKAGES)


def test_no_unit_is_both_disabled_and_masked() -> None:
    assert not set(recipe.DISABLED) & set(recipe.MASKED)


def test_the_setup_script_is_a_shell_script() -> None:
    done = subprocess.run(["sh", "-n"], input=recipe.setup_script(), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_runs_the_installation_and_enables_what_needs_no_running_system() -> None:
    install, start = recipe.readme_commands(README)
    lines = recipe.install_script(README).splitlines()
    assert lines[: len(install) + 1] == [f"cd {recipe.CHECKOUT}", *install]
    assert set(lines[len(install) + 1 :]) < set(start)
    assert not any("--now" in line for line in lines)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("src/locum/a.py", "examples/locum.toml", "README.md", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_the_name_of_the_layer_changes_with_the_source_alone(checkout: Path) -> None:
    before = recipe.locum_key("base", checkout)
    (checkout / "src/locum/__pycache__").mkdir()
    (checkout / "src/locum/__pycache__/a.pyc").write_text("made")
    (checkout / "docs").mkdir()
    (checkout / "docs/page.md").write_text("not installed")
    assert recipe.locum_key("base", checkout) == before
    (checkout / "src/locum/a.py").write_text("changed")
    assert recipe.locum_key("base", checkout) != before
    assert recipe.locum_key("other", checkout) != recipe.locum_key("base", checkout)


def test_a_file_that_moves_changes_the_name(checkout: Path) -> None:
    before = recipe.locum_key("base", checkout)
    (checkout / "src/locum/a.py").rename(checkout / "src/locum/b.py")
    assert recipe.locum_key("base", checkout) != before


def test_the_name_of_the_base_ignores_the_order_of_packages() -> None:
    assert recipe.base_key(["a", "b"]) == recipe.base_key(["b", "a"])
    assert recipe.base_key(["a", "b"]) != recipe.base_key(["a"])


def test_an_incomplete_checkout_is_refused(checkout: Path) -> None:
    (checkout / "README.md").unlink()
    with pytest.raises(LocumError, match=r"README\.md is missing"):
        recipe.locum_key("base", checkout)


def test_the_cache_keeps_the_layers_that_were_used_last(tmp_path: Path) -> None:
    for kind in ("image", "base", "wheels"):
        for age in range(10):
            layer = tmp_path / f"{kind}-{age}"
            (layer / "new-x").mkdir(parents=True)
            os.utime(layer, (1e9 - age, 1e9 - age))
    (tmp_path / "new-image" / "root").mkdir(parents=True)
    (tmp_path / "domain").mkdir()
    image.remove_old(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*(f"image-{age}" for age in range(8)), "base-0", "base-1", "wheels-0", "wheels-1", "domain"}
    # Saved states are made in the directory of their image.
    assert list(tmp_path.glob("image-*/*")) == []


def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LocumError, match=r"apt install --no-install-recommends .*mmdebstrap .*qemu-system-x86 "):
        image.check_programs()
