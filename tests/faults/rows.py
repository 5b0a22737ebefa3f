"""All rows, in the order of the table; those that need nothing but Python first."""

from __future__ import annotations

from tests.faults.clock_jumps import CLOCK_JUMP
from tests.faults.damage import DAMAGE
from tests.faults.failing_operations import FAILING_OPERATION
from tests.faults.fault import Fault
from tests.faults.full_disk import FULL_DISK, KILLED_FULL
from tests.faults.gateway_kills import GATEWAY
from tests.faults.power_cuts import POWER_CUT
from tests.faults.random_kills import RUNTIME, WRITER
from tests.faults.redis_faults import EMPTIED, FAILED_OVER, FULL, KILLED, SLOW, STOPPED, SUSPENDED, ZOMBIE
from tests.faults.system_calls import EACH_CALL, EACH_SYNC
from tests.faults.zombies import LOCKED

ROWS: tuple[Fault, ...] = (
    CLOCK_JUMP,
    FAILING_OPERATION,
    DAMAGE,
    WRITER,
    RUNTIME,
    GATEWAY,
    LOCKED,
    KILLED,
    STOPPED,
    SLOW,
    FAILED_OVER,
    SUSPENDED,
    FULL,
    EMPTIED,
    ZOMBIE,
    EACH_CALL,
    EACH_SYNC,
    FULL_DISK,
    KILLED_FULL,
    POWER_CUT,
)
