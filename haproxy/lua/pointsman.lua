-- What Pointsman runs inside HAProxy. Loaded once per thread (lua-load-per-thread), so nothing here is shared.
--
--   lua.pm_body          fetch: the digest of a request body, sent to the router as argument of `route-body`
--   lua.pm_lookup        action: the same question over HTTP, for sites that do not want SPOE
--   lua.pm_hold          action: holds a request until the router says that it may go
--   lua.pm_choose        action: two servers of the right model, where the router named none
--   lua.pm_place         converter: a server's name -> what makes HAProxy's own balancing hit that server
--   lua.pm_first_token   filter: milliseconds to the first byte of the answer's body
--
-- router/prefix_keys.py and router/body_fields.py are the Python twins of the two halves of the digest; golden vectors
-- hold both sides together. A fetch must never raise: whatever arrives, the digest says what could be read.

local BALANCE_PERCENT, LOOKUP_ADDRESS, LOOKUP_TIMEOUT_MS = ...

-- Bits of proc.pm.body. The configuration keeps requests that need nothing away from here.
local NEEDS_FIELDS, NEEDS_KEYS, NEEDS_FIELDS_WITHOUT_SESSION = 1, 2, 4

local find, sub, byte, pack = string.find, string.sub, string.byte, string.pack

---------------------------------------------------------------------------------------------------------------------
-- Prefix keys

-- Chunks of the prompt: {count, bytes} each, fine at the head, coarser later. 128 chunks reach 320 KiB.
local CHUNKS = { { 16, 512 }, { 24, 1024 }, { 32, 2048 }, { 56, 4096 } }

-- A prompt begins where the first of these keys does; what stands before (model, user, ids) does not shift the chain.
local PROMPT_KEYS = { '"messages"', '"prompt"', '"input"', '"system"', '"tools"' }
local PROMPT_HEAD_BYTES = 4096

-- Offset of the first prompt key in s, or nil. What follows a key found is not searched for the others.
local function first_prompt_key(s)
    local first
    for _, key in ipairs(PROMPT_KEYS) do
        local at = find(s, key, 1, true)
        if at then
            first = at
            s = sub(s, 1, at)
        end
    end
    return first
end

-- The head is searched alone first: five searches of a long body cost more than hashing it.
local function prompt_start(body)
    if #body <= PROMPT_HEAD_BYTES then return first_prompt_key(body) end
    return first_prompt_key(sub(body, 1, PROMPT_HEAD_BYTES)) or first_prompt_key(body)
end

-- Key i is xxh64(chunk i, seed = key i-1): it names the whole prefix up to its end. Full chunks only.
local function prefix_keys(converters, body, start)
    local keys, n, key, at, size = {}, 0, 0, start, #body
    for _, step in ipairs(CHUNKS) do
        local bytes = step[2]
        for _ = 1, step[1] do
            if at + bytes - 1 > size then return table.concat(keys) end
            key = converters:xxh64(sub(body, at, at + bytes - 1), key)
            n = n + 1
            keys[n] = pack("<i8", key)
            at = at + bytes
        end
    end
    return table.concat(keys)
end

---------------------------------------------------------------------------------------------------------------------
-- Fields

local FIELD_MAX_BYTES = 256
local HEAD_BYTES, TAIL_BYTES = 4096, 2048
local MAX_TOKENS_LIMIT = 4294967295

local STRING_VALUE = '^[ \t\r\n]*:[ \t\r\n]*"([^"\\\0-\31\127]*)"'
-- What tells salts apart is enough: one with escapes counts up to the first quote in it.
local SALT_VALUE = '^[ \t\r\n]*:[ \t\r\n]*"([^"]+)"'
local NUMBER_VALUE = '^[ \t\r\n]*:[ \t\r\n]*(%d+)'

local MODEL = { '"model"' }
local SESSION = { '"prompt_cache_key"', '"previous_response_id"', '"session_id"', '"user"' }
local SALT = { '"cache_salt"' }
local MAX_TOKENS = { '"max_tokens"', '"max_completion_tokens"', '"max_output_tokens"' }

