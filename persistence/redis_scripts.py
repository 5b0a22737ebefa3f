"""The Lua that the Redis store runs, and the names of its keys. Format 1.

    PREFIX:meta                HASH   uuid, format, partitions, created_unix_s, generation, who is present
    PREFIX:{pNNN}:lease        HASH   store (the uuid), owner, nonce, number, until (ms, server's TIME), and counters
    PREFIX:{pNNN}:index        ZSET   session ids by the order in which they were first stored
    PREFIX:{pNNN}:tombs        ZSET   ids of ended sessions, by the order of their ends
    PREFIX:{pNNN}:quarantine   LIST   what could not be read
    PREFIX:{pNNN}:s:<id>       HASH   v revision, h header, r record            expires
    PREFIX:{pNNN}:l:<id>       LIST   the log: entries in order of their sequence, each with its place in clear; expires
    PREFIX:{pNNN}:h:<id>       LIST   the history, in the same form; expires

Everything of a partition has one hash tag, so one slot: a script over it runs whole on one node of a cluster. The lease
never expires and is never deleted: its number must not restart. Each lease has the store's uuid, which every script
compares: a server that was emptied, exchanged or lost one node is noticed by the very next call, reads included.

A list for the log, because a stream costs 4.3 KB for each key, a hash 90 bytes for each entry, and a list nothing:
what is at the ends is what is needed, the last sequence to tell new entries from those that are stored, the first to
trim. So entries have to come in order. One key for a session rather than a field in the partition's hash: fields cannot
expire on Redis 7.

Servers answer "no room" before a script begins, never in the midst of one. Some say that
they run all the same: what makes room, or leads to it (opening, claiming); and `COMMIT_ANYWAY` for batches that have
been admitted (`redis_keeper.py`).

Redis of before 7 does not know the first lines. No script uses strings' order (it follows the locale).
"""

from __future__ import annotations

FORMAT = 1

# Arguments of all scripts: the prefix of the partition's keys, the store's uuid, then what is said at each.
SAME_STORE = """
local commits
local function foreign(at)
  local kept = redis.call('HMGET', at .. 'lease', 'store', 'commits')
  commits = kept[2] or 0
  return kept[1] ~= ARGV[2]
end
"""

# ARGV[3] nonce, ARGV[4] number: the fence. Gives nil when it is in force, and how often was committed under the lease.
FENCE = """
local now
local function now_ms()
  if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return now
end
local function refusal(at)
  local held = redis.call('HMGET', at .. 'lease', 'store', 'nonce', 'number', 'until', 'owner', 'commits')
  if held[1] ~= ARGV[2] then return {'foreign', at} end
  if ARGV[3] == '' or held[2] ~= ARGV[3] or held[3] ~= ARGV[4] then return {'fenced', at, held[5] or ''} end
  if held[4] ~= '0' and tonumber(held[4]) < now_ms() then return {'expired', at} end
  return nil, tonumber(held[6] or 0)
end
"""

READING = "#!lua flags=no-writes\n"
WRITING = "#!lua\n"
_FREEING = "#!lua flags=allow-oom\n"

