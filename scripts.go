package main

import "github.com/redis/go-redis/v9"

// The queue engine knows Redis and nothing of what jobs do. Everything of one queue lives under one
// hash tag, tf:{queue}:, so that a Redis Cluster keeps it in one slot. Scripts make their keys of this
// prefix:
//
//	ready:<p>   LIST of ids waiting at priority p; pushed at the tail, taken at the head
//	jobs        HASH id → envelope, for every job the queue has
//	later       ZSET id → when it becomes ready, ms
//	run:<w>     HASH id → priority, of what worker process w holds; having it there is the right to end the job
//	workers     ZSET worker → when it counts as dead, ms
//	tries       HASH id → failed attempts: their number, then a JSON line for each
//	crashes     HASH id → worker processes that died while they held it
//	dead        ZSET id → when it was given up, ms; at most 10 000, for at most 90 days
//	wake        LIST of tokens for idle workers
//	cancel      SET of running ids to be stopped; paused: exists while nothing is handed out
//	stats:<m>   HASH of counters of minute m, kept for 48 hours; recent: LIST of the last ends
//
// Time is Redis's. Every script may run twice with the same arguments, since go-redis repeats a
// command whose answer was lost.

// pushScript adds jobs that the queue does not have. ARGV: (id, priority, run-at ms or 0, envelope)…
var pushScript = redis.NewScript(`
local q = KEYS[1]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local ready, added = {}, 0
for i = 1, #ARGV, 4 do
	local id, p, at = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
	if redis.call('HSETNX', q .. 'jobs', id, ARGV[i + 3]) == 1 then
		added = added + 1
		if at > now then
			redis.call('ZADD', q .. 'later', at, id)
		else
			ready[p] = ready[p] or {}
			table.insert(ready[p], id)
		end
	end
end
for p, ids in pairs(ready) do redis.call('RPUSH', q .. 'ready:' .. p, unpack(ids)) end
if added > 0 then
	local minute = q .. 'stats:' .. math.floor(now / 60000)
	redis.call('HINCRBY', minute, 'pushed', added)
	redis.call('EXPIRE', minute, 172800)
	if redis.call('LLEN', q .. 'wake') < 4 then redis.call('RPUSH', q .. 'wake', '1') end
end
return added`)

