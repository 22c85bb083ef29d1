// Who holds the others back, in words. Nodes and margins are those of GET /api/cluster: {rank, share}, and parts of a step
// {little_wait, waits_apart}; `times` of each node {compute_s, wait_s, wire_s}: computing, waiting for other nodes, and
// bytes under way.

import { milliseconds, percent } from "./format.js";

const MUCH_WIRE = 0.25; // of a step: from there on the network is worth a word
const UNEVEN = 1.1; // times the others' mean: computing that stands out
const SLOW_LINK = 1.5; // times the others' mean: transport that stands out

export function nodeName(node) {
  return node.rank === 0 ? "root" : `worker ${node.rank}`;
}

export function total_s(times) {
  return times.compute_s + times.wait_s + times.wire_s;
}

// {kind: "device" | "link" | "network" | "nobody" | "even" | "alone" | "unknown", text, advice, rank}: rank of who is
// meant, or null.
export function verdict(nodes, times, margins) {
  if (nodes.length === 0 || times.length !== nodes.length || times.some((one) => !one || total_s(one) <= 0)) {
    return { kind: "unknown", text: "No times of a step have come yet.", advice: "", rank: null };
  }
  const step_s = Math.max(...times.map(total_s));
  if (nodes.length === 1) {
    return { kind: "alone", text: `One node computes everything, ${milliseconds(step_s)} ms a step.`, advice: "", rank: null };
  }
  return slowDevice(nodes, times, step_s, margins) ?? slowLink(nodes, times, step_s, margins) ?? slowNetwork(times, step_s)
    ?? nobodyAlone(nodes, times, step_s, margins) ?? {
      kind: "even", advice: "", rank: null,
      text: `Well balanced: nodes wait ${percent(mean(times.map((one) => one.wait_s)) / step_s)} of each step for others.`,
    };
}

// Who is waited for waits least itself. What it waits all the same, the others would wait without it too.
function slowDevice(nodes, times, step_s, { little_wait, waits_apart }) {
  const slowest = largest(times, (one) => -one.wait_s);
  const others = without(times, slowest);
  const held = others.map((one) => one.wait_s - times[slowest].wait_s);
  const held_s = mean(held);
  if (held_s / step_s < little_wait || Math.min(...held) / step_s < waits_apart) return null;
  if (times[slowest].compute_s < UNEVEN * mean(others.map((one) => one.compute_s))) return null;
  const shares = evenShares(nodes, times);
  return {
    kind: "device", rank: nodes[slowest].rank,
    text: `${capital(nodeName(nodes[slowest]))} is the slowest: ${waiters(nodes)} ${milliseconds(held_s, step_s)} ms of `
      + `${milliseconds(step_s)} for it.`,
    advice: shares === null ? "" : `With ${shares[slowest]} % of the model instead of ${percent(nodes[slowest].share)} `
      + `it would keep up: --shares ${shares.join(" ")}`,
  };
}

function slowLink(nodes, times, step_s, { little_wait }) {
  const slowest = largest(times, (one) => one.wire_s);
  const wire_s = times[slowest].wire_s;
  const other_s = mean(without(times, slowest).map((one) => one.wire_s));
  if (nodes.length < 3 || wire_s / step_s < little_wait || wire_s < SLOW_LINK * other_s) return null;
  return {
    kind: "link", rank: nodes[slowest].rank,
    text: `The link of ${nodeName(nodes[slowest])} is the slowest: its bytes are under way for ${milliseconds(wire_s, step_s)} ms `
      + `of ${milliseconds(step_s)}, those of the others for ${milliseconds(other_s, step_s)}.`,
    advice: "A better cable or switch port would help; so would a place nearer to the others.",
  };
}

function slowNetwork(times, step_s) {
  const wire_s = mean(times.map((one) => one.wire_s));
  if (wire_s / step_s < MUCH_WIRE) return null;
  return {
    kind: "network", rank: null,
    text: `The network takes the most: bytes are under way for ${milliseconds(wire_s, step_s)} ms of ${milliseconds(step_s)}.`,
    advice: "Fewer nodes, or a faster switch, may be quicker.",
  };
}

function nobodyAlone(nodes, times, step_s, { little_wait }) {
  const waits = times.map((one) => one.wait_s);
  if (mean(waits) / step_s < little_wait) return null;
  return {
    kind: "nobody", rank: null,
    text: `Nodes wait ${milliseconds(mean(waits), step_s)} ms of ${milliseconds(step_s)}, and not for one alone.`,
    advice: Math.min(...waits) / step_s < little_wait ? evenAdvice(nodes, times)
      : "All of them wait: they share processor cores, or the step is short beside the network's round trips. "
        + "Fewer nodes or threads may be quicker.",
  };
}

function evenAdvice(nodes, times) {
  const most = largest(times, (one) => one.compute_s);
  const shares = evenShares(nodes, times);
  const isUneven = times[most].compute_s >= UNEVEN * mean(without(times, most).map((one) => one.compute_s));
  return shares && isUneven ? `They would compute for the same time with --shares ${shares.join(" ")}` : "";
}

// The percentages at which all would compute for the same time, at the speed that each shows now; or null.
function evenShares(nodes, times) {
  const speeds = nodes.map((node, index) => node.share / times[index].compute_s);
  const all = speeds.reduce((sum, speed) => sum + speed, 0);
  if (!Number.isFinite(all) || all <= 0) return null;
  return speeds.map((speed) => Math.max(1, Math.round(100 * speed / all)));
}

function waiters(nodes) {
  return nodes.length > 2 ? "the others wait" : "the other waits";
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

function largest(list, value) {
  return list.reduce((best, one, index) => (value(one) > value(list[best]) ? index : best), 0);
}

function without(list, index) {
  return list.filter((_, other) => other !== index);
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