# ARGV[1] prefix of all keys. ARGV[5] milliseconds that everything outlives its session's expiry by, ARGV[6] tombstones
# kept in a partition, ARGV[7] groups: {tag, snapshots, logs, trims, tombstones}, all as msgpack. A log, and a
# trim, names its list without the partition: "l:<id>". ARGV[8] for each group, how many commits the owner knows in its
# partition, as msgpack. A partition that has fewer has gone back (`redis_history.py`). Gives the numbers that these
# commits have there.
_COMMIT = """
local margin, tombs_max = tonumber(ARGV[5]), tonumber(ARGV[6])
local groups, expected, numbers = cmsgpack.unpack(ARGV[7]), cmsgpack.unpack(ARGV[8]), {}
for i, group in ipairs(groups) do
  local refused, commits = refusal(ARGV[1] .. group[1])
  if refused then return refused end
  if commits and commits < expected[i] then return {'behind', group[1]} end
end
-- Counts even where all is stored already: WAIT counts from this connection's last write, and what is sent again
-- because too few replicas had it must be counted again.
for i, group in ipairs(groups) do
  numbers[i] = redis.call('HINCRBY', ARGV[1] .. group[1] .. 'lease', 'commits', 1)
end
local function sequence_of(entry)
  return entry and struct.unpack('>I8', entry) or 0
end
-- With an hour more than is asked for: most commits then find that there is enough, and expiries, which go to the file
-- and to replicas as commits do, are written once an hour.
local function outlive(key, ttl)
  if redis.call('PTTL', key) >= ttl then return false end
  redis.call('PEXPIRE', key, ttl + 3600000)
  return true
end
for _, group in ipairs(groups) do
  local at = ARGV[1] .. group[1]
  local lease, index, tombs = at .. 'lease', at .. 'index', at .. 'tombs'
  local some_buried = redis.call('EXISTS', tombs) == 1
  local function buried(id)
    return some_buried and redis.call('ZSCORE', tombs, id)
  end
  local longest = 0
  for _, one in ipairs(group[2]) do
    local id, revision, header, record, ttl = unpack(one)
    if not buried(id) then
      local key = at .. 's:' .. id
      local kept = redis.call('HGET', key, 'v')
      if not kept or tonumber(kept) < revision then
        redis.call('HSET', key, 'v', revision, 'h', header, 'r', record)
        if outlive(key, ttl) then
          outlive(at .. 'l:' .. id, ttl)
          outlive(at .. 'h:' .. id, ttl)
        end
        if not kept then redis.call('ZADD', index, redis.call('HINCRBY', lease, 'position', 1), id) end
        if ttl > longest then longest = ttl end
      end
    end
  end
  if longest > 0 then outlive(index, longest) end
  for _, one in ipairs(group[3]) do
    local key, entries = at .. one[1], one[2]
    local id = string.sub(one[1], 3)
    if not buried(id) then
      local last, fresh = sequence_of(redis.call('LINDEX', key, -1)), {}
      for _, entry in ipairs(entries) do
        local sequence = sequence_of(entry)
        if sequence > last then
          fresh[#fresh + 1] = entry
          last = sequence
        end
      end
      for from = 1, #fresh, 500 do
        redis.call('RPUSH', key, unpack(fresh, from, math.min(from + 499, #fresh)))
      end
      if #fresh > 0 then outlive(key, math.max(redis.call('PTTL', at .. 's:' .. id), margin)) end
    end
  end
  for _, one in ipairs(group[4]) do
    local key, through = at .. one[1], one[2]
    local first = redis.call('LINDEX', key, 0)
    if first then
      -- Sequences rise by one at least: so many entries at most, exactly so many where none is missing.
      local count = math.min(redis.call('LLEN', key), through - sequence_of(first) + 1)
      while count > 0 and sequence_of(redis.call('LINDEX', key, count - 1)) > through do count = count - 1 end
      if count > 0 then redis.call('LTRIM', key, count, -1) end
    end
  end
  for _, id in ipairs(group[5]) do
    redis.call('UNLINK', at .. 's:' .. id, at .. 'l:' .. id, at .. 'h:' .. id)
    redis.call('ZREM', index, id)
    redis.call('ZADD', tombs, 'NX', redis.call('HINCRBY', lease, 'buried', 1), id)
  end
  if #group[5] > 0 then
    redis.call('ZREMRANGEBYRANK', tombs, 0, -tombs_max - 1)
    redis.call('PEXPIRE', tombs, margin)
  end
end
return {'done', table.concat(numbers, ' ')}
"""

COMMIT = WRITING + FENCE + _COMMIT
COMMIT_ANYWAY = _FREEING + FENCE + _COMMIT

# Whether a commit to this partition would be refused, by its fence or for want of room; changes nothing.
ADMIT = WRITING + FENCE + "return (refusal(ARGV[1])) or {'done'}"

