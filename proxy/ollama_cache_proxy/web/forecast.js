// What other settings would have given: the hit rate over lifetime, and over the size of the store, of each kind of requests.

import { $, element, put, shape } from "./nodes.js";
import { brief, bytes, count, counted, tenths } from "./words.js";

const KINDS = { embeddings: "Texts known", completions: "Hits" };
const ROOM = { lifetime: 0.16, size: 0.25 }; // the share of the width that a label takes
const BEYOND = 2.5; // how much farther than the longest lifetime stands the one without an end
const MARKS = { // in px around the middle
  fixed: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
  idle: "M-4-4H4V4H-4z",
  "until-evicted": "M0-5.5 5.5 0 0 5.5-5.5 0z",
  ring: "M-8 0a8 8 0 1 0 16 0a8 8 0 1 0-16 0z",
};
const LEGEND = { fixed: "fixed, from storing", idle: "idle, from the last hit", "until-evicted": "until-evicted" };

const isLeast = (point) => point.atLeast === true;
const rate = (row) => `${isLeast(row) ? "≥ " : ""}${tenths(row.texts)}`;
const work = (seconds) => (Math.abs(seconds) < 1 ? "–" : `${seconds > 0 ? "−" : "+"}${brief(Math.abs(seconds))}`);
const width = (part) => `${(100 * part).toFixed(2)}%`;
const height = (value) => `${(100 - value).toFixed(2)}%`;
const capital = (text) => text[0].toUpperCase() + text.slice(1);

const plots = Object.fromEntries(
  Object.keys(KINDS).map((name) => [name, { lifetime: plot(name, "lifetime"), size: plot(name, "store size") }]),
);

/** Show what the proxy answered. */
export function show(found) {
  put("advice", found.advice.sentence);
  const notes = [];
  const unsized = [];
  for (const [name, { lifetime: first, size: second }] of Object.entries(plots)) {
    const kind = found[name];
    const sized = kind.enough && kind.sizes.length > 0;
    if (kind.enough) fill(first, overLifetime(kind));
    if (sized) fill(second, overSize(kind, found.store.bytes));
    first.figure.hidden = !kind.enough;
    second.figure.hidden = !sized;
    if (kind.enough && !sized) unsized.push(name);
    if (!kind.enough && kind.requests) {
      notes.push(`${capital(name)}: too little traffic yet (${count(kind.texts)} of ${count(kind.needed)}).`);
    }
  }
  if (unsized.length) notes.push(`${capital(unsized.join(" and "))}: too few keys yet to tell sizes of the store apart.`);
  put("few", notes.join(" "));
  put("sampled", found.requests || found.bypasses ? sampled(found) : "");
}

function sampled({ requests, bypasses, workers }) {
  const others = bypasses ? `, and by ${counted(bypasses, "bypass", "bypasses")} that a setting would let in` : "";
  return `Judged by ${counted(requests, "request")}${others}${workers > 1 ? `, of one of ${workers} workers` : ""}; renewed each minute.`;
}

// Views: what a plot and its table show, from the figures.

function overLifetime({ lifetimes, now }) {
  const ends = lifetimes.map(({ ttl }) => ttl).filter((ttl) => ttl !== null);
  const endless = ends.length < lifetimes.length;
  const longest = Math.max(...ends, now.ttl);
  const place = logarithmic(Math.min(...ends, now.ttl), longest * (endless ? BEYOND : 1));
  const at = (row) => (row.ttl === null ? 1 : place(row.ttl));
  const title = (row) => (row.ttl === null ? row.lifetime : `${row.lifetime}, ${brief(row.ttl)}`);
  const points = lifetimes.map((row) => ({ ...row, at: at(row), series: row.lifetime, title: title(row) }));
  const ticks = [...new Set(ends)].map((ttl) => ({ at: place(ttl), text: brief(ttl) }));
  if (endless) ticks.push({ at: 1, text: "∞" });
  const force = points.find((row) => row.inForce) ?? { ...now, seconds: 0, at: at(now), title: title(now) };
  return { points, ticks: apart(ticks, ROOM.lifetime), force, legend: [...new Set(points.map(({ series }) => series))] };
}

