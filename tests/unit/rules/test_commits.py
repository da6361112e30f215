"""The outbox of commits: pauses after refused commits, and their end."""

from __future__ import annotations

import math

from locum.rules.commit_kinds import Farewell
from locum.rules.commits import REFUSED_PAUSE, UNANSWERED_PAUSE, Commits
from locum.rules.context import Context
from locum.rules.effects import CommitWork
from locum.rules.node import LOOK_AGAIN
from locum.rules.view import View
from locum.store.base import CommitResult, Condition, Put
from tests.unit.rules.test_serving import ADDRESSES, Slow


def refuse(context: Context, commits: Commits, revision: int | None) -> None:
    """A commit that no part tries again is refused at ``revision``, or not answered (None)."""
    assert commits.start(Farewell(), [Condition("k", 1)], [Put("k", b"")])
    *_, effect = context.effects
    assert isinstance(effect, CommitWork)
    context.effects.pop()
    commits.answered(effect.request, None if revision is None else CommitResult(False, revision))


def test_a_pause_ends_once_whether_its_commit_is_tried_again_or_not() -> None:
    context = Context("n1", View())
    commits = Commits(context)
    for revision, pause in ((99, REFUSED_PAUSE), (None, UNANSWERED_PAUSE)):
        context.now += 10.0
        refuse(context, commits, revision)
        assert commits.next_pause_end(context.now) == context.now + pause
        assert math.isinf(commits.next_pause_end(context.now + pause))
        context.now += pause
        assert commits.free(Farewell())


def test_a_node_does_not_look_again_and_again_for_a_refused_commit_that_has_become_superfluous() -> None:
    cluster = Slow("n1", hangs=lambda *_: False)
    cluster.until_served(ADDRESSES, 20)
    cluster.run(5)
    node = cluster.nodes["n1"]
    refuse(node.parts.context, node.parts.commits, cluster.core.revision)
    at_once = 0
    for _ in range(40):
        cluster.pass_time()
        at_once += node.next_wakeup() <= node.parts.context.now + LOOK_AGAIN
    assert at_once <= 5, "the end of the pause, and beats"
