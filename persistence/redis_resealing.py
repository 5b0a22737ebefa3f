"""Keys in the Redis store: which records are under which, and how they get under another one.

A rewriting goes through the partitions, in each through the sessions in the order of its index, each session's snapshot
before its log, and that before its call history, as if the two were one list; where it is, is written
`PARTITION:POSITION:ENTRY`. A page is read by one script and written by another, which checks the fence; nobody else
writes between the two, since there is one owner, and one thread that does its jobs. What expires meanwhile stays gone.

Unlike a commit it is not counted in the history (`redis_history.py`): it changes how facts lie there, and no fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import msgpack

from persistence import redis_records
from persistence.codec import Codec
from persistence.envelope import HEAD_BYTES, KEY_ID_AT, KEY_ID_BYTES
from persistence.partitions import PARTITIONS
from persistence.records import Fence
from persistence.redis_asking import NO_FENCE, RedisAsker
from persistence.redis_records import PLACE_BYTES
from persistence.redis_scripts import FENCE, READING, SAME_STORE, WRITING
from persistence.resealing import (
    PAGE_BYTES_MAX,
    PAGE_RECORDS,
    Resealed,
    SealedWith,
    count_by_key,
    resealed_entry,
    resealed_snapshot,
)

_RECORDS_AT_ONCE = 5000  # looked at by one run of a script, which stops the server for some milliseconds
_SNAPSHOT = -1  # in place of an entry's place in its log

# ARGV[3] after which position, [4] how many records to look at; [5] the head whose sessions are to be named, or "";
# [6] "1": count the logs, too. Gives where to go on ("": that was all), heads of snapshots with their counts, heads of
# entries with theirs; or the names.
_HEADS = (
    READING
    + SAME_STORE
    + f"""