# ARGV[3] the session's list, [4] stream, [5] after which offset, [6] how many.
READ_LOG = (
    READING
    + SAME_STORE
    + """
if foreign(ARGV[1]) then return {'foreign', ARGV[1]} end
local key, found = ARGV[1] .. ARGV[3], {'done', commits}
local stream, after, limit = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local length, from = redis.call('LLEN', key), 0
while from < length and #found < limit + 2 do
  for _, entry in ipairs(redis.call('LRANGE', key, from, from + 99)) do
    local _, its_stream, offset = struct.unpack('>I8I8I8', entry)
    if its_stream == stream and offset > after and #found < limit + 2 then found[#found + 1] = entry end
  end
  from = from + 100
end
return found
"""
)

# ARGV[3] after which position, [4] how many. Headers come as one string, because they describe their own length and a
# client in Python takes longer to cut a reply into its parts than the server to make it.
SCAN = (
    READING
    + SAME_STORE
    + """
if foreign(ARGV[1]) then return {'foreign', ARGV[1]} end
local rows = redis.call('ZRANGEBYSCORE', ARGV[1] .. 'index', '(' .. ARGV[3], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
local positions, headers, gone = {}, {}, {}
for i = 1, #rows, 2 do
  local header = redis.call('HGET', ARGV[1] .. 's:' .. rows[i], 'h')
  if header then
    positions[#positions + 1] = rows[i + 1]
    headers[#headers + 1] = header
  elseif #gone < 1000 then  -- as many as a script can return; the next scan finds the others
    gone[#gone + 1] = rows[i]
  end
end
return {'done', commits, table.concat(positions, ' '), table.concat(headers), rows[#rows] or '', unpack(gone)}
"""
)

# ARGV[3...] sessions whose keys have expired: their place in the index is to go, unless they are there again.
SWEEP = (
    _FREEING
    + """
for i = 3, #ARGV do
  if redis.call('EXISTS', ARGV[1] .. 's:' .. ARGV[i]) == 0 then redis.call('ZREM', ARGV[1] .. 'index', ARGV[i]) end
end
return {'done'}
"""
)

# ARGV[3] the session, [4] the record that cannot be read, [5] its header from now on, [6] what to set aside.
SET_ASIDE = (
    WRITING
    + SAME_STORE
    + """
local key = ARGV[1] .. 's:' .. ARGV[3]
if foreign(ARGV[1]) then return {'foreign', ARGV[1]} end
if redis.call('HGET', key, 'r') == ARGV[4] then
  redis.call('RPUSH', ARGV[1] .. 'quarantine', ARGV[6])
  redis.call('HSET', key, 'h', ARGV[5], 'r', '')
end
return {'done'}
"""
)

# The partition as it is in a new store, unless it is there. ARGV[3] the number below which no fence may be given out.
BEGIN = (
    _FREEING
    + """
local lease = ARGV[1] .. 'lease'
local made = redis.call('HSETNX', lease, 'store', ARGV[2])
if made == 1 then redis.call('HSET', lease, 'owner', '', 'nonce', '', 'number', ARGV[3], 'until', 0) end
return {'done', made, redis.call('HGET', lease, 'store')}
"""
)

# ARGV[3] nonce, [4] number, [5] owner. Leases that are claimed have no end, and give way to whoever asks.
CLAIM = (
    _FREEING
    + SAME_STORE
    + """
local lease = ARGV[1] .. 'lease'
if foreign(ARGV[1]) then return {'foreign', ARGV[1]} end
local held = redis.call('HMGET', lease, 'number', 'nonce')
if tonumber(held[1]) >= tonumber(ARGV[4]) and not (held[1] == ARGV[4] and held[2] == ARGV[3]) then
  return {'behind', held[1]}
end
redis.call('HSET', lease, 'owner', ARGV[5], 'nonce', ARGV[3], 'number', ARGV[4], 'until', 0)
return {'done'}
"""
)