// stepScript is a worker's whole traffic, one round trip for many jobs: it ends what the worker
// still holds, makes due jobs ready, hands out up to `want` ready ones and renews the worker's time.
// It needs little memory, so it works when Redis is full: after a first write that frees, a script may
// go on (DEL does for that, also in a step that is only a beat).
//
// ARGV: worker, 1 if it has beaten before, expiry ms, want, 1 if it holds no suspect,
// n done…, n × (id, mode, delay ms, try), n × (counter, add), n recent….
// Returns reaped, or ok, now, next due ms, number held, cancelled ids, (id, tries, envelope)….
var stepScript = redis.NewScript(`
local q, w = KEYS[1], ARGV[1]
local run, jobs = q .. 'run:' .. w, q .. 'jobs'
redis.call('DEL', q .. 'none')
if ARGV[2] == '1' and not redis.call('ZSCORE', q .. 'workers', w) then return {'reaped'} end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local i = 6
local function count() i = i + 1; return tonumber(ARGV[i - 1]) end

local function forget(ids)
	redis.call('HDEL', jobs, unpack(ids))
	if redis.call('EXISTS', q .. 'tries') == 1 then redis.call('HDEL', q .. 'tries', unpack(ids)) end
	if redis.call('EXISTS', q .. 'crashes') == 1 then redis.call('HDEL', q .. 'crashes', unpack(ids)) end
	if redis.call('EXISTS', q .. 'cancel') == 1 then redis.call('SREM', q .. 'cancel', unpack(ids)) end
end
local n = count()
if n > 0 then
	local ids = {unpack(ARGV, i, i + n - 1)}
	i = i + n
	local mine = {}
	local held = redis.call('HMGET', run, unpack(ids))
	for k, id in ipairs(ids) do if held[k] then table.insert(mine, id) end end
	if #mine > 0 then
		redis.call('HDEL', run, unpack(mine))
		forget(mine)
	end
end

for _ = 1, count() do
	local id, mode, ms, try = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
	i = i + 4
	local p = redis.call('HGET', run, id)
	if p then
		redis.call('HDEL', run, id)
		if mode == 'retry' or mode == 'dead' then
			local old = redis.call('HGET', q .. 'tries', id) or '0'
			local cut = string.find(old, '\n', 1, true)
			local failed = tonumber(string.sub(old, 1, (cut or 0) - 1))
			local lines = cut and string.sub(old, cut) or ''
			while #lines > 16384 do lines = string.sub(lines, (string.find(lines, '\n', 2, true) or #lines + 1)) end
			redis.call('HSET', q .. 'tries', id, (failed + 1) .. lines .. '\n' .. try)
		end
		if mode == 'dead' then
			redis.call('ZADD', q .. 'dead', now, id)
			redis.call('SREM', q .. 'cancel', id)
			local over = redis.call('ZCARD', q .. 'dead') - 10000
			local old
			if over > 0 then
				old = redis.call('ZRANGE', q .. 'dead', 0, math.min(over, 256) - 1)
			else
				old = redis.call('ZRANGEBYSCORE', q .. 'dead', '-inf', now - 7776000000, 'LIMIT', 0, 256)
			end
			if #old > 0 then
				redis.call('ZREM', q .. 'dead', unpack(old))
				forget(old)
			end
		elseif mode == 'release' then
			redis.call('LPUSH', q .. 'ready:' .. p, id)
		else
			redis.call('ZADD', q .. 'later', now + ms, id)
		end
	end
end

local minute = q .. 'stats:' .. math.floor(now / 60000)
local counters = count()
for _ = 1, counters do
	redis.call('HINCRBY', minute, ARGV[i], ARGV[i + 1])
	i = i + 2
end
if counters > 0 then redis.call('EXPIRE', minute, 172800) end
local ends = count()
if ends > 0 then
	redis.call('LPUSH', q .. 'recent', unpack(ARGV, i, i + ends - 1))
	redis.call('LTRIM', q .. 'recent', 0, 999)
end

local due = redis.call('ZRANGEBYSCORE', q .. 'later', '-inf', now, 'LIMIT', 0, 256)
if #due > 0 then
	redis.call('ZREM', q .. 'later', unpack(due))
	for k, text in ipairs(redis.call('HMGET', jobs, unpack(due))) do
		if text then redis.call('RPUSH', q .. 'ready:' .. string.sub(text, 1, 1), due[k]) end
	end
end
local first = redis.call('ZRANGE', q .. 'later', 0, 0, 'WITHSCORES')

local taken = {}
local want = tonumber(ARGV[4])
if want > 0 and redis.call('EXISTS', q .. 'paused') == 0 then
	local full, last = 0, nil
	for p = 0, 3 do
		if redis.call('LLEN', q .. 'ready:' .. p) > 0 then full, last = full + 1, p end
	end
	local ids, at = {}, {}
	if full == 1 then
		ids = redis.call('LPOP', q .. 'ready:' .. last, want)
		for k = 1, #ids do at[k] = last end
	elseif full > 1 then
		local turn = '010201030102010'
		local tick = redis.call('INCRBY', q .. 'turn', want)
		for k = 1, want do
			local p = (tick - want + k) % 15 + 1
			p = tonumber(string.sub(turn, p, p))
			local id = redis.call('LPOP', q .. 'ready:' .. p)
			if not id then
				for o = 0, 3 do
					id = redis.call('LPOP', q .. 'ready:' .. o)
					if id then p = o; break end
				end
			end
			if not id then break end
			ids[k], at[k] = id, p
		end
	end
	if #ids > 0 then
		local texts = redis.call('HMGET', jobs, unpack(ids))
		local tries = redis.call('EXISTS', q .. 'tries') == 1 and redis.call('HMGET', q .. 'tries', unpack(ids)) or {}
		local crashed = redis.call('EXISTS', q .. 'crashes') == 1 and redis.call('HMGET', q .. 'crashes', unpack(ids)) or {}
		local alone = ARGV[5] == '1'
		local set = {}
		for k, id in ipairs(ids) do
			local suspect = crashed[k] and tonumber(crashed[k]) >= 2
			if texts[k] and suspect and not alone then
				redis.call('ZADD', q .. 'later', now + 200, id)
			elseif texts[k] then
				if suspect then alone = false end
				table.insert(set, id)
				table.insert(set, at[k])
				table.insert(taken, id)
				table.insert(taken, (suspect and '!' or '') .. (string.match(tries[k] or '0', '^%d+')))
				table.insert(taken, texts[k])
			end
		end
		if #set > 0 then redis.call('HSET', run, unpack(set)) end
		if #ids == want and redis.call('LLEN', q .. 'wake') < 4 then redis.call('RPUSH', q .. 'wake', '1') end
	end
end
redis.call('ZADD', q .. 'workers', now + tonumber(ARGV[3]), w)
return {'ok', now, first[2] or '0', redis.call('HLEN', run), redis.call('SMEMBERS', q .. 'cancel'), taken}`)

