// The API key: asked for when the server wants one, kept for this tab or, by choice, on this computer.

import { sentence } from "./format.js";
import { inTab, onComputer } from "./storage.js";

const NAME = "dllama.key";

export class Key {
  #waiting = null; // the answer of a dialog that is open

  // `dialog` is the <dialog> of index.html; `onchange` is called when a key has been given or forgotten.
  constructor(dialog, onchange) {
    this.dialog = dialog;
    this.onchange = onchange;
    this.form = dialog.querySelector("form");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#keep(this.form.elements.key.value.trim(), this.form.elements.remember.checked);
      dialog.close("given");
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

  #keep(value, onThisComputer) {
    inTab.removeItem(NAME);
    onComputer.removeItem(NAME);
    if (value) (onThisComputer ? onComputer : inTab).setItem(NAME, value);
    this.onchange();
  }
}