# ARGV[3] nonce, [4] owner, [5] for how many milliseconds.
ACQUIRE = (
    _FREEING
    + SAME_STORE
    + """
local lease = ARGV[1] .. 'lease'
if foreign(ARGV[1]) then return {'foreign', ARGV[1]} end
local held = redis.call('HMGET', lease, 'owner', 'nonce', 'until')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(held[3]) >= now and not (held[1] == ARGV[4] and held[2] == ARGV[3]) then
  return {'held', held[1], tostring(tonumber(held[3]) - now)}
end
local untill = string.format('%.0f', now + tonumber(ARGV[5]))
local number = redis.call('HINCRBY', lease, 'number', 1)
redis.call('HSET', lease, 'owner', ARGV[4], 'nonce', ARGV[3], 'until', untill)
return {'done', number, untill}
"""
)

# ARGV[3] nonce, [4] number, [5] for how many milliseconds.
RENEW = (
    _FREEING
    + FENCE
    + """
local refused = refusal(ARGV[1])
if refused then return refused end
local untill = string.format('%.0f', now_ms() + tonumber(ARGV[5]))
redis.call('HSET', ARGV[1] .. 'lease', 'until', untill)
return {'done', untill}
"""
)

# ARGV[3] nonce, [4] number. The number stays; what was granted under it is over.
RELEASE = (
    _FREEING
    + FENCE
    + """
local refused = refusal(ARGV[1])
if refused and refused[1] ~= 'expired' then return refused end
redis.call('HSET', ARGV[1] .. 'lease', 'owner', '', 'nonce', '', 'until', 0)
return {'done'}
"""
)

# KEYS[1] the meta key; ARGV[1] the uuid that it must have, [2] an owner and [3] its nonce, [4] for how many
# milliseconds it is to count as there; with 0, it has left.
PRESENT = (
    _FREEING
    + """
if redis.call('HGET', KEYS[1], 'uuid') ~= ARGV[1] then return {'foreign', KEYS[1]} end
if ARGV[4] == '0' then
  if redis.call('HGET', KEYS[1], 'present_nonce') == ARGV[3] then redis.call('HSET', KEYS[1], 'present_until', 0) end
  return {'done'}
end
local time = redis.call('TIME')
local untill = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], 'present_owner', ARGV[2], 'present_nonce', ARGV[3], 'present_until', untill)
return {'done'}
"""
)

# KEYS[1] the meta key; ARGV[1] a uuid, [2] the format, [3] partitions, [4] now: what a new store gets.
FOUND = (
    _FREEING
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'uuid', ARGV[1], 'format', ARGV[2], 'partitions', ARGV[3], 'created_unix_s', ARGV[4],
    'generation', 0)
end
return redis.call('HMGET', KEYS[1], 'uuid', 'format', 'partitions', 'generation')
"""
)

# KEYS[1] the meta key; ARGV[1] the uuid that it must have, [2] a field and [3] its value; numbers only rise.
_NOTE = """
if redis.call('HGET', KEYS[1], 'uuid') ~= ARGV[1] then return {'foreign', KEYS[1]} end
if tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or 0) <= tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
end
return {'done', redis.call('HGET', KEYS[1], 'generation')}
"""
# The same arguments; any value.
KEEP = (
    _FREEING
    + """
if redis.call('HGET', KEYS[1], 'uuid') ~= ARGV[1] then return {'foreign', KEYS[1]} end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
return {'done', 0}
"""
)
NOTE = _FREEING + _NOTE
PROBE = WRITING + _NOTE  # is refused where a commit would be

ALL = (
    COMMIT,
    COMMIT_ANYWAY,
    ADMIT,
    READ_LOG,
    SCAN,
    SWEEP,
    SET_ASIDE,
    BEGIN,
    CLAIM,
    ACQUIRE,
    RENEW,
    RELEASE,
    PRESENT,
    FOUND,
    KEEP,
    NOTE,
    PROBE,
)
