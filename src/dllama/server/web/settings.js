// A conversation's settings: its system prompt, and how tokens are drawn. What is left empty is the server's choice.

import { keepIfRoom, onComputer } from "./storage.js";

const DEFAULTS = "dllama.settings";
const LONGEST_MS = 5000; // that the server may take to tell its defaults
const OFF = { top_p: [0, 1], top_k: [0], min_p: [0], repetition_penalty: [1], presence_penalty: [0], frequency_penalty: [0] };

// Fields of the form in index.html, by the names of the API.
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
  "max_tokens", "seed"];

// The fields of a request: numbers that were given, and stop strings, one a line (\n in one is a new line).
export function requestSettings(settings) {
  const given = NUMBERS.filter((name) => Number.isFinite(settings[name])).map((name) => [name, settings[name]]);
  const stop = (settings.stop ?? "").split("\n").filter((line) => line !== "").map((line) => line.replaceAll("\\n", "\n"));
  return { ...Object.fromEntries(given), ...stop.length > 0 && { stop } };
}

export function defaultSettings() {
  try {
    return JSON.parse(onComputer.getItem(DEFAULTS)) ?? {};
  } catch {
    return {};
  }
}

export class SettingsDialog {
  // `dialog` is the <dialog> of index.html; `defaults(signal)` resolves to what the server does with an empty field.
  constructor(dialog, defaults) {
    this.dialog = dialog;
    this.defaults = defaults;
    this.form = dialog.querySelector("form");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#isRight()) dialog.close("kept");
    });
    this.form.elements.reset.addEventListener("click", () => this.#show({}));
    this.form.elements.cancel.addEventListener("click", () => dialog.close(""));
  }

  // Lets the person change `settings`; the new ones, or null when the dialog was closed without keeping them.
  ask(settings) {
    this.#show(settings);
    this.form.elements.always.checked = false;
    this.dialog.returnValue = "";
    this.dialog.showModal();
    this.#showDefaults();
    return new Promise((resolve) => {
      this.dialog.addEventListener("close", () => {
        if (this.dialog.returnValue !== "kept") return resolve(null);
        const given = this.#read();
        if (this.form.elements.always.checked) keepIfRoom(onComputer, DEFAULTS, JSON.stringify(given));
        return resolve(given);
      }, { once: true });
    });
  }

  // In the empty fields, in grey. Where the server does not tell, they are just empty.
  async #showDefaults() {
    const defaults = await this.defaults(AbortSignal.timeout(LONGEST_MS)).catch(() => ({}));
    for (const name of NUMBERS) this.form.elements[name].placeholder = inWords(name, defaults);
  }

  // Names the first field that is out of its range, and goes there.
  #isRight() {
    const wrong = NUMBERS.map((name) => this.form.elements[name]).find((field) => !field.validity.valid
      && !field.validity.stepMismatch);
    const name = wrong?.closest("label").firstChild.textContent.trim();
    this.form.querySelector("[data-wrong]").textContent = wrong ? `${name}: ${wrong.validationMessage}` : "";
    wrong?.focus();
    return !wrong;
  }

  #show(settings) {
    this.form.querySelector("[data-wrong]").textContent = "";
    for (const name of ["system", "stop"]) this.form.elements[name].value = settings[name] ?? "";
    for (const name of NUMBERS) this.form.elements[name].value = settings[name] ?? "";
  }

  #read() {
    const { elements } = this.form;
    const given = {};
    for (const name of ["system", "stop"]) if (elements[name].value.trim()) given[name] = elements[name].value;
    for (const name of NUMBERS) if (elements[name].value !== "") given[name] = elements[name].valueAsNumber;
    return given;
  }
}

// A default as a field shows it: "0.8", "off", "random".
function inWords(name, defaults) {
  if (!(name in defaults)) return "";
  const value = defaults[name];
  if (name === "seed") return value === null ? "random" : String(value);
  if (name === "max_tokens") return value === null ? "no limit" : String(value);
  return OFF[name]?.includes(value) ? "off" : String(value);
}
