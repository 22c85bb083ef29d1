// What the browser keeps for the page: on this computer, and for this tab alone. Where it is blocked, by a setting or a
// policy, memory takes its place until the page is closed.

class Memory {
  #values = new Map();

  getItem(name) {
    return this.#values.get(name) ?? null;
  }

  setItem(name, value) {
    this.#values.set(name, value);
  }

  removeItem(name) {
    this.#values.delete(name);
  }
}

// A blocked storage throws when it is looked at; some browsers have null in its place.
function opened(name) {
  try {
    window[name].getItem("dllama");
    return window[name];
  } catch {
    return new Memory();
  }
}

export const onComputer = opened("localStorage");
export const inTab = opened("sessionStorage");
export const isBlocked = onComputer instanceof Memory;

// Keeps what can be done without: nothing happens where there is no room for it.
export function keepIfRoom(storage, name, value) {
  try {
    storage.setItem(name, value);
  } catch {
    // full: conversations.js says so where it matters
  }
}
