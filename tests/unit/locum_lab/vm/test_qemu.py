"""The command line of a guest, and the search for an accelerator that works."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from locum_lab.vm import qemu
from locum_lab.vm.image import Image
from locum_lab.vm.qemu import Hardware, Interface, Saved

HARDWARE = Hardware(
    "n2",
    Path("/lab/guests/n2"),
    (Interface("n2-eth0", "02:00:00:00:02:00"), Interface("n2-eth1", "02:00:00:00:02:01")),
    "10.78.0.2",
)


def _after(argv: list[str], option: str) -> list[str]:
    return [argv[place + 1] for place, word in enumerate(argv) if word == option]


def test_the_interfaces_are_in_order_and_each_has_its_tap() -> None:
    argv = qemu.command(HARDWARE, Image("/cache/image-1"), "tcg,thread=multi")
    assert [netdev.split(",")[2] for netdev in _after(argv, "-netdev")] == ["ifname=n2-eth0", "ifname=n2-eth1"]
    cards = [device for device in _after(argv, "-device") if device.startswith("virtio-net")]
    assert ["id=eth0,mac=02:00:00:00:02:00" in cards[0], "id=eth1,mac=02:00:00:00:02:01" in cards[1]] == [True, True]


def test_a_guest_writes_to_its_own_disk_alone() -> None:
    image = Image("/cache/image-1")
    assert _after(qemu.command(HARDWARE, image, "kvm"), "-drive") == [
        "file=/lab/guests/n2/disk.qcow2,format=qcow2,if=virtio"
    ]
    overlay = qemu.disk_command(HARDWARE, image)
    assert _after(overlay, "-b") == ["/cache/image-1/disk.img"]
    assert overlay[-1] == "/lab/guests/n2/disk.qcow2"


def test_a_shared_directory_is_given_by_its_tag() -> None:
    argv = qemu.command(msgspec.structs.replace(HARDWARE, shared=Path("/lab/shared")), Image("/cache/image-1"), "kvm")
    assert _after(argv, "-virtfs") == ["local,path=/lab/shared,mount_tag=shared,security_model=passthrough"]
    assert _after(qemu.command(HARDWARE, Image("/cache/image-1"), "kvm"), "-virtfs") == []


def test_the_kernel_is_told_name_and_address() -> None:
    words = qemu.kernel_parameters(HARDWARE, "kvm").split()
    assert "systemd.hostname=n2" in words
    assert "ip=10.78.0.2:::255.255.255.0::eth0:none" in words


def test_a_guest_that_continues_from_a_saved_state_leaves_it_unchanged() -> None:
    image, saved = Image("/cache/image-1"), Saved("/cache/image-1/warm-1")
    overlay = qemu.disk_command(HARDWARE, image, saved)
    assert (_after(overlay, "-b"), _after(overlay, "-F")) == (["/cache/image-1/warm-1/disk.qcow2"], ["qcow2"])
    assert overlay[-1] == "/lab/guests/n2/disk.qcow2"
    argv = qemu.command(HARDWARE, image, "tcg,thread=multi", saved)
    assert _after(argv, "-incoming") == ["exec:cat '/cache/image-1/warm-1/state'"]
    assert _after(argv, "-drive") == ["file=/lab/guests/n2/disk.qcow2,format=qcow2,if=virtio"]
    assert "-incoming" not in qemu.command(HARDWARE, image, "tcg,thread=multi")


def test_an_emulated_processor_takes_no_detours() -> None:
    image = Image("/cache/image-1")
    (emulated,), (real,) = (_after(qemu.command(HARDWARE, image, kind), "-append") for kind in ("tcg", "kvm"))
    assert "mitigations=off" in emulated.split()
    assert "mitigations=off" not in real.split()


def test_the_processor_fits_the_accelerator() -> None:
    image = Image("/cache/image-1")
    assert _after(qemu.command(HARDWARE, image, "kvm"), "-cpu") == ["host"]
    assert _after(qemu.command(HARDWARE, image, "tcg,thread=multi"), "-cpu") == ["qemu64"]


@pytest.fixture
def fresh() -> Iterator[None]:
    qemu.accelerator.cache_clear()
    yield
    qemu.accelerator.cache_clear()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("exec sleep 1000", "tcg,thread=multi"),
        ("exit 1", "tcg,thread=multi"),
        # A processor that cannot go on is reset, which ends this QEMU as well.
        ("exit 0", "tcg,thread=multi"),
        ("echo 'VFS: Unable to mount root fs on unknown-block(0,0)'; exec sleep 1000", "tcg,thread=multi"),
        ("echo 'VFS: Unable to mount root fs on unknown-block(0,0)'", "kvm"),
    ],
    ids=["hangs", "fails", "resets", "hangs at the end", "works"],
)
def test_kvm_is_used_only_where_it_works(
    program: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "qemu"
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(qemu, "PROGRAM", str(fake))
    monkeypatch.setattr(os, "access", lambda *_: True)
    if "sleep" in program:
        monkeypatch.setattr(qemu, "_KVM_PROBE", 0.5)
    assert qemu.accelerator(Image("/cache/image-1")) == expected


@pytest.mark.usefixtures("fresh")
def test_a_probe_that_cannot_be_killed_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A QEMU that waits in the kernel for ever does not end when it is killed."""
    fake, kill = tmp_path / "qemu", subprocess.Popen.kill
    fake.write_text("#!/bin/sh\nexec sleep 1000\n")
    fake.chmod(0o755)
    immortal: list[subprocess.Popen[bytes]] = []

    def survive(process: subprocess.Popen[bytes]) -> None:
        immortal.append(process)

    monkeypatch.setattr(qemu, "PROGRAM", str(fake))
    monkeypatch.setattr(os, "access", lambda *_: True)
    monkeypatch.setattr(subprocess.Popen, "kill", survive)
    monkeypatch.setattr(qemu, "_KVM_PROBE", 0.1)
    monkeypatch.setattr(qemu, "_KILLED_WITHIN", 0.1)
    try:
        assert qemu.accelerator(Image("/cache/image-1")) == "tcg,thread=multi"
        assert [process.poll() for process in immortal] == [None]
    finally:
        for process in immortal:
            kill(process)
            process.wait()
