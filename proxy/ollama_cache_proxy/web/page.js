// The live page: follows the proxy's events and shows the newest. It stores nothing; the token is only in memory.

import { draw } from "./chart.js";
import { show as showForecast } from "./forecast.js";
import { $, element, put } from "./nodes.js";
import { bytes, count, counted, day, duration, percent, rate, time } from "./words.js";

const ANNOUNCE_EVERY = 60_000; // ms between two announcements to screen readers
const FORECAST_EVERY = 60_000; // ms
const MAX_SILENCE = 40_000; // ms without an event; a heartbeat comes every 15 s
const RETRY = { first: 1000, last: 10_000 }; // ms before connecting again
const LANES = { interactive: "People", batch: "Batches" };
const HOSTS = { ok: "Serves", ejected: "Ejected", draining: "Drained" };
const RESULTS = { hit: "Hit", miss: "Miss", bypass: "Bypass" };

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

let token = "";
let trusted = true;
let newest = null; // the last event
let ahead = 0; // seconds that the proxy's clock is ahead of ours
let announcedAt = -Infinity;
let forecastAt = -Infinity;
let connection = new AbortController();
let wake = () => {};

// Show figures.

function show(event) {
  newest = event;
  ahead = event.time - Date.now() / 1000;
  const { averageSeconds: average, requests, savedTokens: tokens } = event;
  headline(event);
  put("prompts", event.prompts.sentence);
  compare(average);
  put("hit-rate", requests.hits + requests.misses ? percent(event.hitRate) : "–");
  put("hit-time", time(average.hit));
  put("miss-time", time(average.miss));
  put("saved", event.savedSeconds ? duration(event.savedSeconds) : "–");
  put("tokens", count(tokens.prompt + tokens.output));
  put("total", count(requests.total));
  put("rate", rate(requests.perSecond));
  put("speed", event.tokensPerSecond === null ? "–" : `${rate(event.tokensPerSecond)} tokens/s`);
  history();
  machine(event);
  last(event.lastRequests);
}

function headline({ requests, hitRate, savedSeconds, averageSeconds: average }) {
  const asked = requests.hits + requests.misses;
  const bypasses = requests.bypasses;
  $("start").hidden = asked > 0;
  let sentence = "";
  if (asked) {
    const share = element("strong", {}, percent(hitRate));
    const text = ` of ${counted(asked, "request")} came from the cache.`;
    if ($("headline").textContent !== share.textContent + text) $("headline").replaceChildren(share, text);
    if (savedSeconds) sentence += `That saved ${duration(savedSeconds)} of Ollama’s time. `;
    if (average.hit !== null) sentence += `A hit takes ${time(average.hit)}`;
    if (average.hit !== null && average.miss !== null) sentence += `, a miss ${time(average.miss)}`;
    if (average.hit !== null) sentence += ". ";
    if (bypasses) sentence += `${counted(bypasses, "more request")} bypassed the cache.`;
  } else if (bypasses) {
    put("headline", "Nothing to cache yet.");
    sentence = `${counted(bypasses, "request")} bypassed the cache, as chats and streams do by default.`;
  } else {
    put("headline", "No requests yet.");
  }
  put("sentence", sentence.trim());
  if (Date.now() - announcedAt > ANNOUNCE_EVERY) announce(`${$("headline").textContent} ${sentence}`);
}

function announce(text) {
  announcedAt = Date.now();
  put("announce", text);
}

function compare({ overall, withoutCache }) {
  put("with", time(overall));
  put("without", time(withoutCache));
  const longest = Math.max(overall ?? 0, withoutCache ?? 0) || 1;
  share($("with-row"), (overall ?? 0) / longest);
  share($("without-row"), (withoutCache ?? 0) / longest);
  const times = overall ? withoutCache / overall : 1;
  put("faster", times >= 1.05 ? `${rate(times)} times as fast, over hits and misses together.` : "");
}

function share(node, part) {
  node.style.setProperty("--share", `${(100 * part).toFixed(2)}%`);
}

