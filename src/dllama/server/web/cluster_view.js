// Shows the cluster: a verdict in words, and for every node its times on one scale, its share and its memory.

import { element, polyline } from "./dom.js";
import { bytes, clockTime, count, milliseconds, percent, rate, sentence } from "./format.js";
import { nodeName, total_s, verdict } from "./verdict.js";

const N_POINTS = 60; // of the curve of tokens/s: a minute
const STATES = { busy: "working", idle: "idle", recovering: "recovering", trouble: "no news" };
const PARTS = [["compute_s", "compute", "computes"], ["wait_s", "wait", "waits"], ["wire_s", "wire", "sends"]];

export class ClusterView {
  #cards = [];
  #rates = [];
  #last = null; // {view, at}: what was shown, and when it came, for rates
  #which = "mean"; // or "last": whose times are shown

  // `root` is the <aside> of index.html.
  constructor(root) {
    this.find = (name) => root.querySelector(`[data-show="${name}"]`);
    for (const radio of root.querySelectorAll("input[name=times]")) {
      radio.addEventListener("change", () => {
        this.#which = radio.value;
        if (this.#last) this.#showTimes(this.#last.view);
      });
    }
  }

  show(view, now_ms) {
    const { model, nodes, engine, status, reason } = view;
    const elapsed_s = this.#last ? (now_ms - this.#last.at) / 1000 : 0;
    this.find("model").textContent = model;
    this.find("about").textContent = about(view);
    if (status === "ok") this.#state(engine?.running ? "busy" : "idle", "");
    else this.#state("recovering", sentence(reason ?? status));
    this.#showRate(engine?.tok_per_s ?? 0);
    this.#showEngine(engine);
    if (this.#cards.length !== nodes.length) this.#makeCards(nodes);
    nodes.forEach((node, index) => this.#cards[index].show(node, this.#last?.view.nodes[index], elapsed_s));
    this.#last = { view, at: now_ms };
    this.#showTimes(view);
  }

  // No answer: what was known stays, dimmed; `act` is {text, onclick} of a button, or null.
  showTrouble(text, act = null) {
    this.#state("trouble", text);
    if (act) this.find("trouble").append(element("button", { type: "button", class: "plain", onclick: act.onclick }, act.text));
  }

  #state(state, trouble) {
    this.find("body").dataset.state = state;
    this.find("state").textContent = STATES[state];
    const place = this.find("trouble");
    place.hidden = !trouble;
    if (trouble && place.firstChild?.textContent === trouble && place.childElementCount === 1) return;
    place.replaceChildren(...trouble ? [element("p", {}, trouble)] : []);
  }

  #showRate(tok_per_s) {
    this.#rates = [...this.#rates, tok_per_s].slice(-N_POINTS);
    const most = Math.max(1e-9, ...this.#rates);
    const first = N_POINTS - this.#rates.length;
    const points = this.#rates.map((value, index) => [first + index, 30 - 28 * value / most]);
    this.find("rate").textContent = rate(tok_per_s);
    const line = [[first, 31], ...points, [N_POINTS - 1, 31]];
    this.find("curve").replaceChildren(...this.#rates.length > 1 ? [polyline(line, N_POINTS - 1, 32)] : []);
  }

  #showEngine(engine) {
    this.find("engine").hidden = !engine;
    if (!engine) return;
    const waiting = engine.queued ? `, ${engine.queued} waiting` : "";
    this.find("requests").textContent = engine.running || engine.queued ? `${engine.running} answering${waiting}` : "none";
    const [used, kept] = [engine.pages_used, engine.pages_cached].map((pages) => pages / Math.max(1, engine.pages_total));
    this.find("pages").textContent = `${percent(used)} in use, ${percent(kept)} kept for reuse`;
    setParts(this.find("pages-bar"), [used, kept]);
    const prompt = engine.prompt_tokens;
    this.find("reused").textContent = prompt ? `${percent(engine.cached_tokens / prompt)} of prompt tokens` : "nothing yet";
  }

  #makeCards(nodes) {
    this.#cards = nodes.map(() => new NodeCard());
    this.find("nodes").replaceChildren(...this.#cards.map((card) => card.root));
  }

  #showTimes({ nodes, margins, engine }) {
    const times = nodes.map((node) => node[this.#which]);
    const said = verdict(nodes, times, margins);
    const isNow = Boolean(engine?.running); // else what is shown is how it was when it last worked
    const scale_s = Math.max(0, ...times.filter(Boolean).map(total_s));
    this.find("verdict").dataset.kind = isNow ? said.kind : "past";
    this.find("verdict-when").textContent = isNow || said.kind === "unknown" ? "" : "Nothing is computed now. When it last was:";
    this.find("verdict-text").textContent = said.text;
    this.find("verdict-advice").textContent = said.advice;
    this.find("scale").textContent = scale_s > 0 ? `A full bar is ${milliseconds(scale_s)} ms.` : "";
    nodes.forEach((node, index) => this.#cards[index].showTimes(node, times[index], scale_s, isNow && said.rank === node.rank));
  }
}

class NodeCard {
  constructor() {
    const part = (name) => element("span", { class: `part ${name}` });
    this.name = element("h3");
    this.address = element("span", { class: "address" });
    this.bar = element("div", { class: "bar times", "aria-hidden": "true" }, PARTS.map(([, name]) => part(name)));
    this.lost = element("p", { class: "lost-since" });
    this.words = element("p", { class: "words" });
    this.facts = element("p", { class: "facts" });
    this.more = element("p", { class: "facts" });
    this.root = element("li", { class: "node" },
      element("div", { class: "who" }, this.name, this.address), this.lost, this.bar, this.words, this.facts, this.more);
  }

  show(node, before, elapsed_s) {
    this.name.textContent = nodeName(node);
    this.address.textContent = node.name === nodeName(node) ? "" : node.name;
    this.address.title = node.name;
    this.root.classList.toggle("lost", Boolean(node.lost_since));
    this.lost.textContent = node.lost_since ? lostSince(node) : "";
    this.facts.textContent = `${percent(node.share)} of the model · ${memory(node)}`;
    this.traffic = traffic(node, before, elapsed_s);
  }

  showTimes(node, times, scale_s, isMeant) {
    this.root.classList.toggle("meant", isMeant);
    this.more.textContent = [processor(node), pace(times), this.traffic].filter(Boolean).join(" · ");
    setParts(this.bar, PARTS.map(([field]) => (times && scale_s > 0 ? times[field] / scale_s : 0)));
    if (!times) {
      this.words.textContent = "no times yet";
      return;
    }
    this.words.replaceChildren(...PARTS.map(([field, name, verb]) => element("span", { class: `word ${name}` },
      `${verb} ${milliseconds(times[field], scale_s)}`)));
  }
}

function lostSince({ lost_since, lost_reason }) {
  return `Last heard of at ${clockTime(lost_since * 1000, Date.now())}${lost_reason ? `: ${lost_reason}` : ""}`;
}

function about({ nodes, max_model_len }) {
  const context = max_model_len ? ` · ${max_model_len.toLocaleString("en")} tokens of context` : "";
  const n_lost = nodes.filter((node) => node.lost_since).length;
  return count(nodes.length, "node") + (n_lost ? `, ${n_lost} lost` : "") + context;
}

function memory({ weight_bytes, kv_bytes, memory_bytes }) {
  const used = bytes(weight_bytes + (kv_bytes ?? 0));
  return memory_bytes ? `${used} of ${bytes(memory_bytes)}` : used;
}

function processor({ n_threads, isa }) {
  return [n_threads && count(n_threads, "thread"), isa].filter(Boolean).join(", ");
}

// What the node could do if nobody and nothing held it up: its own speed, to compare with the others'.
function pace(times) {
  return times?.compute_s > 0 ? `could do ${rate(1 / times.compute_s)} steps/s` : "";
}

function traffic(node, before, elapsed_s) {
  if (!before || elapsed_s <= 0 || node.sent_bytes <= before.sent_bytes) return "";
  return `sends ${bytes((node.sent_bytes - before.sent_bytes) / elapsed_s)}/s`;
}

// Widths of a bar's parts, as fractions of the bar.
function setParts(bar, fractions) {
  fractions.forEach((fraction, index) => {
    bar.children[index].style.width = `${(100 * Math.min(1, fraction)).toFixed(2)}%`;
  });
}
