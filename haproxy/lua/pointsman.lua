-- What Pointsman runs inside HAProxy. Loaded once per thread (lua-load-per-thread), so nothing here is shared.
--
--   lua.pm_body          fetch: the digest of a request body, sent to the router as argument of `route-body`
--   lua.pm_lookup        action: the same question over HTTP, for sites that do not want SPOE
--   lua.pm_hold          action: holds a request until the router says that it may go
--   lua.pm_choose        action: two servers of the right model, where the router named none
--   lua.pm_no_model      service: answers a request whose model nothing tells
--   lua.pm_place         converter: a server's name -> what makes HAProxy's own balancing hit that server
--   lua.pm_first_token   filter: milliseconds to the first byte of the answer's body
--
-- contract/prefix_keys.py, haproxy/body_model.py and haproxy/body_fields.py are the Python twins of the parts of the digest,
-- haproxy/lookup_arguments.py of the whole; golden vectors hold both sides together. A fetch must never raise: whatever
-- arrives, the digest says what could be read.

-- Nearly all that is made here dies with its request, which is what this mode is for: 3 to 10 % fewer instructions a
-- digest than the incremental collector, and no more memory.
collectgarbage("generational")

local BALANCE_PERCENT, MODEL_HEADER, LOOKUP_ADDRESS, LOOKUP_TIMEOUT_MS = ...

-- Bits of txn.pm.body. The configuration keeps requests that need nothing away from here.
local NEEDS_FIELDS, NEEDS_KEYS, NEEDS_FIELDS_WITHOUT_SESSION = 1, 2, 4
-- Its value for a request that generates nothing: the model decides, nothing else of the body counts.
local MODEL_ALONE = 8

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

-- One call packs all keys: a quarter of a microsecond less for each of them.
local function packed(keys, n)
    return pack("<" .. string.rep("i8", n), table.unpack(keys, 1, n))
end

-- Key i is xxh64(chunk i, seed = key i-1): it names the whole prefix up to its end. Full chunks only.
local function prefix_keys(converters, body, start)
    local keys, n, key, at, size = {}, 0, 0, start, #body
    for _, step in ipairs(CHUNKS) do
        local bytes = step[2]
        for _ = 1, step[1] do
            if at + bytes - 1 > size then return packed(keys, n) end
            key = converters:xxh64(sub(body, at, at + bytes - 1), key)
            n = n + 1
            keys[n] = key
            at = at + bytes
        end
    end
    return packed(keys, n)
end

---------------------------------------------------------------------------------------------------------------------
-- The model: what a JSON parser finds under `model` in the outermost object, the last one where there are several, escapes
-- decoded; of a form (multipart/form-data) the field `model`, the last one too. Following the structure of every body
-- would cost several times as much as hashing it. A client that sends the key first costs one step; a key near the end of
-- a whole body is judged by what follows it; only a key between the two costs a walk from the beginning. A name that
-- stands first is looked for once more in front of the prompt and in the last 2 KiB alone: a search of all of the prompt
-- for a second one, which no client sends, costs up to four times the rest of the digest.

-- How the model is known: it was read; a body that was seen whole has none; it was not found in what was seen.
local NAMED, ABSENT, UNSEEN = 0, 1, 2

local FIELD_MAX_BYTES = 256
local TAIL_BYTES = 2048
-- Every other spelling of the key has one of its letters, all from U+0060 to U+006F, as an escape.
local MODEL_KEY, ESCAPED_LETTER = '"model"', "\\u006"
-- The key with all of its letters escaped, and its quotes.
local LONGEST_MODEL_KEY = 32
-- Of a name each byte of which is an escape.
local MAX_RAW_MODEL_BYTES = 6 * FIELD_MAX_BYTES
-- What nearly all clients send: the key first, a name without escapes.
local MODEL_FIRST = '^[ \t\r\n]*{[ \t\r\n]*"model"[ \t\r\n]*:[ \t\r\n]*"([^"\\\0-\31\127]+)"'
-- Strings and brackets followed in one body: 112 KiB of an agent's JSON have up to 10,000. A body made of nothing else
-- keeps its thread for 13 ms; its model counts as not found.
local MAX_STEPS = 20000
-- A gap between two strings that is longer is searched for brackets, not walked through.
local SHORT_GAP = 16
-- Parts of a form that are looked at: Starlette, below vLLM, takes 1,000 fields and 1,000 files.
local MAX_PARTS = 2000
-- RFC 2046 5.1.1: at most 70 characters, behind two hyphens.
local MAX_BOUNDARY_BYTES = 72

