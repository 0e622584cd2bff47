// Figures as text.

const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });

/** A count and its noun, singular or plural. */
export const counted = (value, noun, plural = `${noun}s`) => `${number(value)} ${value === 1 ? noun : plural}`;

/** A count alone; large ones are shortened. */
export const count = (value) =>
  value < 1e6 ? number(value) : value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });

/** The time of a response. */
export function time(seconds) {
  if (seconds === null) return "–";
  if (seconds < 1) {
    const milliseconds = seconds * 1000;
    return `${number(milliseconds, milliseconds < 1 ? 2 : milliseconds < 10 ? 1 : 0)} ms`;
  }
  return seconds < 60 ? `${number(seconds, seconds < 10 ? 1 : 0)} s` : `${number(seconds / 60, 1)} min`;
}

/** A total time. */
export function duration(seconds) {
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const [noun, size] = units.find(([, length]) => seconds >= length) ?? ["second", 1];
  const value = seconds / size;
  const text = number(value, value < 10 ? 1 : 0);
  return `${text} ${noun}${text === "1" ? "" : "s"}`;
}

/** The day of a Unix time in seconds. */
export const day = (seconds) =>
  new Date(seconds * 1000).toLocaleDateString("en", { year: "numeric", month: "long", day: "numeric" });

/** A share of 100, never rounded up to 100 or down to 0. */
export function percent(share) {
  return `${number(share, (share > 99 && share < 100) || (share > 0 && share < 1) ? 1 : 0)} %`;
}

/** A share of 100, to the tenth. */
export const tenths = (share) => `${share.toFixed(1)} %`;

/** A time, in short. */
export function brief(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const [unit, size] = units.find(([name, length]) => (name === "d" ? seconds > length : seconds >= length)) ?? units.at(-1);
  return `${number(seconds / size, 1)} ${unit}`;
}

/** A rate a second. */
export const rate = (value) => number(value, value < 10 ? 1 : 0);

/** Bytes of memory, and how many there are in all; or those in all alone. */
export function bytes(some, all = some) {
  const [unit, size] = all < 2 ** 30 ? ["MiB", 2 ** 20] : ["GiB", 2 ** 30];
  if (arguments.length === 1) return `${number(all / size, 1)} ${unit}`;
  return `${number(some / size, 1)} of ${number(all / size, 1)} ${unit}`;
}
