"""The runner's protocol: messages over a stream that cuts them anywhere, and a runner that answers wrongly."""

from __future__ import annotations

import pytest

from locum.config.tunables import Tunables
from locum.events import runner_client
from locum.events.model import Event
from locum.events.runner.protocol import Answer, Cancel, Greeting, Job, Lines, Request, encode
from locum.events.runner.results import Outcome, ScriptResult
from tests.unit.bench import Bench, run_async

#: A runner that repeats the last answer of the request before, as a failure, before it answers.
BELATED = """
import os, sys
sys.path[:] = os.environ.pop("LOCUM_RUNNER_PATH").split(":")
from locum.events.runner.results import Outcome, ScriptResult
from locum.events.runner.protocol import Answer, Greeting, Lines, Request, encode

socket, lines = int(sys.argv[1]), Lines(Request)
os.write(socket, encode(Greeting()))
while data := os.read(socket, 1 << 16):
    for request in lines.feed(data):
        os.write(socket, encode(Answer(request.run - 1, ScriptResult("10.a", Outcome.FAILED), True)))
        os.write(socket, encode(Answer(request.run, ScriptResult("10.a", Outcome.OK), True)))
"""


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_messages_arrive_as_they_were_sent_wherever_the_stream_is_cut(size: int) -> None:
    job = Job("50.web", "/x", True, "takeip", ("eth0", "::1", "64"), {"A": "ü\n"}, 30.0)
    requests = [Request(1, (job, job)), Cancel(1), Request(2, (job,))]
    answers = [Greeting(ended="50.web"), Answer(1, ScriptResult("50.web", Outcome.OK, output="a\nb\n"), True)]
    for kind, messages in ((Request | Cancel, requests), (Greeting | Answer, answers)):
        stream = b"".join(map(encode, messages))
        lines: Lines[object] = Lines(kind)
        received = [one for at in range(0, len(stream), size) for one in lines.feed(stream[at : at + size])]
        assert received == messages


def test_i5_an_answer_to_an_earlier_run_is_ignored(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.shell("10.a", "exit 0\n")
    bench.tunables = Tunables()
    bench.file("belated.py").write_text(BELATED)
    monkeypatch.setattr(runner_client, "_MAIN", bench.file("belated.py"))

    async def go() -> None:
        async with bench.running() as engine:
            for event in (Event.MONITOR, Event.RECOVERED):
                result = await engine.run(event)
                assert [one.outcome for one in result.scripts] == [Outcome.OK]

    run_async(go())
