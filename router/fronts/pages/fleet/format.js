// Numbers, shares, durations and times as people read them. What is not known is a dash.

export const UNKNOWN = "–";

const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);

/** A count: 7, 9,123, 38.2k, 1.4M. */
export function count(value) {
  if (!known(value)) return UNKNOWN;
  const size = Math.abs(value);
  if (size < 10_000) return Math.round(value).toLocaleString("en");
  if (size < 1e6) return `${(value / 1e3).toFixed(size < 1e5 ? 1 : 0)}k`;
  return `${(value / 1e6).toFixed(1)}M`;
}

/** A rate per second, with so many digits that it does not jitter. */
export function rate(value) {
  if (!known(value)) return UNKNOWN;
  if (value === 0) return "0";
  return value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
}

/** A share of 1 in percent, as number and unit. */
export function percentParts(share, digits = 1) {
  return known(share) ? [(100 * share).toFixed(digits), "%"] : [UNKNOWN, ""];
}

/** A duration in milliseconds, as number and unit. */
export function durationParts(ms) {
  if (!known(ms)) return [UNKNOWN, ""];
  if (ms < 10 && ms > 0) return [ms.toFixed(1), "ms"];
  if (ms < 1000) return [String(Math.round(ms)), "ms"];
  if (ms < 10_000) return [(ms / 1000).toFixed(1), "s"];
  if (ms < 120_000) return [String(Math.round(ms / 1000)), "s"];
  if (ms < 7_200_000) return [String(Math.round(ms / 60_000)), "min"];
  if (ms < 172_800_000) return [String(Math.round(ms / 3_600_000)), "h"];
  return [String(Math.round(ms / 86_400_000)), "d"];
}

const joined = ([number, unit]) => (unit ? `${number}\u202f${unit}` : number);

export const percent = (share, digits = 1) => joined(percentParts(share, digits));
export const duration = (ms) => joined(durationParts(ms));

const two = (value) => String(value).padStart(2, "0");

/** Time of day here: 12:04:31; tenths on request. */
export function clock(moment, tenths = false) {
  const at = new Date(moment);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return tenths ? `${time}.${Math.floor(at.getMilliseconds() / 100)}` : time;
}

/** How long ago a moment was, in words; `now` in milliseconds since 1970. */
export function ago(moment, now) {
  const ms = now - Date.parse(moment);
  return ms < 5000 ? "just now" : `${duration(ms)} ago`;
}

/** The end of a long name: what differs is there. */
export function short(name, length = 14) {
  return name.length <= length ? name : `…${name.slice(1 - length)}`;
}

/** A sentence about a number of things. */
export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}
