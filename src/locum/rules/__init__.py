"""The rules of Locum: which node is a member, which node leads, and which node serves each address.

This package decides and does nothing else. It knows no event loop, socket, clock or file: events and the time come in
as arguments, actions come out as values (:mod:`~locum.rules.effects`). All decisions about members, claims, plans and
the leader are made here. The agent on a machine and the simulator drive the same code.

**The loop that drives it.** A caller owns one :class:`~locum.rules.view.View` and one
:class:`~locum.rules.node.Node`, which reads that view::

    view = View()
    node = Node(identity, view, new_incarnation, adoption)

    while not left:
        await something                          # the store, the kernel, an answer, or node.next_wakeup()
        node.<input>(..., boottime(), unixtime)  # one method for each kind of input
        for effect in node.take_effects():
            start(effect)                        # answers come back as inputs

Every input ends in the same step. The step works out the situation once (:class:`~locum.rules.moment.Moment`) and asks
for everything that is missing. No intention is kept from one step to the next. So a lost message, a crash and a late
answer all lead to the same state, and a superfluous input changes nothing.

**The caller's duties.**

- *Time.* ``now`` is CLOCK_BOOTTIME in seconds and never decreases; ``wall`` is unix time. Only rates of clocks are
  compared between machines. :meth:`~locum.rules.node.Node.tick` is called no later than ``next_wakeup()``.
- *One at a time.* Inputs come from one thread, one after the other. The caller takes the effects after each input and
  starts them in their order; they then run concurrently. An input that comes while effects are being started is given
  at once; its effects are started after them.
- *Each request is answered once*, by the method that the effect's docstring names. This includes a store that does not
  answer (``result`` None) and a cancelled activity.
- *A beat in this order*: take the time, arm the slot of the kernel's gate, then send the commit
  (:class:`~locum.rules.effects.SendBeat`). Safety depends on this order.
- *The store's contents.* The caller reads the whole store and passes it to ``node.store_read()``, then each later
  commit to ``node.store_changed()``, in order and without a gap. When the watch loses its place, it calls
  ``node.watch_lost()`` and reads again; on :class:`~locum.rules.effects.ReadAnew` it reads again.
- *The store* is linearizable, and a commit takes effect wholly or not at all, only if all its conditions hold.

**The promises in return.**

- A node asks to take an address only while its hold lasts and while it has the claim (I1, I2). When the hold ends,
  :class:`~locum.rules.effects.DropHold` comes before any other effect.
- At most one activity is under way, so scripts never overlap (I5).
- Every write is conditional on the revisions that its decision read (I8). An outdated view costs a retry and never
  causes a wrong write. Of the commits that share a lane, one at a time is under way (:mod:`~locum.rules.commits`).
- No content of the store ends a node or raises: unreadable records are reported and worked around.
- ``next_wakeup()`` never asks for a busy loop.
- The same inputs in the same order give the same effects, in every process.

**The modules.** Each has one subject and begins with what it must not know.

=====================  ===========================================================================================
``schema, view``       the keys and records of the store; this node's mirror of them
``node``               inputs, outputs, the step; ``status``: a node's report about itself
``parts, context``     the parts of a node, and their shared name, view, time and effects
``moment``             the situation of one step, as a value
``membership``         the stages of a node's life: the table of turns from one to the next
``beats, hold``        own beats and the hold; the proof that another node's hold has ended
``history``            a store that was wiped or restored
``joining, lookout``   becoming a member; other clusters in the same store (``rivals``)
``leading``            taking the lead, expiring silent members, writing plans
``plan, allocation``   states of nodes, the addresses that each can serve, and those that it is to serve
``following``          the phases of a plan on one node
``serving, claims``    taking and releasing addresses; the right to do so
``first_time, links``  probes before a first take; which interface an address uses (``damping``)
``upkeep, refusals``   held addresses that the kernel loses; addresses that could not be taken
``monitoring``         startup and monitor; ``health``: the node's record for the others (``obstacles``)
``agenda, activity``   the choice of the next activity; the activity under way
``commit_kinds``       the kinds of commits; ``commits`` is their outbox
``leaving``            leaving in order
``admin, explain``     administrators' commands; the reasons of all states, in words
=====================  ===========================================================================================

``tests/unit/rules/scripts`` shows the rules at work, as text. Begin with ``join.txt``. Then read
:mod:`~locum.rules.schema`, :mod:`~locum.rules.node` and :mod:`~locum.rules.membership`.
"""
