"""The rules of Locum: which node is a member, which one leads, and which one serves which address.

This package decides and does nothing else. It knows no event loop, no socket, no clock and no file: what happens and
what time it is come in as arguments, what is to be done comes out as values (:mod:`~locum.rules.effects`). It is the
only place where a decision about members, claims, plans or the leader is made. The agent on a machine and the simulator
drive the same code.

**The loop that drives it.** A caller owns one :class:`~locum.rules.view.View` and one
:class:`~locum.rules.node.Node`, which reads that view::

    view = View()
    node = Node(identity, view, new_incarnation, adoption)

    while not left:
        await something                          # the store, the kernel, an answer, or node.next_wakeup()
        node.<input>(..., boottime(), unixtime)  # one method for each kind of news
        for effect in node.take_effects():
            start(effect)                        # answers come back as inputs

Every input ends in the same step. It works out the situation once (:class:`~locum.rules.moment.Moment`) and asks for
whatever is missing. There is no memory of "what I was about to do". So a lost message, a crash and a late answer all
lead to the same place, and an input too many does no harm.

**What a caller owes the rules.**

- *Time.* ``now`` is CLOCK_BOOTTIME in seconds and never decreases; ``wall`` is unix time. Only rates of clocks are
  compared between machines. :meth:`~locum.rules.node.Node.tick` is called no later than ``next_wakeup()``.
- *One at a time.* Inputs come from one thread, one after the other. Effects are taken after each and started in their
  order; they run side by side from then on. An input that comes while effects are being started is given at once; what
  it asks for is started after them.
- *Each request is answered once*, by the method that the effect's docstring names; also when the store does not answer
  (``result`` None) or the activity was cancelled.
- *A beat in this order*: take the time, arm the slot of the kernel's gate, then send the commit
  (:class:`~locum.rules.effects.SendBeat`). Safety rests on it.
- *The view.* The caller reads the whole store, gives it to ``view.reset()``, and follows with ``view.apply()`` for
  each later commit, in order and without a gap. After both it calls ``node.view_changed()`` with the keys that the view
  returned. When the watch loses its place, it calls ``node.watch_lost()`` and reads again; on
  :class:`~locum.rules.effects.ReadAnew` it reads again.
- *The store* is linearizable, and a commit takes effect wholly or not at all, only if all its conditions hold.

**What is promised in return.**

- A node asks to take an address only while its hold lasts and while it has the claim (I1, I2). When the hold ends,
  :class:`~locum.rules.effects.DropHold` comes before anything else.
- At most one activity is under way, so scripts never overlap (I5).
- Every write is conditional on the revisions that its decision read (I8). A view that lags costs a retry, never a wrong
  write. Of the commits that share a lane, one is under way at a time (:mod:`~locum.rules.commits`).
- Nothing that the store contains ends a node or raises: records that cannot be read are reported and worked around.
- ``next_wakeup()`` never asks for a busy loop.
- The same inputs in the same order give the same effects, in every process.

**How it is built.** Each module has one subject and begins with what it must not know.

=====================  ===========================================================================================
``schema, view``       what the store holds; this node's mirror of it
``node``               inputs, outputs, the step; ``status`` is what a node says about itself
``parts, context``     the parts of a node, and what they share: name, view, time, effects
``moment``             the situation of one step, as a value
``membership``         the stages of a node's life: the table of turns from one to the next
``beats, hold``        own beats and the hold; when another node's hold is certainly over
``history``            a store that was wiped or restored
``joining, lookout``   becoming a member; other clusters in the same store (``rivals``)
``leading``            taking the lead, expiring silent members, writing plans
``plan, allocation``   states of nodes, which addresses each can serve, and which it is to serve
``following``          the phases of a plan on one node
``serving, claims``    taking and releasing addresses; the right to do so
``first_time, links``  probes before a first take; which interface an address uses (``damping``)
``upkeep, refusals``   held addresses that the kernel loses; addresses that could not be taken
``checking, health``   startup and monitor; what a node tells the others (``obstacles``)
``agenda, activity``   which activity comes next; the one that is under way
``commit_kinds``       the kinds of commits; ``commits`` is their outbox
``leaving``            leaving in order
``admin, explain``     what admins decide; why things are as they are, in words
=====================  ===========================================================================================

``tests/unit/rules/scripts`` shows the rules at work, as text. Begin with ``join.txt``, then read
:mod:`~locum.rules.schema`, :mod:`~locum.rules.node` and :mod:`~locum.rules.membership`.
"""
