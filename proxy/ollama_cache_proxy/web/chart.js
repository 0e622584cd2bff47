// The requests of the last minutes as stacked bars. A span is [Unix time, hits, misses, bypasses].

import { shape } from "./nodes.js";

const BARS = 120;
const HEIGHT = 100;
const RESULTS = ["hit", "miss", "bypass"];

/** Draw into an <svg>; return the sums by result, and the most requests in one span. `now` is Unix time. */
export function draw(svg, history, now, span) {
  const newest = Math.floor(now / span) * span;
  const shown = history
    .map(([at, ...counts]) => ({ place: BARS - 1 - (newest - at) / span, counts }))
    .filter(({ place }) => place >= 0 && place < BARS);
  const peak = Math.max(1, ...shown.map(({ counts }) => counts.reduce((one, other) => one + other)));
  const sums = [0, 0, 0];
  const bars = [];
  for (const { place, counts } of shown) {
    let top = HEIGHT;
    counts.forEach((count, index) => {
      sums[index] += count;
      const height = (HEIGHT * count) / peak;
      top -= height;
      if (count) bars.push(bar(RESULTS[index], place, top, height));
    });
  }
  svg.setAttribute("viewBox", `0 0 ${BARS} ${HEIGHT}`);
  svg.replaceChildren(...bars);
  return { hit: sums[0], miss: sums[1], bypass: sums[2], peak: shown.length ? peak : 0 };
}

function bar(result, place, top, height) {
  return shape("rect", { class: result, x: place + 0.1, y: top, width: 0.8, height });
}
