"""The parts of one node, each with a subject of its own.

Rules of this file: it puts the parts together and decides nothing. A part knows the others only as far as its
constructor says; what takes several of them at once (:mod:`locum.cluster.membership`, ``beats``, ``agenda``,
``health``) gets them all.
"""

from __future__ import annotations

from locum.cluster.activity import Activity
from locum.cluster.checking import Checking
from locum.cluster.commits import Commits
from locum.cluster.context import Context
from locum.cluster.following import Following
from locum.cluster.history import History
from locum.cluster.hold import Observers, OwnHold
from locum.cluster.identity import Identity
from locum.cluster.joining import Joining
from locum.cluster.leading import Leading
from locum.cluster.leaving import Leaving
from locum.cluster.lookout import Lookout
from locum.cluster.obstacles import Obstacles
from locum.cluster.serving import Serving
from locum.cluster.view import View


class Parts:
    """What one node consists of."""

    def __init__(self, identity: Identity, view: View) -> None:
        self.identity = identity
        self.view = view
        self.context = context = Context(identity.name, view)
        self.commits = Commits(context)
        self.activity = Activity(context)
        self.history = History(context, identity)
        self.hold = OwnHold(identity.hold)
        self.observers = Observers(self.hold.interval)
        self.obstacles = Obstacles(identity.hold)
        self.lookout = Lookout(context, self.obstacles, identity)
        self.joining = Joining(context, self.commits, identity)
        self.leading = Leading(context, self.commits, self.observers)
        self.following = Following(context, self.commits, self.activity)
        self.serving = Serving(context, self.commits, self.activity)
        self.checking = Checking(context, self.activity)
        self.leaving = Leaving(context, self.commits, self.activity, self.following, self.leading)
        self.serving.configure(identity)

    def configure(self, identity: Identity) -> None:
        """The configuration was reloaded."""
        self.identity = identity
        self.lookout.configure(identity)
        self.joining.identity = identity
        self.history.identity = identity
        self.serving.configure(identity)