local UNESCAPED = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
-- Stands for a value that nobody can be called by.
local UNREADABLE = "\0"
local BRACKETS = { ["{"] = 1, ["["] = 1, ["}"] = -1, ["]"] = -1 }

-- The text of a JSON string, given without its quotes; nil where it is none.
local function unescaped(raw)
    local parts, at = {}, 1
    while true do
        local escape = find(raw, "\\", at, true)
        parts[#parts + 1] = sub(raw, at, (escape or 0) - 1)
        if not escape then return table.concat(parts) end
        local letter = sub(raw, escape + 1, escape + 1)
        at = escape + 2
        if letter == "u" then
            local _, stop, digits = find(raw, "^(%x%x%x%x)", at)
            local code = digits and tonumber(digits, 16)
            if code and code >= 0xD800 and code < 0xE000 then
                local low
                _, stop, low = find(raw, "^\\u([dD][c-fC-F]%x%x)", at + 4)
                code = low and code < 0xDC00 and 0x10000 + ((code - 0xD800) << 10) + tonumber(low, 16) - 0xDC00
            end
            if not code then return nil end
            parts[#parts + 1] = utf8.char(code)
            at = stop + 1
        elseif UNESCAPED[letter] then
            parts[#parts + 1] = UNESCAPED[letter]
        else
            return nil
        end
    end
end

-- Whether a model can be called so. Control characters could end a line of the router's answer.
local function is_name(text)
    return text and text ~= "" and #text <= FIELD_MAX_BYTES and not find(text, "[\0-\31\127]")
end

-- Where the string ends whose opening quote is at `open`; nil where it is cut.
local function string_end(s, open)
    local at = open
    while true do
        at = find(s, '"', at + 1, true)
        if not at or byte(s, at - 1) ~= 92 then return at end
        local before = at - 2
        while byte(s, before) == 92 do
            before = before - 1
        end
        if (at - before) % 2 == 1 then return at end
    end
end

-- How many more brackets are opened than closed from `first` to `last`, and the steps it took to count them.
local function nesting(s, first, last)
    local depth, steps = 0, 0
    if last - first < SHORT_GAP then
        for at = first, last do
            local c = byte(s, at)
            if c == 123 or c == 91 then
                depth = depth + 1
            elseif c == 125 or c == 93 then
                depth = depth - 1
            end
        end
        return depth, steps
    end
    local gap = sub(s, first, last)
    for bracket, change in pairs(BRACKETS) do
        local at = find(gap, bracket, 1, true)
        while at and steps <= MAX_STEPS do
            depth, steps = depth + change, steps + 1
            at = find(gap, bracket, at + 1, true)
        end
    end
    return depth, steps
end

-- Where the next escape that can be a letter of the key is, if anywhere. Zeros are rarer in prompts than backslashes.
local function escaped_letter(s, at)
    return find(s, "006", at, true) and find(s, ESCAPED_LETTER, at, true)
end

-- Whether something that can be the key stands in s from `at` on: in front of the prompt, which begins at `start`, or in
-- the tail.
local function again_ahead(s, at, start)
    if start - at > #MODEL_KEY then
        local head = sub(s, at, start - 1)
        if find(head, MODEL_KEY, 1, true) or escaped_letter(head, 1) then return true end
    end
    local tail = math.max(at, #s - TAIL_BYTES + 1)
    return find(s, MODEL_KEY, tail, true) or escaped_letter(s, tail)
end

-- The model whose value begins at `at`, or "", and where to read on; nothing where it is cut.
local function model_value(s, at)
    if byte(s, at) ~= 34 then return "", at end
    local close = string_end(s, at)
    if not close then return nil end
    if close - at > MAX_RAW_MODEL_BYTES then return UNREADABLE, close + 1 end
    local name = sub(s, at + 1, close - 1)
    if find(name, "\\", 1, true) then name = unescaped(name) end
    return name or UNREADABLE, close + 1
end

-- Walks over s from `at`, outside of strings, from string to string. Where a pair begins, at depth `level` if that is given,
-- `meet` gets depth, key and the position of the value, and returns where to go on; nil stops. Returns the depth at the end
-- of s, counted from `at`; nil where the walk ended before, and whether that was for its length.
local function walk(s, at, level, meet)
    local depth, steps = 0, 0
    while true do
        local open = find(s, '"', at, true)
        local change, count = nesting(s, at, (open or #s + 1) - 1)
        depth, steps = depth + change, steps + count + 1
        if steps > MAX_STEPS then return nil, true end
        if not open then return depth end
        local close = find(s, '"', open + 1, true)
        if close and byte(s, close - 1) == 92 then close = string_end(s, open) end
        if not close then return nil end
        at = close + 1
        if (not level or depth == level) and close - open < LONGEST_MODEL_KEY then
            local _, colon = find(s, "^[ \t\r\n]*:[ \t\r\n]*", at)
            if colon then
                at = meet(depth, sub(s, open + 1, close - 1), colon + 1)
                if not at then return nil end
            end
        end
    end
end

-- Whether the key at `at` stands behind { or , as the key of an object does.
local function begins_pair(s, at)
    local c
    repeat
        at = at - 1
        c = byte(s, at)
    until c ~= 32 and c ~= 10 and c ~= 13 and c ~= 9
    return c == 123 or c == 44
end

-- What the tail of a whole body says. The body ends outside of all brackets, so of the keys met on the way to its end those
-- are in the outermost object that only one more bracket closes.
local function model_in_tail(s)
    local tail = math.max(#s - TAIL_BYTES + 1, 1)
    local at = find(s, MODEL_KEY, tail, true)
    -- In a string its quotes would be escaped; as a string it could be a value.
    while at and not (find(s, "^[ \t\r\n]*:", at + #MODEL_KEY) and begins_pair(s, at)) do
        at = find(s, MODEL_KEY, at + 1, true)
    end
    if not at or escaped_letter(s, tail) then return nil end
    local models = {}
    local last = walk(s, at, nil, function(depth, key, value)
        if key ~= "model" then return value end
        models[depth], value = model_value(s, value)
        return value
    end)
    return last and models[last + 1]
end

-- What s says, read from its beginning for as long as the key can stand ahead; nil where it does not.
local function model_from_start(s, start)
    local plain, escaped = find(s, MODEL_KEY, 1, true), escaped_letter(s, 1)
    local model
    local function meet(_, key, at)
        if find(key, "\\", 1, true) then key = unescaped(key) end
        if key == "model" then
            model, at = model_value(s, at)
            if not model or not again_ahead(s, at, start) then return nil end
        end
        if plain and plain < at then plain = find(s, MODEL_KEY, at, true) end
        if escaped and escaped < at then escaped = escaped_letter(s, at) end
        return (plain or escaped) and at
    end
    if plain or escaped then
        local _, exhausted = walk(s, 1, 1, meet)
        if exhausted then return UNREADABLE end
    end
    return model
end

-- The field `model` of a form whose parts are divided by `delimiter`, if any, and whether the form was seen to its end.
local function form_model(s, delimiter)
    local model, at = nil, #delimiter + 1
    for _ = 1, MAX_PARTS do
        local _, head_end = find(s, "\r\n\r\n", at, true)
        local stop, after = find(s, delimiter, head_end or at, true)
        if not head_end or not stop then return model, false end
        local head = string.lower(sub(s, at, head_end))
        if find(head, '\ncontent%-disposition:[^\r\n]*;[ \t]*name="?model"?[ \t]*[;\r]') then
            model = sub(s, head_end + 1, stop - 1)
        end
        if sub(s, after + 1, after + 2) == "--" then return model, true end
        at = after + 1
    end
    return model, false
end

-- Whether s, of an announced length or none, is a whole body.
local function is_whole(fetches, s)
    if fetches:req_fhdr("content-length") then return fetches:req_body_size() == #s end
    return walk(s, 1, 1, function(_, _, at) return at end) == 0
end

-- The model that s names, the part of a body that was seen, and how that is known. `start`: of the prompt, or nil.
local function body_model(fetches, s, start)
    start = start or #s + 1
    local _, stop, model = find(s, MODEL_FIRST)
    if model and #model <= FIELD_MAX_BYTES and not again_ahead(s, stop + 1, start) then return model, NAMED end
    local _, _, boundary = find(s, "^(%-%-[^\r\n]+)\r\n")
    local whole
    if boundary and #boundary <= MAX_BOUNDARY_BYTES then
        model, whole = form_model("\r\n" .. s, "\r\n" .. boundary)
    else
        whole = is_whole(fetches, s)
        model = whole and model_in_tail(s) or model_from_start(s, start)
    end
    if is_name(model) then return model, NAMED end
    return "", (model == "" or not model and whole) and ABSENT or UNSEEN
end

---------------------------------------------------------------------------------------------------------------------
-- Fields

local HEAD_BYTES = 4096
local MAX_TOKENS_LIMIT = 4294967295

local STRING_VALUE = '^[ \t\r\n]*:[ \t\r\n]*"([^"\\\0-\31\127]*)"'
-- What tells salts apart is enough: one with escapes counts up to the first quote in it.
local SALT_VALUE = '^[ \t\r\n]*:[ \t\r\n]*"([^"]+)"'
local NUMBER_VALUE = '^[ \t\r\n]*:[ \t\r\n]*(%d+)'

local SESSION = { '"prompt_cache_key"', '"previous_response_id"', '"session_id"', '"user"' }
local SALT = { '"cache_salt"' }
local MAX_TOKENS = { '"max_tokens"', '"max_completion_tokens"', '"max_output_tokens"' }

-- The value of `key` where it stands as a key of an object: after { or , and before a colon. `last` takes the last one.
local function value_in(s, key, pattern, last, max_bytes)
    local from, found = 1, nil
    while true do
        local at, stop = find(s, key, from, true)
        if not at then return found end
        if begins_pair(s, at) then
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

-- Session key, output limit and the hash of the salt.
local function fields(converters, body, start, wants_session, wants_salt)
    local size = #body
    local head = sub(body, 1, math.min(start and start - 1 or size, HEAD_BYTES))
    local tail = start and sub(body, math.max(start, size - TAIL_BYTES + 1)) or ""
    local session = wants_session and field(head, tail, SESSION, STRING_VALUE, FIELD_MAX_BYTES)
    local max_tokens = field(head, tail, MAX_TOKENS, NUMBER_VALUE, FIELD_MAX_BYTES)
    local salt = wants_salt and field(head, tail, SALT, SALT_VALUE, HEAD_BYTES)
    return session or "",
        max_tokens and math.min(tonumber(max_tokens), MAX_TOKENS_LIMIT) or 0,
        salt and converters:xxh64(salt, 0) or 0
end

---------------------------------------------------------------------------------------------------------------------
-- The digest: <H len><model><H len><session><I max_tokens><I seen bytes><Q salt>, then 8 bytes a prefix key;
-- little-endian. The upper bits of the first length say how the model is known, and that nothing is generated. The salt
-- is xxh64 of `cache_salt`, so that it stays here; 0 without one. Keys bring model and salt along, which say whose keys
-- they are.

local NAMING_SHIFT, GENERATES_NOTHING = 14, 1 << 13

-- The model a request wants, and how that is known. Where the body does not show it, a header or the path may say it.
local function wanted_model(txn, body, start, generates)
    local model, naming = body_model(txn.f, body, start)
    if naming == NAMED then return model, naming end
    local other = txn.f:req_fhdr(MODEL_HEADER)
    if not is_name(other) then other = txn:get_var("txn.pm.path_model") end
    if is_name(other) then return other, NAMED end
    -- Most paths that generate nothing and name no model have none: any replica may answer.
    if naming == ABSENT and not generates then return "", NAMED end
    return model, naming
end

local function digest(txn)
    local needs = txn:get_var("txn.pm.body") or 0
    local body = txn.sf:req_body() or ""
    local start = prompt_start(body)
    if needs == MODEL_ALONE then
        local model, naming = wanted_model(txn, body, start, false)
        return pack("<I2", #model | naming << NAMING_SHIFT | GENERATES_NOTHING)
            .. model
            .. pack("<s2I4I4i8", "", 0, #body, 0)
    end
    local wants_session = not txn:get_var("txn.pm.session")
    local model, naming, session, max_tokens, salt, keys = "", NAMED, "", 0, 0, ""
    local wants_keys = needs & NEEDS_KEYS ~= 0
    if wants_keys or needs & NEEDS_FIELDS ~= 0 or (needs & NEEDS_FIELDS_WITHOUT_SESSION ~= 0 and wants_session) then
        model, naming = wanted_model(txn, body, start, true)
        session, max_tokens, salt = fields(txn.c, body, start, wants_session, wants_keys)
    end
    if wants_keys and start then keys = prefix_keys(txn.c, body, start) end
    if naming == NAMED then return pack("<s2s2I4I4i8", model, session, max_tokens, #body, salt) .. keys end
    return pack("<I2s2I4I4i8", naming << NAMING_SHIFT, session, max_tokens, #body, salt) .. keys
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
    real_model = "txn.pm.real_model",
    class = "txn.pm.class",
    model = "txn.pm.model",
    reason = "txn.pm.reason",
    trace = "txn.pm.trace",
    limit = "txn.pm.limit",
    rates = "txn.pm.rates",
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
    for _, name in ipairs({ "session", "tenant", "key", "policy", "version", "traceparent", "priority", "deadline" }) do
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

-- The client's connection: HAProxy does not look at it between the end of an HTTP/1.1 request and the choice of a server,
-- so the router asks the kernel whether the client is still there.
local function connection(f)
    local client, edge = tostring(f:src()) .. " " .. tostring(f:src_port()), tostring(f:dst()) .. " " .. tostring(f:dst_port())
    return "&client=" .. escaped(client) .. "&edge=" .. escaped(edge)
end

local function hold(txn)
    local answer = ask("/hold", form(txn) .. connection(txn.f), txn:get_var("txn.pm.hold") + HOLD_GRACE_MS)
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
-- each name that may be asked for the groups that serve it. Of "" there are groups where all have one model and differ in
-- adapters: a request that names none wants that one. A server without a group serves anything. A third map has the model
-- of the stable version of each alias: while the router is away, all requests for the alias are that one's.

local FLEET = "fleet"
-- The router's word for a request whose model nothing tells.
local NO_MODEL = "no-model"
local GROUPS, MODELS = Map.new("groups.map", Map._str), Map.new("models.map", Map._str)
local ALIASES = Map.new("aliases.map", Map._str)
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

-- The groups that serve what a request wants, nil where anybody does; the model, and whether it is known. Nobody can tell
-- here which model a session has.
local function wanted_groups(txn)
    local body = txn.sf:req_body() or ""
    local generates = txn:get_var("txn.pm.body") ~= MODEL_ALONE
    local model, naming = wanted_model(txn, body, prompt_start(body), generates)
    if naming == UNSEEN then return "", model, false end
    if naming == NAMED and model == "" then return nil, model, true end
    local hash = string.format("%016x", txn.c:xxh64(model, 0))
    local groups, real_model = MODELS:lookup(hash) or "", ALIASES:lookup(hash)
    if real_model then txn:set_var("txn.pm.real_model", real_model) end
    return groups, model, naming == NAMED
end

local function choose(txn)
    local everyone = all_members(txn.c)
    local grouped = false
    for _, member in ipairs(everyone) do
        grouped = grouped or member.group ~= nil
    end
    local groups, model, known
    if grouped then
        groups, model, known = wanted_groups(txn)
    elseif ALIASES:lookup("*") then
        wanted_groups(txn)
    end
    local key = txn.c:xxh64(tostring(txn:get_var("txn.pm.session") or ""), 0)
    local found, sessions = {}, 0
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
    if #found > 0 then
        txn:set_var("txn.pm.status", 503)
    elseif known then
        txn:set_var("txn.pm.model", model)
        txn:set_var("txn.pm.status", 404)
    else
        txn:set_var("txn.pm.reason", NO_MODEL)
        txn:set_var("txn.pm.status", 400)
    end
end

core.register_action("pm_choose", { "http-req" }, choose)

-- A request is answered here when its body is too long to be seen. A client that is still sending would meet a closed
-- connection instead of the answer, so the body is read to its end, and dropped.

local DRAINED_AT_ONCE = 65536

local function answer_no_model(applet)
    while #(applet:receive(DRAINED_AT_ONCE) or "") > 0 do end
    local answer = applet:get_var("txn.pm.answer")
    applet:set_status(400)
    applet:add_header("content-type", "application/json")
    applet:add_header("content-length", #answer)
    applet:start_response()
    applet:send(answer)
end

core.register_service("pm_no_model", "http", answer_no_model)

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