function history() {
  if (newest === null) return;
  const sums = draw($("chart"), newest.history, Date.now() / 1000 + ahead, newest.span);
  for (const result of Object.keys(RESULTS)) put(`count-${result}`, count(sums[result]));
  put("peak", sums.peak ? `at most ${rate(sums.peak / newest.span)} a second` : "");
}

function machine({ models, gpus, store, upstream, audit, upstreams = [], lanes = [] }) {
  state("upstream", upstream.state, { ok: "Ollama answers", down: upstream.reason, unknown: "Ollama not contacted yet" });
  state("store", store.state, { ok: "Store answers", down: `Store is down: ${store.reason}` });
  put("keys", store.keys === null ? "–" : count(store.keys));
  put("where", `in ${store.name}.`);
  $("audited").hidden = audit === null;
  put("audited", audit === null ? "" : audited(audit));
  $("no-models").hidden = models.length > 0;
  const known = gpus.length > 0;  // without a GPU, what Ollama counts as VRAM is main memory
  $("models").replaceChildren(...models.map(({ name, size, vram }) => thing(name, memory(size, known ? vram : null))));
  $("gpus-card").hidden = gpus.length === 0;
  $("gpus").replaceChildren(...gpus.map((gpu) => thing(gpu.name, ...meters(gpu))));
  $("upstreams-card").hidden = upstreams.length === 0;
  $("upstreams").replaceChildren(...upstreams.map(({ name, state, inFlight, loaded }) => thing(name,
    meter(HOSTS[state], `${count(inFlight)} in flight, ${counted(loaded, "model")} loaded`, null))));
  $("lanes-card").hidden = lanes.length === 0;
  $("lanes").replaceChildren(...lanes.map(waiting));
}

function waiting({ upstream, lane, waiting, clients, underWay, seconds }) {
  const who = waiting === 0 ? "nobody waits" : `${count(waiting)} of ${counted(clients, "client")} wait, for up to ${time(seconds)}`;
  return thing([LANES[lane], upstream].filter(Boolean).join(", "), meter(`${count(underWay)} at work`, who, null));
}

function audited({ checked, wrong, since }) {
  return `${counted(checked, "hit")} checked, ${count(wrong)} wrong, since ${day(since)}.`;
}

function meters({ utilisation, memoryUsed, memoryTotal, temperature, power }) {
  const found = [];
  if (utilisation !== null) found.push(meter("Busy", percent(utilisation), utilisation / 100));
  if (memoryUsed !== null) {
    found.push(meter("Memory", bytes(memoryUsed, memoryTotal), memoryUsed / memoryTotal));
  }
  const rest = [temperature === null ? "" : `${temperature} °C`, power === null ? "" : `${power.toFixed(0)} W`];
  const told = rest.filter(Boolean).join(", ");
  if (told) found.push(meter("Heat", told, null));
  return found;
}

function thing(name, ...parts) {
  return element("li", {}, element("p", { class: "name" }, name), ...parts);
}

function memory(size, vram) {  // null: not told
  if (size === null) return meter("Memory", "not told", null);
  return vram === null ? meter("Memory", bytes(size), null) : meter("GPU memory", bytes(vram, size), vram / size);
}

function meter(label, text, part) {
  const made = element("p", { class: part === null ? "meter plain" : "meter" }, element("span", {}, label), element("span", {}, text));
  if (part !== null) share(made, part);
  return made;
}

function state(id, value, texts) {
  $(id).dataset.state = value;
  put(id, texts[value]);
}

function last(requests) {
  trusted = requests !== null;
  $("unlock").hidden = trusted;
  const some = trusted && requests.length > 0;
  $("none").hidden = some || !trusted;
  $("table").hidden = !some;
  $("rows").replaceChildren(...(requests ?? []).map(row));
  if (!trusted && token) {
    token = "";
    put("refused", "That is not the admin token, or the proxy was started without one.");
  }
}

