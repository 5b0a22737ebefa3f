"""What all session actors of one runtime share: the store and its writer, time, links, limits."""

from __future__ import annotations

import attrs
import trio

from actors.analytics import Analytics
from actors.clock import SteadyClock
from actors.connecting import Backoff
from actors.event_log import LogCounts
from actors.link import Connect
from actors.overdue import Timekeeper
from actors.own_tools import OwnTools
from actors.state import Limits
from persistence.store import Store
from persistence.writer import Writer


@attrs.frozen(eq=False)
class Surroundings:
    """Made once, by `open_runtime`."""

    store: Store
    writer: Writer
    clock: SteadyClock
    timekeeper: Timekeeper
    link_nursery: trio.Nursery  # where links and efforts to open them run
    connect: Connect
    limits: Limits = Limits()
    mailbox_max: int = 64  # commands of clients queued for one session
    connect_seconds_max: float = 10.0  # for one attempt to open a link
    store_wait_seconds: float = 5.0  # whoever waits for a commit longer is told that it is in doubt
    backoff: Backoff = Backoff()
    log_epoch: int | None = None  # of this process, where the store may lose what was told: see actors/epochs.py
    own_tools: OwnTools | None = None  # what is answered here and not by the other side
    analytics: Analytics = attrs.field(factory=Analytics)
    log_counts: LogCounts = attrs.field(factory=LogCounts)
    gate_open_always: bool = False  # the negative control of the tests; see actors/gate.py