// reapScript gives back what dead workers held, to the head of its list. A job that was held in
// three crashes is dead. ARGV: try line of a crash. Returns the number of jobs moved.
var reapScript = redis.NewScript(`
local q = KEYS[1]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local moved = 0
for _, w in ipairs(redis.call('ZRANGEBYSCORE', q .. 'workers', '-inf', now, 'LIMIT', 0, 8)) do
	local run = q .. 'run:' .. w
	local held = redis.call('HGETALL', run)
	for k = 1, math.min(#held, 512), 2 do
		local id, p = held[k], held[k + 1]
		redis.call('HDEL', run, id)
		moved = moved + 1
		if redis.call('HINCRBY', q .. 'crashes', id, 1) >= 3 then
			redis.call('HDEL', q .. 'crashes', id)
			redis.call('HSET', q .. 'tries', id, '1\n' .. ARGV[1])
			redis.call('ZADD', q .. 'dead', now, id)
			redis.call('RPUSH', q .. 'poisoned', id)
		else
			redis.call('LPUSH', q .. 'ready:' .. p, id)
		end
	end
	if #held <= 512 then redis.call('ZREM', q .. 'workers', w) end
end
if moved > 0 then redis.call('RPUSH', q .. 'wake', '1') end
return moved`)

// leaveScript takes a worker that stops off the list and gives back what it holds, to the head: also
// jobs that it does not know of, as the answer that had them was lost. ARGV: worker. Returns how many.
var leaveScript = redis.NewScript(`
local q, w = KEYS[1], ARGV[1]
local run = q .. 'run:' .. w
local held = redis.call('HGETALL', run)
redis.call('DEL', run)
redis.call('ZREM', q .. 'workers', w)
for k = 1, #held, 2 do redis.call('LPUSH', q .. 'ready:' .. held[k + 1], held[k]) end
if #held > 0 then redis.call('RPUSH', q .. 'wake', '1') end
return #held / 2`)

// missingScript tells which jobs that live in the database the queue does not have to give: those
// without a text, and those among the dead, from where an operator revived them when a server was
// behind that has since taken over. Poisoned ones are left out, which the database may still have to
// hear of. ARGV: ids. Returns ids.
var missingScript = redis.NewScript(`
local q, missing = KEYS[1], {}
for _, id in ipairs(ARGV) do
	if redis.call('HEXISTS', q .. 'jobs', id) == 0
		or redis.call('ZSCORE', q .. 'dead', id) and not redis.call('LPOS', q .. 'poisoned', id) then
		table.insert(missing, id)
	end
end
return missing`)

// resetScript forgets dead and delayed jobs, so that they can be pushed anew. Their failed attempts
// are kept to be read, but count no more. ARGV: ids. Returns how many.
var resetScript = redis.NewScript(`
local q, n = KEYS[1], 0
for _, id in ipairs(ARGV) do
	if redis.call('ZREM', q .. 'dead', id) + redis.call('ZREM', q .. 'later', id) > 0 then
		n = n + redis.call('HDEL', q .. 'jobs', id)
		local tries = redis.call('HGET', q .. 'tries', id)
		if tries then redis.call('HSET', q .. 'tries', id, (string.gsub(tries, '^%d+', '0', 1))) end
	end
end
return n`)

// removeScript forgets jobs, and asks for the end of those that run. An id may stay in a ready
// list; without its text it is passed over. ARGV: ids.
var removeScript = redis.NewScript(`
local q = KEYS[1]
local running = {}
for _, w in ipairs(redis.call('ZRANGE', q .. 'workers', 0, -1)) do
	for k, held in ipairs(redis.call('HMGET', q .. 'run:' .. w, unpack(ARGV))) do
		if held then running[ARGV[k]] = true end
	end
end
for _, id in ipairs(ARGV) do
	redis.call('ZREM', q .. 'dead', id)
	redis.call('ZREM', q .. 'later', id)
	if running[id] then
		redis.call('SADD', q .. 'cancel', id)
	else
		redis.call('HDEL', q .. 'jobs', id)
		redis.call('HDEL', q .. 'tries', id)
		redis.call('HDEL', q .. 'crashes', id)
	end
end
return #ARGV`)

// epochScript names the present life of the queue's data: by a name kept among them, and by the
// server that has them. Where it would be first, as after a flush, ARGV is the name.
var epochScript = redis.NewScript(`
local q = KEYS[1]
local name = redis.call('GET', q .. 'epoch')
if not name then
	name = ARGV[1]
	redis.call('SET', q .. 'epoch', name)
end
return name .. ' ' .. (string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or '')`)

// clockLua asks the time of the server that has the queue: TIME itself may go to any of a Cluster.
const clockLua = `local t = redis.call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000)`
