"""The parts of one node, each with one subject.

Rules of this file: it puts the parts together and decides nothing. A part knows only the parts that its constructor
takes. Subjects that need several at once (:mod:`locum.rules.membership`, ``beats``, ``agenda``, ``health``) get them
all.
"""

from __future__ import annotations

from locum.rules.activity import Activity
from locum.rules.chronicle import Chronicle
from locum.rules.commits import Commits
from locum.rules.context import Context
from locum.rules.following import Following
from locum.rules.history import History
from locum.rules.hold import FailureDetector, OwnHold
from locum.rules.identity import Identity
from locum.rules.joining import Joining
from locum.rules.leading import Leading
from locum.rules.leaving import Leaving
from locum.rules.lookout import Lookout
from locum.rules.monitoring import Monitoring
from locum.rules.obstacles import Obstacles
from locum.rules.serving import Serving
from locum.rules.view import View


class Parts:
    """All parts of one node."""

    def __init__(self, identity: Identity, view: View) -> None:
        self.identity = identity
        self.view = view
        self.context = context = Context(identity.name, view)
        self.commits = Commits(context)
        self.activity = Activity(context)
        self.history = History(context, identity)
        self.hold = OwnHold(identity.hold)
        self.detector = FailureDetector(self.hold.interval)
        self.chronicle = Chronicle(context, self.detector)
        self.obstacles = Obstacles(identity.hold)
        self.lookout = Lookout(context, self.obstacles, identity)
        self.joining = Joining(context, self.commits, identity)
        self.leading = Leading(context, self.commits, self.detector)
        self.following = Following(context, self.commits, self.activity)
        self.serving = Serving(context, self.commits, self.activity)
        self.monitoring = Monitoring(context, self.activity)
        self.leaving = Leaving(context, self.commits, self.activity, self.following, self.leading)
        self.serving.configure(identity)

    def configure(self, identity: Identity) -> None:
        """The configuration was reloaded."""
        self.identity = identity
        self.lookout.configure(identity)
        self.joining.identity = identity
        self.history.identity = identity
        self.serving.configure(identity)