if foreign(ARGV[1]) then return {{'foreign', ARGV[1]}} end
local index, left, wanted, logs = ARGV[1] .. 'index', tonumber(ARGV[4]), ARGV[5], ARGV[6] == '1'
local snapshots, entries, names, position = {{}}, {{}}, {{}}, ARGV[3]
local function count(heads, head) heads[head] = (heads[head] or 0) + 1 end
local function listed(heads)
  local list = {{}}
  for head, number in pairs(heads) do list[#list + 1] = {{head, number}} end
  return list
end
local rows = redis.call('ZRANGEBYSCORE', index, '(' .. position, '+inf', 'WITHSCORES', 'LIMIT', 0, left)
local done = #rows < 2 * left
for i = 1, #rows, 2 do
  local record = redis.call('HGET', ARGV[1] .. 's:' .. rows[i], 'r')
  if record and record ~= '' then
    local head = string.sub(record, 1, {HEAD_BYTES})
    count(snapshots, head)
    if head == wanted then names[#names + 1] = rows[i] end
  end
  left = left - 1
  if logs then
    for _, log in ipairs({{'l:', 'h:'}}) do
      local key = ARGV[1] .. log .. rows[i]
      for from = 0, redis.call('LLEN', key) - 1, 50 do
        for _, entry in ipairs(redis.call('LRANGE', key, from, from + 49)) do
          count(entries, string.sub(entry, {PLACE_BYTES} + 1, {PLACE_BYTES} + {HEAD_BYTES}))
          left = left - 1
        end
      end
    end
  end
  position = rows[i + 1]
  if left <= 0 and i + 1 < #rows then
    done = false
    break
  end
end
local after = done and '' or position
if wanted ~= '' then return {{'done', after, cmsgpack.pack(names)}} end
return {{'done', after, cmsgpack.pack(listed(snapshots)), cmsgpack.pack(listed(entries))}}
"""
)

# ARGV[3] a position, [4] the place in its session's log to begin with, or "-1": with the session after it; [5] the key
# id that is wanted, [6] records and [7] bytes to stop at. Gives where to go on ("" and -1: that was the partition), and
# rows: session, header, place, record.
_STALE = (
    READING
    + SAME_STORE
    + f"""
if foreign(ARGV[1]) then return {{'foreign', ARGV[1]}} end
local position, from, wanted = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local records, bytes, found, size = tonumber(ARGV[6]), tonumber(ARGV[7]), {{}}, 0
local function look(id, header, place, record, at)
  if string.sub(record, at + {KEY_ID_AT} + 1, at + {KEY_ID_AT} + {KEY_ID_BYTES}) == wanted then return end
  found[#found + 1] = {{id, header, place, record}}
  size = size + #record
end
local function is_full() return #found >= records or size >= bytes end
local first = from < 0 and '(' .. position or position
local rows = redis.call('ZRANGEBYSCORE', ARGV[1] .. 'index', first, '+inf', 'WITHSCORES', 'LIMIT', 0, records)
for i = 1, #rows, 2 do
  local id, log, calls = rows[i], ARGV[1] .. 'l:' .. rows[i], ARGV[1] .. 'h:' .. rows[i]
  position = rows[i + 1]
  if from < 0 then
    local kept = redis.call('HMGET', ARGV[1] .. 's:' .. id, 'h', 'r')
    if kept[2] and kept[2] ~= '' then look(id, kept[1], {_SNAPSHOT}, kept[2], 0) end
    from = 0
  end
  local events = redis.call('LLEN', log)
  local length = events + redis.call('LLEN', calls)
  while from < length do
    if is_full() then return {{'done', position, from, cmsgpack.pack(found)}} end
    local list, first_entry = log, from
    if from >= events then list, first_entry = calls, from - events end
    for _, entry in ipairs(redis.call('LRANGE', list, first_entry, first_entry + 9)) do
      if is_full() then break end
      look(id, '', from, entry, {PLACE_BYTES})
      from = from + 1
    end
  end
  from = -1
  if is_full() then return {{'done', position, from, cmsgpack.pack(found)}} end
end
return {{'done', #rows < 2 * records and '' or position, -1, cmsgpack.pack(found)}}
"""
)

# ARGV[3] nonce, [4] number, [5] rows: session, place, record.
_RESEAL = (
    WRITING
    + FENCE
    + f"""
local refused = refusal(ARGV[1])
if refused then return refused end
for _, row in ipairs(cmsgpack.unpack(ARGV[5])) do
  local id, place, record = unpack(row)
  if place == {_SNAPSHOT} then
    local key = ARGV[1] .. 's:' .. id
    if redis.call('HEXISTS', key, 'v') == 1 then redis.call('HSET', key, 'r', record) end
  else
    local key = ARGV[1] .. 'l:' .. id
    local events = redis.call('LLEN', key)
    if place >= events then key, place = ARGV[1] .. 'h:' .. id, place - events end
    local there = redis.call('LINDEX', key, place)
    if there and string.sub(there, 1, {PLACE_BYTES}) == string.sub(record, 1, {PLACE_BYTES}) then
      redis.call('LSET', key, place, record)
    end
  end
end
return {{'done'}}
"""
)

SCRIPTS = (_HEADS, _STALE, _RESEAL)


@attrs.frozen
class _Place:
    """Where a rewriting is."""

    partition: int
    position: str = "0"
    entry: int = -1

    @classmethod
    def read(cls, text: str) -> _Place:
        partition, position, entry = (text or "0:0:-1").split(":")
        return cls(int(partition), position, int(entry))

    def write(self) -> str:
        return f"{self.partition}:{self.position}:{self.entry}"


class RedisResealing:
    """Looks at how records are sealed, and seals them anew."""

    def __init__(self, asker: RedisAsker) -> None:
        self._asker = asker

    def obstacles(self, codec: Codec) -> Mapping[str, str]:
        """Give the sessions that this codec cannot open, and why.

        There are few kinds of heads, however many records: these are judged, and usually nothing is left to ask.
        """
        found: dict[str, str] = {}
        heads = {bytes(head) for snapshots, _ in self._pages(b"", logs=False) for head, _ in snapshots}
        for head in heads:
            reason = codec.obstacle(head)
            if reason:
                found |= {name.decode(): reason for [names] in self._pages(head, logs=False) for name in names}
        return found

    def sealed_with(self) -> Sequence[SealedWith]:
        """Count the records by key."""
        snapshots: list[tuple[bytes, int]] = []
        entries: list[tuple[bytes, int]] = []
        for of_snapshots, of_entries in self._pages(b"", logs=True):
            snapshots += [(head, count) for head, count in of_snapshots]
            entries += [(head, count) for head, count in of_entries]
        return count_by_key(snapshots, entries)

    def reseal(self, fence: Fence, codec: Codec, after: str) -> Resealed:
        """Rewrite the records of one page."""
        place: _Place | None = _Place.read(after)
        rows: Sequence[Any] = ()
        partition = 0
        while place is not None and not rows:  # most partitions of a store that is nearly done have none
            partition = place.partition
            place, rows = self._read_page(place, codec)
        written, left = _resealed(codec, rows)
        # Even where nothing is to be written: who is not the owner any more is to know.
        words = (fence.nonce, fence.number, msgpack.packb(written, use_bin_type=False))
        self._asker.ask_one(partition, _RESEAL, *words, fence=fence, replicas=self._asker.place.replicas)
        return Resealed(None if place is None else place.write(), len(written), left)

    def _read_page(self, place: _Place, codec: Codec) -> tuple[_Place | None, Sequence[Any]]:
        """Read the stale records of a page, and say where the next one begins."""
        wanted = codec.key_id.to_bytes(KEY_ID_BYTES, "big")
        words = (place.position, place.entry, wanted, PAGE_RECORDS, PAGE_BYTES_MAX)
        _, position, entry, packed = self._asker.ask_one(place.partition, _STALE, *words)
        if position:
            return _Place(place.partition, position.decode(), entry), _unpacked(packed)
        following = place.partition + 1
        return (_Place(following) if following < PARTITIONS else None), _unpacked(packed)

    def _pages(self, head: bytes, *, logs: bool) -> Iterable[list[list[Any]]]:
        """Ask all partitions at once, again and again, until none has more to tell."""
        asker = self._asker
        positions: dict[int, bytes] = dict.fromkeys(range(PARTITIONS), b"0")
        while positions:
            calls = [
                asker.call_partition(one, _HEADS, position, _RECORDS_AT_ONCE, head, int(logs))
                for one, position in positions.items()
            ]
            answers = asker.answers(asker.nodes.ask(calls))
            asker.heed(answers, NO_FENCE)
            told = dict(zip(positions, map(asker.listed, answers), strict=True))
            positions = {one: answer[1] for one, answer in told.items() if answer[1]}
            yield from ([_unpacked(packed) for packed in answer[2:]] for answer in told.values())


def _resealed(codec: Codec, rows: Sequence[Any]) -> tuple[list[Any], int]:
    """Seal rows anew; give those that are to be written, and count those that cannot be opened."""
    written: list[Any] = []
    left = 0
    for session_id, header, place, record in rows:
        if place == _SNAPSHOT:
            [known] = redis_records.unpack_headers(header)
            sealed = resealed_snapshot(codec, known, record)
        else:
            entry = redis_records.unpack_entry(session_id.decode(), record)
            body = resealed_entry(codec, entry)
            sealed = None if body is None else redis_records.pack_entry(entry, body)
        if sealed is None:
            left += 1
        else:
            written.append((session_id, place, sealed))
    return written, left


def _unpacked(packed: bytes) -> list[Any]:
    return list(msgpack.unpackb(packed, raw=True))
