-- Requests for wrk: the arguments are the path and a file with one body a line.
-- With "new" as third argument each body is sent only once, with a unique number in place of the word NUMBER;
-- with "traced" each request has a unique number in a field, like those of a client that traces requests; with "signed"
-- an Authorization, too; with "pipelined" eight such come at once; with "spaced" the body has other blanks each time.
-- "drawn-0.9-1000" draws nine of ten from 1000 numbers in place of the word NUMBER, and sends a new one otherwise.

local requests, bodies, at, mode = {}, {}, 0, ""
local share, known, before, after

-- Unlike wrk.format, always write the fields in the same order, as clients do.
local function post(body, number)
  local token = mode == "signed" and "\r\nAuthorization: Bearer a-token-of-some-length-0123456789" or ""
  return table.concat({
    "POST " .. wrk.path .. " HTTP/1.1",
    "Host: " .. wrk.host .. ":" .. wrk.port,
    "Content-Type: application/json" .. token .. (number and "\r\nX-Request-Id: " .. number or ""),
    "Content-Length: " .. #body,
    "",
    body,
  }, "\r\n")
end

function init(arguments)
  local path, file = arguments[1], arguments[2]
  mode = arguments[3] or ""
  wrk.path = path
  for body in io.lines(file) do
    bodies[#bodies + 1] = body
    requests[#requests + 1] = post(body)
  end
  share, known = string.match(mode, "^drawn%-([%d.]+)%-(%d+)$")
  if share then
    share, known = tonumber(share), tonumber(known)
    before, after = string.match(bodies[1], "^(.*)NUMBER(.*)$")
  end
  math.randomseed(os.time())
  at = mode == "" and math.random(1, #requests) or math.random(1, 1000000000)
end

function request()
  at = at + 1
  if mode == "traced" or mode == "signed" then
    return post(bodies[at % #bodies + 1], at)
  end
  if mode == "pipelined" then
    local several = {}
    for number = 1, 8 do
      several[number] = post(bodies[(at + number) % #bodies + 1], at * 8 + number)
    end
    return table.concat(several)
  end
  if mode == "spaced" then
    local blanks, left = {}, at
    for bit = 1, 24 do
      blanks[bit] = left % 2 == 1 and "\t" or " "
      left = math.floor(left / 2)
    end
    return post("{" .. table.concat(blanks) .. string.sub(bodies[at % #bodies + 1], 2))
  end
  if share then
    local number = math.random() < share and math.random(0, known - 1) or known + at
    return post(before .. string.format("%06d", number) .. after)
  end
  if mode == "new" then
    local body = string.gsub(bodies[1], "NUMBER", tostring(at))
    return post(body)
  end
  return requests[at % #requests + 1]
end

function done(summary, latency, all)
  local errors = summary.errors
  print(string.format('{"requests":%d,"microseconds":%d,"p50":%d,"p90":%d,"p99":%d,"errors":%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(90), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
