"""Descriptors kept back: the directory of scripts can be read when there are no others."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.events.directory import ScriptDirectory
from locum.events.spare_descriptors import SpareDescriptors


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """None is free within the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        with contextlib.suppress(OSError):
            while True:
                stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        yield


def test_a_directory_can_be_read_without_a_free_descriptor(tmp_path: Path) -> None:
    directory = tmp_path / "events"
    directory.mkdir(mode=0o755)
    script = directory / "10.test"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    reserve = SpareDescriptors()
    try:
        with no_descriptors():
            assert ScriptDirectory(directory).scan().faults
            for _ in range(3):
                with reserve.spent():
                    assert [found.name for found in ScriptDirectory(directory).scan().scripts] == ["10.test"]
                with pytest.raises(OSError, match="Too many open files"):
                    os.open("/dev/null", os.O_RDONLY)
    finally:
        reserve.close()


def test_what_could_not_be_taken_again_is_taken_later() -> None:
    reserve = SpareDescriptors()
    try:
        with no_descriptors():
            with reserve.spent():
                kept = [os.open("/dev/null", os.O_RDONLY), os.open("/dev/null", os.O_RDONLY)]
            with reserve.spent(), pytest.raises(OSError, match="Too many open files"):
                os.open("/dev/null", os.O_RDONLY)
            for descriptor in kept:
                os.close(descriptor)
            with reserve.spent():
                os.close(os.open("/dev/null", os.O_RDONLY))
    finally:
        reserve.close()
