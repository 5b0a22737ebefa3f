"""Partitions: the same for ever, and evenly filled."""

from __future__ import annotations

import secrets

from persistence.partitions import PARTITIONS, partition_of, partitions_of
from persistence.records import Batch, Fence, Trim
from tests.persistence.making import entry, snapshot, tombstone


def test_a_session_s_partition_is_the_same_in_every_version() -> None:
    # Written down, because a change would hide every stored session.
    assert [partition_of(session_id) for session_id in ("", "s", "t", "abc", "żółć")] == [0, 11, 168, 194, 35]
    assert PARTITIONS == 256


def test_random_sessions_fill_partitions_evenly() -> None:
    counts = [0] * PARTITIONS
    for _ in range(PARTITIONS * 100):
        counts[partition_of(secrets.token_urlsafe(16))] += 1
    # 100 each, with a deviation of 10: seven of them is what chance does not do.
    assert all(30 < count < 170 for count in counts)


def test_a_batch_names_the_partitions_of_all_that_it_says() -> None:
    batch = Batch(Fence("a", 1), (snapshot("s"),), (entry("e"),), (Trim("t", 1),), (tombstone("b"),))
    assert partitions_of(batch) == {partition_of(session_id) for session_id in "setb"}
    assert partitions_of(Batch(Fence("a", 1))) == set()
