"""A lab of guests that do nothing, and refuse what QEMU refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from locum.errors import LocumError
from locum_lab.layout import Layout
from locum_lab.vm.channel import Done, GuestError
from locum_lab.vm.qemu import Hardware, Interface


class FakeMachine:
    """As strict as QEMU: nothing answers without power or while frozen, and what makes no sense is refused."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.name = name
        self.powered = True
        self.hardware = Hardware(
            name, Path("/nowhere"), (Interface("tap0", "m0"), Interface("tap1", "m1")), "10.78.0.1"
        )
        self.locum = True
        #: Whether its network was made poor.
        self.poor = False
        self.frozen = self.paused = self.asleep = self.going_off = False
        self._done = done

    def _command(self, name: str) -> None:
        if not self.powered:
            raise GuestError("qmp: No such file or directory; has the guest ended?")
        if self.frozen:
            raise GuestError("qmp: no answer in time")
        self._done.append(name)

    def freeze(self) -> None:
        assert self.powered
        self.frozen = True
        self._done.append("freeze")

    def thaw(self) -> None:
        assert self.powered
        self.frozen = False
        self._done.append("thaw")

    def pause(self) -> None:
        self._command("pause")
        self.paused = True

    def resume(self) -> None:
        self._command("resume")
        self.paused = False

    def sleep(self, _: int) -> None:
        self._command("sleep")
        if self.paused or self.asleep:
            raise GuestError("qga: no answer in time")
        self.asleep = True

    def wake(self) -> None:
        self._command("wake")
        if self.going_off and not self.paused:
            self.lose_power()
            raise LocumError(f"{self.name} ended while waiting for its sleep, or that it is awake")
        if self.paused:
            raise LocumError("not within 300 s: its sleep, or that it is awake")
        self.asleep = False

    def set_carrier(self, _: str, *, up: bool) -> None:
        self._command(f"carrier {up}")

    def reset(self) -> None:
        self._command("reset")

    def power_button(self) -> None:
        self._command("power_button")
        self.going_off = True

    def wait_booted(self) -> None:
        self._command("wait_booted")

    def run(self, argv: Sequence[str]) -> Done:
        if not self.powered or self.frozen or self.paused or self.asleep:
            raise GuestError("qga: no answer in time")
        if self.going_off:
            self.lose_power()
            raise GuestError("qga: the connection was closed; has the guest ended?")
        return Done(0, "running\n", "")

    def sh(self, script: str) -> None:
        self.run(["sh", "-c", script])
        if "tc qdisc delete" in script:
            self.poor = False
        else:
            assert "systemctl start locum" in script
            self.locum = True

    def wait_off(self) -> None:
        if self.powered and (not self.going_off or self.frozen or self.paused or self.asleep):
            raise LocumError("has not powered off within 300 s")
        self._done.append("wait_off")
        self.lose_power()

    @property
    def stands(self) -> bool:
        """Whether the guest does nothing, or soon will not."""
        return any((self.frozen, self.paused, self.asleep, self.going_off))

    def lose_power(self) -> None:
        self.powered = self.frozen = self.paused = self.asleep = self.going_off = False


class FakeLab:
    """As much of a lab as faults need."""

    layout = Layout(nodes=1, clients=1)

    def __init__(self) -> None:
        self.done: list[str] = []
        self.noted: list[str] = []
        self.machines = {name: FakeMachine(name, self.done) for name in ("n1", "c1")}

    def machine(self, name: str) -> FakeMachine:
        return self.machines[name]

    def note_fault(self, name: str, kind: str) -> None:
        if kind not in self.noted:
            self.noted.append(kind)

    def noted_faults(self, name: str) -> tuple[str, ...]:
        return tuple(self.noted) if name == "n1" else ()

    def forget_fault(self, name: str, kind: str) -> None:
        self.noted.remove(kind)

    def cut(self, name: str, _: object = ()) -> None:
        self.done.append("cut")

    def uncut(self, name: str, _: object = ()) -> None:
        self.done.append("uncut")

    def cut_power(self, name: str) -> None:
        self.machines[name].lose_power()
        self.done.append("cut_power")

    def power_on(self, name: str) -> None:
        if self.machines[name].powered:
            raise LocumError(f"{name} has power already")
        self.machines[name].powered = True
        self.done.append("power_on")

    def status(self) -> SimpleNamespace:
        """As the store has it: a node that stands still is still a member."""
        states = {name: "OK" if machine.locum else "DISCONNECTED" for name, machine in self.machines.items()}
        return SimpleNamespace(nodes=[SimpleNamespace(name=name, state=state) for name, state in states.items()])

    def wait_served(self) -> None:
        if not all(machine.locum and machine.powered and not machine.stands for machine in self.machines.values()):
            raise LocumError("not within 600 s: every node OK, every address served")
