// The two sides of the page: columns where there is room, drawers over the chat where there is not.

const DRAWERS = { sidebar: "(max-width: 760px)", cluster: "(max-width: 1180px)" };

export class Drawers {
  #open = null; // the name of the drawer over the page
  #opener = null;

  constructor() {
    this.shade = document.getElementById("shade");
    this.shade.addEventListener("click", () => this.close());
    for (const [name, query] of Object.entries(DRAWERS)) {
      const side = document.getElementById(name);
      const opener = document.getElementById(`open-${name}`);
      opener.addEventListener("click", () => this.toggle(name, opener));
      side.querySelector(".close-drawer").addEventListener("click", () => this.close());
      window.matchMedia(query).addEventListener("change", () => this.close());
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#open) this.close();
    });
  }

  get isOpen() {
    return this.#open !== null;
  }

  toggle(name, opener) {
    if (this.#open === name) return this.close();
    this.close();
    const side = document.getElementById(name);
    side.classList.add("open");
    this.shade.hidden = false;
    this.#setOthersInert(name, true);
    opener.setAttribute("aria-expanded", "true");
    this.#open = name;
    this.#opener = opener;
    side.querySelector("button").focus();
  }

  #setOthersInert(name, isInert) {
    for (const id of ["chat", ...Object.keys(DRAWERS)]) if (id !== name) document.getElementById(id).inert = isInert;
  }

  close() {
    if (!this.#open) return;
    document.getElementById(this.#open).classList.remove("open");
    this.shade.hidden = true;
    this.#setOthersInert(this.#open, false);
    this.#opener.setAttribute("aria-expanded", "false");
    this.#opener.focus();
    this.#open = null;
  }
}
