-- What Pointsman runs inside HAProxy. Loaded once per thread (lua-load-per-thread), so nothing here is shared.
--
--   lua.pm_body          fetch: the digest of a request body, sent to the router as argument of `route-body`
--   lua.pm_lookup        action: the same question over HTTP, for sites that do not want SPOE
--   lua.pm_first_token   filter: milliseconds to the first byte of the answer's body
--
-- router/prefix_keys.py and router/body_fields.py are the Python twins of the two halves of the digest; golden vectors
-- hold both sides together. A fetch must never raise: whatever arrives, the digest says what could be read.

local LOOKUP_ADDRESS, LOOKUP_TIMEOUT_MS = ...

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
local NUMBER_ANSWERS = { status = "txn.pm.status", retry_after = "txn.pm.retry_after" }

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
    for _, name in ipairs({ "session", "tenant", "policy" }) do
        local value = txn:get_var("txn.pm." .. name)
        if value then parts[#parts + 1] = name .. "=" .. escaped(value) end
    end
    if txn:get_var("txn.pm.body") then parts[#parts + 1] = "body=" .. escaped(digest(txn)) end
    return table.concat(parts, "&")
end

-- The answer's text, or nil and what went wrong.
local function ask(address, body, timeout_ms)
    local deadline_ms = now_ms() + timeout_ms
    local socket = core.tcp()
    socket:settimeout(timeout_ms / 1000)
    local ok, problem = socket:connect(address)
    if not ok then return nil, problem end
    local sent
    sent, problem = socket:send(
        "POST /lookup HTTP/1.1\r\nHost: pointsman\r\nConnection: close\r\n"
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
    local answer = ask(LOOKUP_ADDRESS, form(txn), LOOKUP_TIMEOUT_MS)
    if answer then
        apply(txn, answer)
    elseif now_ms() - started_ms >= LOOKUP_TIMEOUT_MS then
        paused_until_ms = now_ms() + PAUSE_AFTER_TIMEOUT_MS
    end
end

if LOOKUP_ADDRESS then
    LOOKUP_TIMEOUT_MS = tonumber(LOOKUP_TIMEOUT_MS)
    core.register_action("pm_lookup", { "http-req" }, lookup)
end

---------------------------------------------------------------------------------------------------------------------
-- The first token. Engines send response headers before it, so HAProxy's own %Tr says nothing of it. The line goes to
-- the ring at once; the end-of-request line repeats the time.

local FirstToken = { id = "pointsman first token", flags = filter.FLT_CFG_FL_HTX }
FirstToken.__index = FirstToken

function FirstToken:new() return setmetatable({}, FirstToken) end

function FirstToken:start_analyze(txn, channel)
    if not channel:is_resp() then
        self.started_ms = now_ms()
    elseif txn:get_var("txn.pm.routed") then
        filter.register_data_filter(self, channel)
    end
end

function FirstToken:http_payload(txn, message)
    if self.done or not message.channel:is_resp() or message:input() == 0 then return end
    self.done = true
    txn:set_var("txn.pm.ttft", now_ms() - self.started_ms)
    txn:Info('{"ev":"first","id":"' .. txn.f:unique_id() .. '"}')
    filter.unregister_data_filter(self, message.channel)
end

core.register_filter("pm_first_token", FirstToken, function(instance) return instance end)