function row(request) {
  const fault = request.reason.startsWith("error") || request.status >= 500;
  const badge = element("span", { class: `badge ${fault ? "fault" : request.result}` }, fault ? "Failed" : RESULTS[request.result]);
  const times = request.times > 1 ? ` × ${count(request.times)}` : "";
  const cell = { role: "cell" }; // on a phone the rows are boxes, and would lose the roles of a table
  return element("tr", { role: "row" },
    element("td", cell, clock.format(request.time * 1000)),
    element("td", cell, `${request.operation} `, element("span", { class: "model" }, request.model)),
    element("td", cell, badge, `${times} `, element("span", { class: "reason" }, request.reason)),
    element("td", { ...cell, class: "number" }, time(request.milliseconds / 1000)));
}

// Follow events.

function authorised() {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const silent = setTimeout(() => connection.abort(), MAX_SILENCE);
    const { value, done } = await reader.read().finally(() => clearTimeout(silent));
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice("data: ".length));
  }
}

async function follow() {
  let delay = RETRY.first;
  for (;;) {
    connection = new AbortController();
    try {
      const response = await fetch("api/cache/events", { headers: authorised(), signal: connection.signal });
      if (!response.ok) throw new Error((await response.json()).error);
      for await (const event of events(response.body)) {
        delay = RETRY.first;
        state("connection", "ok", { ok: "Live" });
        show(event);
      }
      throw new Error("Connection lost");
    } catch (problem) {
      if (connection.signal.reason !== "again" && !document.hidden) lost(problem);
    }
    const wanted = connection.signal.reason === "again";
    if (!wanted) await new Promise((resume) => { wake = resume; setTimeout(() => document.hidden || resume(), delay); });
    delay = Math.min(2 * delay, RETRY.last);
  }
}

function lost(problem) {
  const why = problem.constructor === Error ? problem.message : "Connection lost"; // other errors have the browser's own messages
  state("connection", "down", { down: `${why}, trying again…` });
  state("upstream", "unknown", { unknown: "Ollama" });
  state("store", "unknown", { unknown: "Store" });
  announce(`${why}, trying again.`);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) connection.abort();
  else wake();
});
setInterval(() => {
  history();
  forecast();
}, 5000);
put("url", location.href.replace(/\/cache([?#].*)?$/, ""));

// Ask for what changes slowly.

async function forecast() {
  if (document.hidden || Date.now() - forecastAt < FORECAST_EVERY) return;
  forecastAt = Date.now();
  const asked = fetch("api/cache/forecast").then((response) => (response.ok ? response.json() : null));
  const found = await asked.catch(() => null); // the header says that the connection is lost
  if (found !== null) showForecast(found);
}

// Actions.

$("unlock").addEventListener("submit", (submit) => {
  submit.preventDefault();
  token = $("token").value;
  $("token").value = "";
  put("refused", "");
  connection.abort("again");
});

$("clear").addEventListener("click", () => {
  put("failed", "");
  put("cleared", "");
  $("clear-token").value = "";
  $("ask-token").hidden = trusted;
  $("dialog").showModal();
});

$("cancel").addEventListener("click", () => $("dialog").close());

const cleared = (entries) => {
  if (entries === null) return "Cleared. How many entries there were is not known.";
  return `${entries === 1 ? "1 entry" : `${count(entries)} entries`} cleared.`;
};

$("confirm").addEventListener("submit", async (submit) => {
  submit.preventDefault();
  if (!trusted) token = $("clear-token").value;
  $("sure").disabled = true;
  try {
    const response = await fetch("api/cache/clear", { method: "POST", headers: authorised() });
    const found = await response.json();
    if (!response.ok) throw new Error(found.error);
    put("cleared", cleared(found.cleared));
    $("dialog").close();
    if (!trusted) connection.abort("again");
  } catch (problem) {
    if (!trusted) token = "";
    put("failed", `Nothing was cleared: ${problem.message}`);
  }
  $("sure").disabled = false;
});

follow();
forecast();
