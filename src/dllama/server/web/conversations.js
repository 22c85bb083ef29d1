// Conversations, kept in a Storage (storage.js): one entry for each, and one that lists them.
//
// A conversation: {id, title, hasOwnTitle, changed (ms since 1970), settings (settings.js), messages}.
// A message: {role: "user" | "assistant", content}; a reply has also
//   state   "waiting" | "streaming" | "done" | "stopped" | "failed"
//   thoughts  what the server told apart from the answer, where it did
//   prompt  {n_done, n_all}: tokens of the prompt, while it is computed
//   finish  why it ended, as the server said; error {kind, message} where it failed; numbers {see chat.js}

const LIST = "dllama.conversations";
const ONE = "dllama.conversation.";
const MAX_TITLE = 60;

export class Conversations {
  // `onproblem(text)` is called when something cannot be stored.
  constructor(storage, onproblem) {
    this.storage = storage;
    this.onproblem = onproblem;
    this.open = new Map(); // those that are in use: everyone works on the same object
  }

  // [{id, title, changed}], the last changed first.
  list() {
    return this.#read(LIST, []).sort((one, other) => other.changed - one.changed);
  }

  create(settings) {
    const conversation = { id: newId(), title: "New conversation", hasOwnTitle: false, changed: Date.now(), settings, messages: [] };
    this.open.set(conversation.id, conversation);
    return conversation;
  }

  // null where there is none of this id.
  get(id) {
    if (!this.open.has(id)) {
      const stored = this.#read(ONE + id, null);
      if (!stored) return null;
      for (const message of stored.messages) {
        if (message.state === "waiting" || message.state === "streaming") message.state = "stopped"; // the page was closed
      }
      this.open.set(id, stored);
    }
    return this.open.get(id);
  }

  // Stores it; not one without messages, nor one that has been removed.
  save(conversation) {
    if (conversation.messages.length === 0 || this.open.get(conversation.id) !== conversation) return;
    const { id, title, changed } = conversation;
    const others = this.#read(LIST, []).filter((entry) => entry.id !== id);
    this.#write(ONE + id, conversation);
    this.#write(LIST, [...others, { id, title, changed }]);
  }

  remove(id) {
    this.open.delete(id);
    this.storage.removeItem(ONE + id);
    this.#write(LIST, this.#read(LIST, []).filter((entry) => entry.id !== id));
  }

  // Brings back what remove() took away.
  restore(conversation) {
    this.open.set(conversation.id, conversation);
    this.save(conversation);
  }

  rename(conversation, title) {
    conversation.title = shortened(title) || conversation.title;
    conversation.hasOwnTitle = true;
    this.save(conversation);
  }

  // Drops what this page holds of a conversation that another tab has changed.
  forget(id) {
    this.open.delete(id);
  }

  #read(name, otherwise) {
    try {
      return JSON.parse(this.storage.getItem(name)) ?? otherwise;
    } catch {
      return otherwise;
    }
  }

  #write(name, value) {
    try {
      this.storage.setItem(name, JSON.stringify(value));
    } catch {
      this.onproblem("The browser's storage is full: this conversation is not kept. Delete or export others.");
    }
  }
}

// The id of the conversation that storage event `event` is about; null for other entries.
export function changedElsewhere(event) {
  return event.key?.startsWith(ONE) ? event.key.slice(ONE.length) : null;
}

// A title from what the person said first.
export function titleOf(text) {
  return shortened(text.split("\n").find((line) => line.trim()) ?? "New conversation");
}

function shortened(text) {
  const words = text.replace(/\s+/g, " ").trim();
  return words.length <= MAX_TITLE ? words : `${words.slice(0, MAX_TITLE - 1).trimEnd()}…`;
}

// Not crypto.randomUUID: browsers have it only for HTTPS and this computer.
function newId() {
  const random = crypto.getRandomValues(new Uint32Array(2));
  return `${Date.now().toString(36)}-${random[0].toString(36)}${random[1].toString(36)}`;
}
