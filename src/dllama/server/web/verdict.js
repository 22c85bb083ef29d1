// Who holds the others back, in words. Nodes are those of GET /api/cluster: {rank, share}, and `times` of each:
// {compute_s, wait_s, wire_s}: computing, waiting for other nodes, and bytes under way.

import { milliseconds, percent } from "./format.js";

const LITTLE = 0.08; // of a step: nobody minds that much waiting
const MUCH_WIRE = 0.25; // of a step: from there on the network is worth a word
const UNEVEN = 1.1; // times the others' mean: computing that stands out
const SLOW_LINK = 1.5; // times the others' mean: transport that stands out

export function nodeName(node) {
  return node.rank === 0 ? "root" : `worker ${node.rank}`;
}

export function total_s(times) {
  return times.compute_s + times.wait_s + times.wire_s;
}

// {kind: "even" | "device" | "link" | "network" | "alone" | "unknown", text, advice, rank}: rank of who is meant, or null.
export function verdict(nodes, times) {
  if (nodes.length === 0 || times.length !== nodes.length || times.some((one) => !one || total_s(one) <= 0)) {
    return { kind: "unknown", text: "No times of a step have come yet.", advice: "", rank: null };
  }
  const step_s = Math.max(...times.map(total_s));
  if (nodes.length === 1) {
    return { kind: "alone", text: `One node computes everything, ${milliseconds(step_s)} ms a step.`, advice: "", rank: null };
  }
  return slowDevice(nodes, times, step_s) ?? slowLink(nodes, times, step_s) ?? slowNetwork(times, step_s) ?? {
    kind: "even", advice: "", rank: null,
    text: `Well balanced: nodes wait ${percent(mean(times.map((one) => one.wait_s)) / step_s)} of each step for others.`,
  };
}

function slowDevice(nodes, times, step_s) {
  const slowest = largest(times, (one) => one.compute_s);
  const wait_s = mean(without(times, slowest).map((one) => one.wait_s));
  const other_s = mean(without(times, slowest).map((one) => one.compute_s));
  if (wait_s / step_s < LITTLE || times[slowest].compute_s < UNEVEN * other_s) return null;
  return {
    kind: "device", rank: nodes[slowest].rank, advice: shareAdvice(nodes, times, slowest),
    text: `${capital(nodeName(nodes[slowest]))} is the slowest: ${waiters(nodes)} ${milliseconds(wait_s, step_s)} ms of `
      + `${milliseconds(step_s)} for it.`,
  };
}

function slowLink(nodes, times, step_s) {
  const slowest = largest(times, (one) => one.wire_s);
  const wire_s = times[slowest].wire_s;
  const other_s = mean(without(times, slowest).map((one) => one.wire_s));
  if (nodes.length < 3 || wire_s / step_s < LITTLE || wire_s < SLOW_LINK * other_s) return null;
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

// The shares at which all would compute for the same time, at the speed that each shows now.
function shareAdvice(nodes, times, slowest) {
  const speeds = nodes.map((node, index) => node.share / times[index].compute_s);
  const all = speeds.reduce((sum, speed) => sum + speed, 0);
  if (!Number.isFinite(all) || all <= 0) return "";
  const parts = speeds.map((speed) => Math.max(1, Math.round(100 * speed / all)));
  return `With ${parts[slowest]} % of the model instead of ${percent(nodes[slowest].share)} it would keep up: `
    + `--shares ${parts.join(" ")}`;
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