-- The value of `key` where it stands as a key of an object: after { or , and before a colon. `last` takes the last one.
local function value_in(s, key, pattern, last, max_bytes)
    local from, found = 1, nil
    while true do
        local at, stop = find(s, key, from, true)
        if not at then return found end
        local before = at - 1
        local c = byte(s, before)
        while c == 32 or c == 10 or c == 13 or c == 9 do
            before = before - 1
            c = byte(s, before)
        end
        if c == 123 or c == 44 then
            local _, _, value = find(s, pattern, stop + 1)
            if value and #value <= max_bytes then
                if not last then return value end
                found = value
            end
        end
        from = stop + 1
    end
end

-- First match in the part before the prompt, else last match in the part after it.
local function field(head, tail, keys, pattern, max_bytes)
    for _, key in ipairs(keys) do
        local value = value_in(head, key, pattern, false, max_bytes) or value_in(tail, key, pattern, true, max_bytes)
        if value then return value end
    end
end

local function fields(converters, body, start, wants_session, wants_salt)
    local size = #body
    local head = sub(body, 1, math.min(start and start - 1 or size, HEAD_BYTES))
    local tail = start and sub(body, math.max(start, size - TAIL_BYTES + 1)) or ""
    local model = field(head, tail, MODEL, STRING_VALUE, FIELD_MAX_BYTES)
    if not model and start and size - start >= TAIL_BYTES then
        model = value_in(body, MODEL[1], STRING_VALUE, true, FIELD_MAX_BYTES)
    end
    local session = wants_session and field(head, tail, SESSION, STRING_VALUE, FIELD_MAX_BYTES)
    local max_tokens = field(head, tail, MAX_TOKENS, NUMBER_VALUE, FIELD_MAX_BYTES)
    local salt = wants_salt and field(head, tail, SALT, SALT_VALUE, HEAD_BYTES)
    return model or "",
        session or "",
        max_tokens and math.min(tonumber(max_tokens), MAX_TOKENS_LIMIT) or 0,
        salt and converters:xxh64(salt, 0) or 0
end

---------------------------------------------------------------------------------------------------------------------
-- The digest: <H len><model><H len><session><I max_tokens><I seen bytes><Q salt>, then 8 bytes a prefix key;
-- little-endian. The salt is xxh64 of `cache_salt`, so that it stays here; 0 without one. Keys bring model and salt
-- along, which say whose keys they are.

local function digest(txn)
    local needs = txn:get_var("proc.pm.body") or 0
    local body = txn.sf:req_body() or ""
    local start = prompt_start(body)
    local wants_session = not txn:get_var("txn.pm.session")
    local model, session, max_tokens, salt, keys = "", "", 0, 0, ""
    local wants_keys = needs & NEEDS_KEYS ~= 0
    if wants_keys or needs & NEEDS_FIELDS ~= 0 or (needs & NEEDS_FIELDS_WITHOUT_SESSION ~= 0 and wants_session) then
        model, session, max_tokens, salt = fields(txn.c, body, start, wants_session, wants_keys)
    end
    if wants_keys and start then keys = prefix_keys(txn.c, body, start) end
    return pack("<s2s2I4I4i8", model, session, max_tokens, #body, salt) .. keys
end

core.register_fetches("pm_body", digest)

---------------------------------------------------------------------------------------------------------------------
-- The lookup over HTTP. Lua sockets cannot outlive their request, so each lookup is one connection. Any failure leaves
-- the variables unset: the configuration then fails open.

local TEXT_ANSWERS = {
    first = "txn.pm.first",
    second = "txn.pm.second",
    prefill = "txn.pm.prefill",
    scope = "txn.pm.scope",
    model = "txn.pm.model",
    reason = "txn.pm.reason",
}
local NUMBER_ANSWERS = {
    status = "txn.pm.status",
    retry_after = "txn.pm.retry_after",
    hold = "txn.pm.hold",
    once = "txn.pm.once",
    silence = "txn.pm.silence",
}

-- After a lookup that ran into its time limit, a thread asks nobody for this long: a hung router costs one request
-- in a while its 50 ms, not every request.
local PAUSE_AFTER_TIMEOUT_MS = 250

local escapes = {}
for i = 0, 255 do escapes[string.char(i)] = string.format("%%%02X", i) end

local function escaped(value)
    return (string.gsub(tostring(value), "[^A-Za-z0-9_.~-]", escapes))
end

local function now_ms()
    local now = core.now()
    return now.sec * 1000 + now.usec // 1000
end

local function form(txn)
    local f = txn.f
    local parts = { "id=" .. escaped(f:unique_id()), "path=" .. escaped(f:path()), "size=" .. f:req_body_size() }
    parts[#parts + 1] = "seen=" .. f:req_body_len()
    for _, name in ipairs({ "session", "tenant", "policy" }) do
        local value = txn:get_var("txn.pm." .. name)
        if value then parts[#parts + 1] = name .. "=" .. escaped(value) end
    end
    if txn:get_var("txn.pm.body") then parts[#parts + 1] = "body=" .. escaped(digest(txn)) end
    return table.concat(parts, "&")
end

-- The answer's text, or nil and what went wrong. It may take `patience_ms` longer than a connection may.
local function ask(path, body, patience_ms)
    local deadline_ms = now_ms() + LOOKUP_TIMEOUT_MS + patience_ms
    local socket = core.tcp()
    socket:settimeout(LOOKUP_TIMEOUT_MS / 1000)
    local ok, problem = socket:connect(LOOKUP_ADDRESS)
    if not ok then return nil, problem end
    local sent
    sent, problem = socket:send(
        "POST " .. path .. " HTTP/1.1\r\nHost: pointsman\r\nConnection: close\r\n"
            .. "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
    )
    if not sent then
        socket:close()
        return nil, problem
    end
    socket:settimeout(math.max(deadline_ms - now_ms(), 1) / 1000)
    local answer
    answer, problem = socket:receive("*a")
    socket:close()
    return answer, problem
end

local function apply(txn, answer)
    local _, head_end = find(answer, "\r\n\r\n", 1, true)
    if not head_end or not find(answer, "^HTTP/1%.[01] 200 ") then return end
    for name, value in string.gmatch(sub(answer, head_end + 1), "([a-z_]+)=([^\r\n]+)") do
        if TEXT_ANSWERS[name] then
            txn:set_var(TEXT_ANSWERS[name], value)
        elseif NUMBER_ANSWERS[name] then
            txn:set_var(NUMBER_ANSWERS[name], math.tointeger(tonumber(value)) or 0)
        end
    end
end

local paused_until_ms = 0

local function lookup(txn)
    local started_ms = now_ms()
    if started_ms < paused_until_ms then return end
    local answer = ask("/lookup", form(txn), 0)
    if answer then
        apply(txn, answer)
    elseif now_ms() - started_ms >= LOOKUP_TIMEOUT_MS then
        paused_until_ms = now_ms() + PAUSE_AFTER_TIMEOUT_MS
    end
end

---------------------------------------------------------------------------------------------------------------------
-- Holding. A request for which there is no room is told how long it may wait; it asks here, and is answered as by a
-- lookup when it is its turn, or refused when its wait is over. This thread serves others meanwhile. Any failure leaves
-- the variables unset: the configuration then fails open.

-- What the router may take beyond the wait itself: it looks who may go some times a second.
local HOLD_GRACE_MS = 1000

local function hold(txn)
    local answer = ask("/hold", form(txn), txn:get_var("txn.pm.hold") + HOLD_GRACE_MS)
    -- A client that leaves takes its question along: HAProxy ends this function while it waits. The variables still say
    -- 429 then, so that no replica meets the request.
    for _, name in ipairs({ "hold", "status", "retry_after", "reason" }) do
        txn:unset_var("txn.pm." .. name)
    end
    if answer then apply(txn, answer) end
end

if LOOKUP_ADDRESS then
    LOOKUP_TIMEOUT_MS = tonumber(LOOKUP_TIMEOUT_MS)
    core.register_action("pm_lookup", { "http-req" }, lookup)
    core.register_action("pm_hold", { "http-req" }, hold)
end

---------------------------------------------------------------------------------------------------------------------
-- Choosing without the router. Sessions are hashed onto the servers by rendezvous: the highest of mixed(server, session)
-- has it, so that all edges agree and a server that leaves moves only its own. With bounded load: one that has
-- BALANCE_PERCENT of the average is passed over.
--
-- Where servers differ in what they serve, the router fills two maps: the group of each server, and for the xxh64 of
-- each name that may be asked for the groups that serve it. A server without a group serves anything.

local FLEET = "fleet"
local GROUPS, MODELS = Map.new("groups.map", Map._str), Map.new("models.map", Map._str)
local MEMBERS_KEPT_MS = 1000

-- A server most of whose answers failed between two looks is passed over for a while: without the router nobody else
-- learns from answers. (`observe layer7` would, but what it marks down comes back with the next green check, and when all
-- replicas fail it takes all of them out, so that clients see HAProxy's error instead of the replicas' own.)
local FAILING_ANSWERS_MIN = 5
local FAILING_KEPT_MS = 5000

local answers_of = {}

-- What is known of a server's answers after one more look.
local function looked_at(name, stats, now)
    local before = answers_of[name]
    local failed = (stats.hrsp_5xx or 0) + (stats.eresp or 0)
    local all = failed + (stats.hrsp_2xx or 0) + (stats.hrsp_3xx or 0) + (stats.hrsp_4xx or 0)
    local failing_until_ms = before and before.failing_until_ms or 0
    if before and all - before.all >= FAILING_ANSWERS_MIN and 2 * (failed - before.failed) > all - before.all then
        failing_until_ms = now + FAILING_KEPT_MS
    end
    return { failed = failed, all = all, failing_until_ms = failing_until_ms }
end

local members, members_until_ms = {}, 0

-- Every server with its group, the hash of its name, and how many requests it has. Asking for the first three takes
-- longer than choosing, so they are kept until they are old or a server among them was deleted.
local function all_members(converters)
    local now, whole = now_ms(), true
    for _, member in ipairs(members) do
        member.sessions = member.server:get_cur_sess()
        whole = whole and member.sessions ~= nil
    end
    if now >= members_until_ms or not whole then
        members, members_until_ms = {}, now + MEMBERS_KEPT_MS
        local answers = {}
        for name, server in pairs(core.backends[FLEET].servers) do
            answers[name] = looked_at(name, server:get_stats() or {}, now)
            members[#members + 1] = {
                name = name,
                server = server,
                group = GROUPS:lookup(name),
                hash = converters:xxh64(name, 0),
                sessions = server:get_cur_sess() or 0,
                failing = now < answers[name].failing_until_ms,
            }
        end
        answers_of = answers
    end
    return members
end

-- The finalizer of MurmurHash3.
local function mixed(x)
    x = (x ~ (x >> 33)) * 0xff51afd7ed558ccd
    x = (x ~ (x >> 33)) * 0xc4ceb9fe1a85ec53
    return x ~ (x >> 33)
end

-- Whether HAProxy would balance onto it. One that was deleted has no stats.
local function is_usable(server)
    local stats = server:get_stats()
    return stats and (find(stats.status, "^UP") or stats.status == "no check") and true or false
end

-- The first two of `found` that are usable: those under the bound before those over it, those that fail last.
local function best_two(found, bound)
    local under, over, failing = {}, {}, {}
    for _, member in ipairs(found) do
        if is_usable(member.server) then
            local list = member.failing and failing or member.sessions < bound and under or over
            list[#list + 1] = member.name
            if #under == 2 then break end
        end
    end
    table.move(over, 1, #over, #under + 1, under)
    table.move(failing, 1, #failing, #under + 1, under)
    return under[1], under[2]
end

-- The model a request names; "" where it names none.
local function model_of(txn)
    local body = txn.sf:req_body() or ""
    return (fields(txn.c, body, prompt_start(body), false, false))
end

local function choose(txn)
    local everyone = all_members(txn.c)
    local grouped = false
    for _, member in ipairs(everyone) do
        grouped = grouped or member.group ~= nil
    end
    local model = grouped and model_of(txn) or ""
    local groups = model ~= "" and (MODELS:lookup(string.format("%016x", txn.c:xxh64(model, 0))) or "")
    local key = txn.c:xxh64(tostring(txn:get_var("txn.pm.session") or ""), 0)
    local found, sessions, serves = {}, 0, false
    for _, member in ipairs(everyone) do
        if not groups or not member.group or find(groups, member.group, 1, true) then
            member.rank = mixed(member.hash ~ key)
            found[#found + 1] = member
            sessions = sessions + member.sessions
        end
    end
    table.sort(found, function(a, b) return a.rank > b.rank end)
    local bound = (sessions + 1) * tonumber(BALANCE_PERCENT) / 100 / math.max(#found, 1)
    local first, second = best_two(found, bound)
    if first then txn:set_var("txn.pm.first", first) end
    if second then txn:set_var("txn.pm.second", second) end
    if first or not grouped then return end
    -- No server of that model: HAProxy's own balancing could only meet one of another.
    txn:set_var("txn.pm.model", model)
    txn:set_var("txn.pm.status", #found == 0 and 404 or 503)
end

core.register_action("pm_choose", { "http-req" }, choose)

-- `use-server` rules are read once: when the server they chose fails, HAProxy balances. `balance hash` with
-- `hash-type consistent djb2` takes the server nearest to djb2(key) on a ring on which a server has the points
-- full_hash(id * 4096 + n) (lb_chash.c; full_hash is Bob Jenkins's integer hash). So a key whose djb2 is such a point
-- is a choice of server. Where HAProxy counts otherwise, it takes any server, as it would without us.

local RING_RANGE = 4096

local function full_hash(a)
    local m = 0xffffffff
    a = (a + 0x7ed55d16 + (a << 12)) & m
    a = ((a ~ 0xc761c23c) ~ (a >> 19)) & m
    a = (a + 0x165667b1 + (a << 5)) & m
    a = ((a + 0xd3a2646c) ~ (a << 9)) & m
    a = (a + 0xfd7046c5 + (a << 3)) & m
    a = ((a ~ 0xb55a4f09) ~ (a >> 16)) & m
    return (a * 3221225473) & m
end

-- djb2 is h * 33 + byte from 5381 on: seven digits of base 33 reach all of 32 bits.
local DJB2_DIGITS = 7
local DJB2_START = 5381
for _ = 1, DJB2_DIGITS do DJB2_START = DJB2_START * 33 & 0xffffffff end

local function key_of_point(point)
    local rest, digits = (point - DJB2_START) & 0xffffffff, {}
    for i = DJB2_DIGITS, 1, -1 do
        digits[i] = string.char(rest % 33)
        rest = rest // 33
    end
    return table.concat(digits)
end

-- The name itself for a server that is gone: any will do.
local function place(name)
    local server = core.backends[FLEET].servers[name]
    local id = server and tonumber(server:get_puid())
    return id and key_of_point(full_hash(id * RING_RANGE & 0xffffffff)) or name
end

core.register_converters("pm_place", place)

---------------------------------------------------------------------------------------------------------------------
-- The first token. Engines send response headers before it, so HAProxy's own %Tr says nothing of it. The line goes to
-- the ring at once; the end-of-request line repeats the time. Of an answer that comes whole nobody sees the first token:
-- its first byte is there when its last token is, and would tell a prefill time that has all of the decoding in it.

local EVENT_STREAM = "^text/event%-stream"

local FirstToken = { id = "pointsman first token", flags = filter.FLT_CFG_FL_HTX }
FirstToken.__index = FirstToken

function FirstToken:new() return setmetatable({}, FirstToken) end

function FirstToken:http_headers(txn, message)
    if message.channel:is_resp() and txn:get_var("txn.pm.began") then
        if find(txn.sf:res_hdr("content-type"), EVENT_STREAM) then
            filter.register_data_filter(self, message.channel)
        end
    end
end

function FirstToken:http_payload(txn, message)
    if self.done or not message.channel:is_resp() or message:input() == 0 then return end
    self.done = true
    txn:set_var("txn.pm.ttft", now_ms() - txn:get_var("txn.pm.began"))
    txn:Info('{"ev":"first","id":"' .. txn.f:unique_id() .. '"}')
    filter.unregister_data_filter(self, message.channel)
end

core.register_filter("pm_first_token", FirstToken, function(instance) return instance end)
