// Replies: asking for them, taking them in piece by piece, stopping them. Each conversation may have one under way,
// whichever is on the screen.

import { titleOf } from "./conversations.js";
import { requestSettings } from "./settings.js";

const SAVE_EVERY_MS = 1000;
const MAX_TRIES = 20; // while the server asks for patience
const WORTH_SENDING = new Set(["done", "stopped", "failed"]);

export class Chat {
  #underWay = new Map(); // conversation id -> AbortController

  // `onchange(conversation, message)` is called after each change of a message; null: of which messages there are.
  constructor(api, conversations, onchange) {
    this.api = api;
    this.conversations = conversations;
    this.onchange = onchange;
  }

  isReplying(conversation) {
    return this.#underWay.has(conversation.id);
  }

  // Adds what the person says, and the reply. Resolves when the reply has ended, however it did.
  async send(conversation, text) {
    if (conversation.messages.length === 0 && !conversation.hasOwnTitle) conversation.title = titleOf(text);
    conversation.messages.push({ role: "user", content: text });
    await this.reply(conversation);
  }

  // Asks for a reply to what is there.
  async reply(conversation) {
    const reply = { role: "assistant", content: "", state: "waiting", numbers: {} };
    const aborter = new AbortController();
    const body = requestBody(conversation);
    conversation.messages.push(reply);
    this.#underWay.set(conversation.id, aborter);
    this.#changed(conversation, null);
    try {
      await this.#receive(conversation, reply, body, aborter.signal);
      reply.state = "done";
    } catch (error) {
      reply.state = aborter.signal.aborted ? "stopped" : "failed";
      if (!aborter.signal.aborted) reply.error = { kind: error.kind ?? "server", message: error.message };
    }
    delete reply.retry;
    delete reply.prompt;
    if (this.#underWay.get(conversation.id) === aborter) this.#underWay.delete(conversation.id);
    this.#changed(conversation, reply);
  }

  stop(conversation) {
    this.#underWay.get(conversation.id)?.abort();
  }

  // When the page is left: what breaks then is no failure.
  stopAll() {
    for (const aborter of this.#underWay.values()) aborter.abort();
  }

  // Takes away message `index` and what follows, and returns a function that brings it back.
  cut(conversation, index) {
    this.stop(conversation);
    const before = conversation.messages;
    conversation.messages = before.slice(0, index);
    return () => {
      this.stop(conversation);
      conversation.messages = before;
      this.#changed(conversation, null);
    };
  }

  async #receive(conversation, reply, body, signal) {
    const started = performance.now();
    let saved = started;
    let first = null;
    for await (const { text, thoughts, finish, usage } of this.#patiently(conversation, reply, body, signal)) {
      if (text || thoughts) {
        first ??= performance.now();
        reply.content += text ?? "";
        if (thoughts) reply.thoughts = (reply.thoughts ?? "") + thoughts;
        reply.state = "streaming";
        delete reply.prompt;
      }
      if (finish) reply.finish = finish;
      reply.numbers = numbers(usage, started, first, reply.numbers);
      this.onchange(conversation, reply);
      if (performance.now() - saved > SAVE_EVERY_MS) {
        saved = performance.now();
        this.conversations.save(conversation);
      }
    }
  }

  // The reply's events; waits and asks again while the queue is full, and tells by `retry` {kind, message, at (ms)}.
  async* #patiently(conversation, reply, body, signal) {
    for (let n_tries = 1; ; n_tries += 1) {
      try {
        yield* this.api.chat(body, signal, (prompt) => this.#onPrompt(conversation, reply, prompt));
        return;
      } catch (error) {
        if (!Number.isFinite(error.retryAfter_s) || n_tries === MAX_TRIES) throw error;
        reply.retry = { kind: error.kind, message: error.message, at: Date.now() + error.retryAfter_s * 1000 };
        this.onchange(conversation, reply);
        await delay(error.retryAfter_s * 1000, signal);
        delete reply.retry;
        this.onchange(conversation, reply);
      }
    }
  }

  #onPrompt(conversation, reply, prompt) {
    if (reply.state !== "waiting") return;
    reply.prompt = prompt;
    this.onchange(conversation, reply);
  }

  #changed(conversation, message) {
    conversation.changed = Date.now();
    this.conversations.save(conversation);
    this.onchange(conversation, message);
  }
}

// Of a reply: tokens of the prompt, of them from the cache, of the reply; seconds to the first text, and in all.
function numbers(usage, started, first, before) {
  const now = performance.now();
  return {
    ...before,
    first_s: first === null ? null : (first - started) / 1000,
    total_s: (now - started) / 1000,
    ...usage && {
      n_prompt: usage.prompt_tokens,
      n_cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
      n_completion: usage.completion_tokens,
    },
  };
}

function requestBody({ settings, messages }) {
  const system = settings.system?.trim() ? [{ role: "system", content: settings.system }] : [];
  const said = messages
    .filter(({ role, content, state }) => role === "user" || (content && WORTH_SENDING.has(state)))
    .map((message) => ({ role: message.role, content: withoutThoughts(message) }));
  return { messages: [...system, ...joined(said)], ...requestSettings(settings) };
}

// Messages of one role in a row, after a reply that failed, become one: many chat templates want turns to alternate.
function joined(said) {
  const turns = [];
  for (const { role, content } of said) {
    const last = turns.at(-1);
    if (last?.role === role) last.content += `\n\n${content}`;
    else turns.push({ role, content });
  }
  return turns;
}

// What a model thought aloud before it answered: [thoughts or null, answer, whether it still thinks]. The server tells
// thoughts from the answer where it knows the model's way of thinking; elsewhere they stand in <think>.
export function thoughtsAndAnswer({ content, thoughts }) {
  if (thoughts) return [thoughts.trim(), content.trimStart(), content === ""];
  const found = /^\s*<think>([^]*?)(?:<\/think>|$)/.exec(content);
  if (!found) return [null, content, false];
  return [found[1].trim(), content.slice(found[0].length).trimStart(), !found[0].endsWith("</think>")];
}

function withoutThoughts(message) {
  if (message.role === "user") return message.content;
  const [, answer] = thoughtsAndAnswer(message);
  return answer || message.content;
}

function delay(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}
