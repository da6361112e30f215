"""Random admin commands: the real commands of :mod:`locum.rules.admin`, committed as the agent does."""

from __future__ import annotations

from random import Random

from locum.errors import UsageError
from locum.rules.admin import TRIES, AdminRequest, Command, plan_command
from locum.rules.view import View
from locum_sim.checks import ADMIN
from locum_sim.world import World

NODE_COMMANDS: tuple[Command, ...] = ("enable", "disable", "continue", "stop", "unban", "ban")


class Admins:
    """The administrators of a run."""

    def __init__(self, world: World, random: Random) -> None:
        self._world = world
        self._random = random
        self.confirmed = self.refused = 0

    def something(self) -> str:
        """Give a random command; return its kind."""
        random = self._random
        name = random.choice(list(self._world.machines))
        addresses = [h.address for h in self._world.machines[name].identity.addresses]
        chance = random.random()
        if chance < 0.55 or not addresses:
            command = random.choice(NODE_COMMANDS)
            seconds = random.uniform(0.5, 6.0) if command == "ban" else None
            self.command(AdminRequest(command, node=name, seconds=seconds))
            return f"admin {command}"
        if chance < 0.8:
            self.command(AdminRequest("move", node=name, address=random.choice(addresses)))
            return "admin move"
        if chance < 0.9:
            self.command(AdminRequest("auto", address=random.choice(addresses)))
            return "admin auto"
        tunable = random.choice(("NoIPFailback", "NoIPTakeover", "NoIPHostOnAllDisabled", "MonitorInterval"))
        value = random.choice((1, 3, 10)) if tunable == "MonitorInterval" else random.choice((0, 1))
        self.command(AdminRequest("tunable-set", name=tunable, value=value))
        return "admin tunable"

    def tidy_up(self, clean: bool) -> None:
        """After the trouble: allow takeovers again; when ``clean``, end all disabled, stopped and banned states."""
        if self._world.commands_under_way:
            # An earlier command would have the last word.
            self._world.engine.after(0.005, self.tidy_up, clean)
            return
        self.command(AdminRequest("tunable-set", name="NoIPTakeover", value=0))
        for name in self._world.machines if clean else ():
            for command in NODE_COMMANDS[::2]:
                self.command(AdminRequest(command, node=name))

    def command(self, request: AdminRequest, tries: int = TRIES) -> None:
        """Plan it in a fresh view and commit shortly after; again when a change came in between."""
        world = self._world
        view = View()
        view.reset(world.store.core.snapshot())
        try:
            change = plan_command(view, request, local=next(iter(world.machines)), wall=world.wall())
        except UsageError as error:
            self.refused += 1
            if world.trace.on:
                world.trace.say("admin", f"{request.command} {request.node}{request.address}: {error}")
            return

        def commit() -> None:
            world.commands_under_way -= 1
            if not change.operations:
                return
            accepted = world.store.commit(ADMIN, change.conditions, change.operations).accepted
            if world.trace.on:
                world.trace.say("admin", f"{change.message}{'' if accepted else ': refused'}")
            if accepted:
                self.confirmed += 1
            elif tries > 1:
                self.command(request, tries - 1)

        world.commands_under_way += 1
        world.engine.after(self._random.uniform(0.0005, 0.05), commit)