function overSize({ sizes, now }, room) {
  const all = sizes.map((row) => row.bytes);
  const place = logarithmic(Math.min(...all, room ?? Infinity), Math.max(...all, room ?? 0));
  const points = sizes.map((row) => ({ ...row, at: place(row.bytes), series: "fixed", title: bytes(row.bytes) }));
  const beside = room === null ? null : { texts: now.texts, seconds: 0, at: place(room), title: bytes(room) };
  const force = points.find((row) => row.inForce) ?? beside;
  const labelled = [...new Set([...points, force ?? points[0]])].sort((one, other) => one.at - other.at);
  return { points, ticks: apart(labelled.map(({ at, title }) => ({ at, text: title })), ROOM.size), force, legend: [] };
}

/** Those of the ticks, from the last on, that have room for their labels. */
function apart(ticks, room) {
  const kept = [];
  for (const tick of ticks.toReversed()) if (!kept.length || kept.at(-1).at - tick.at >= room) kept.push(tick);
  return kept;
}

function logarithmic(low, high) {
  return (value) => (high > low ? Math.log(value / low) / Math.log(high / low) : 0.5);
}

// Plots and tables. Places are shares of the width and height, so that marks and texts keep their size.

function plot(kind, over) {
  const figure = $("plot").content.cloneNode(true).firstElementChild;
  const part = (name) => figure.querySelector(name);
  const title = `${capital(kind)} by ${over}`;
  part("figcaption").textContent = title;
  part("summary").textContent = `${title}, as a table`;
  part("caption").textContent = title;
  const [first, second] = figure.querySelectorAll("th");
  first.textContent = capital(over);
  second.textContent = KINDS[kind];
  $("plots").append(figure);
  return { figure, title, svg: part("svg"), legend: part("ul"), rows: part("tbody"), shown: "" };
}

function fill(plot, view) {
  const text = JSON.stringify(view);
  if (text === plot.shown) return; // so that nobody who reads it is disturbed
  plot.shown = text;
  const { points, force, legend } = view;
  const told = force === null ? "what is in force is not known" : `in force: ${force.title}, ${rate(force)}`;
  plot.svg.setAttribute("aria-label", `${plot.title}, ${told}. The figures are in the table that follows.`);
  plot.svg.replaceChildren(...drawn(view));
  plot.legend.replaceChildren(
    ...legend.map((series) => element("li", { class: series }, LEGEND[series])),
    element("li", { class: "force" }, told),
    ...(points.some(isLeast) ? [element("li", { class: "least" }, "at least: the proxy has not run for so long")] : []),
  );
  const rows = force === null || points.includes(force) ? points : [force, ...points];
  plot.rows.replaceChildren(...rows.map((row) => line(row, row === force)));
}

function* drawn({ points, ticks, force }) {
  for (const value of [0, 50, 100]) {
    yield shape("line", { class: "grid", x1: "0%", x2: "100%", y1: height(value), y2: height(value) });
    yield shape("text", { class: "level", x: "0%", y: height(value), dx: "-12", dy: "4" }, `${value} %`);
  }
  for (const { at, text } of ticks) {
    yield shape("text", { class: "tick", x: width(at), y: "100%", dy: "20" }, text);
  }
  if (force !== null) yield shape("line", { class: "force", x1: width(force.at), x2: width(force.at), y1: "0%", y2: "100%" });
  const last = {};
  for (const point of points) {
    const before = last[point.series];
    if (before) yield segment(before, point);
    last[point.series] = point;
  }
  if (force !== null && force.at > points.at(-1).at) yield segment(points.at(-1), { ...force, series: points.at(-1).series });
  for (const point of points) {
    yield mark(point, `${point.series}${isLeast(point) ? " least" : ""}`, MARKS[point.series]);
  }
  if (force !== null) yield mark(force, "ring", MARKS.ring);
}

function segment(from, to) {
  return shape("line", { class: to.series, x1: width(from.at), y1: height(from.texts), x2: width(to.at), y2: height(to.texts) });
}

function mark(point, kind, path) {
  const hint = shape("title", {}, `${point.title}: ${rate(point)}`);
  const middle = { class: `mark ${kind}`, x: width(point.at), y: height(point.texts), overflow: "visible" };
  return shape("svg", middle, shape("path", { d: path }, hint));
}

function line(row, inForce) {
  const title = inForce ? `${row.title} (in force)` : row.title;
  return element("tr", inForce ? { class: "force" } : {},
    element("th", { scope: "row" }, title),
    element("td", { class: "number" }, rate(row)),
    element("td", { class: "number" }, work(row.seconds)));
}
