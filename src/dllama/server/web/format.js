// Numbers for people.

const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

// 0.842 -> "842", 0.0123 -> "12.3", 0.0012 -> "1.20", in milliseconds; as many digits as the number `like` would get.
export function milliseconds(seconds, like = seconds) {
  const digits = like >= 0.1 || like === 0 ? 0 : like >= 0.01 ? 1 : 2;
  return (seconds * 1000).toFixed(digits);
}

export function seconds(value) {
  return value < 1 ? `${milliseconds(value)} ms` : `${value.toFixed(value < 10 ? 1 : 0)} s`;
}

export function bytes(count) {
  const power = count < 1000 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log10(count) / 3));
  const value = count / 1000 ** power;
  return `${value.toFixed(power > 0 && value < 10 ? 1 : 0)} ${UNITS[power]}`;
}

export function percent(fraction) {
  const value = fraction * 100;
  return `${value.toFixed(value > 0 && value < 1 ? 1 : 0)} %`;
}

// 3.21, 42.5, 128
export function rate(value) {
  return value.toFixed(value >= 100 || value === 0 ? 0 : value >= 10 ? 1 : 2);
}

// A server's message as a sentence.
export function sentence(text) {
  const trimmed = text.trim();
  return trimmed && trimmed[0].toUpperCase() + trimmed.slice(1) + (/[.!?]$/.test(trimmed) ? "" : ".");
}

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

// "14:03:12", with the day where it is not today, as the clock on the wall has it.
export function clockTime(time_ms, now_ms) {
  const time = new Date(time_ms);
  const day = dayGroup(time_ms, now_ms) === "Today" ? "" : `${time.toLocaleDateString()} `;
  return day + time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

// "today", "yesterday", "last 7 days" or "earlier", as the clock on the wall has it.
export function dayGroup(time_ms, now_ms) {
  const midnight = new Date(now_ms).setHours(0, 0, 0, 0);
  const day_ms = 86_400_000;
  if (time_ms >= midnight) return "Today";
  if (time_ms >= midnight - day_ms) return "Yesterday";
  return time_ms >= midnight - 6 * day_ms ? "Last 7 days" : "Earlier";
}
