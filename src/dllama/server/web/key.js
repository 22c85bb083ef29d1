// The API key: asked for when the server wants one, kept for this tab or, by choice, on this computer.

import { sentence } from "./format.js";
import { inTab, onComputer } from "./storage.js";

const NAME = "dllama.key";
const LONGEST_MS = 5000; // that a server may take to say whether it knows a key

export class Key {
  #waiting = null; // the answer of a dialog that is open

  // `dialog` is the <dialog> of index.html; `onchange` is called when a key has been given or forgotten.
  // `refusal(key, signal)` resolves to why the server would refuse a key, or null.
  constructor(dialog, onchange, refusal) {
    this.dialog = dialog;
    this.onchange = onchange;
    this.refusal = refusal;
    this.form = dialog.querySelector("form");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#use(this.form.elements.key.value.trim());
    });
    this.form.elements.forget.addEventListener("click", () => {
      this.#keep("", false);
      dialog.close("forgotten");
    });
    this.form.elements.cancel.addEventListener("click", () => dialog.close(""));
  }

  get value() {
    return inTab.getItem(NAME) ?? onComputer.getItem(NAME) ?? "";
  }

  // Shows the dialog with the reason; true once a key has been given, false when it was closed without one.
  ask(reason, signal = null) {
    this.#waiting ??= new Promise((resolve) => {
      this.form.elements.key.value = "";
      this.form.elements.remember.checked = onComputer.getItem(NAME) !== null;
      this.form.elements.forget.hidden = !this.value;
      this.#sayWrong("");
      this.dialog.querySelector("[data-reason]").textContent = sentence(reason);
      this.dialog.returnValue = "";
      this.dialog.showModal();
      const close = () => this.dialog.close("");
      signal?.addEventListener("abort", close);
      this.dialog.addEventListener("close", () => {
        signal?.removeEventListener("abort", close);
        this.#waiting = null;
        resolve(this.dialog.returnValue === "given");
      }, { once: true });
    });
    return this.#waiting;
  }

  // Closes the dialog with a key that the server takes; says what is wrong with another one.
  async #use(value) {
    if (!value) return this.#sayWrong("Enter a key.");
    const button = this.form.querySelector(".main");
    button.disabled = true;
    const refusal = await this.refusal(value, AbortSignal.timeout(LONGEST_MS));
    button.disabled = false;
    if (!this.dialog.open) return;
    if (refusal !== null) return this.#sayWrong(sentence(refusal));
    this.#keep(value, this.form.elements.remember.checked);
    this.dialog.close("given");
  }

  #sayWrong(text) {
    const field = this.form.elements.key;
    this.form.querySelector("[data-wrong]").textContent = text;
    field.setAttribute("aria-invalid", String(text !== ""));
    if (!text) return;
    field.value = "";
    field.focus();
  }

  #keep(value, onThisComputer) {
    inTab.removeItem(NAME);
    onComputer.removeItem(NAME);
    if (value) (onThisComputer ? onComputer : inTab).setItem(NAME, value);
    this.onchange();
  }
}
