// The server's answers. All addresses are relative to the page, so that it works behind a path of a proxy too.

import { chunksOf, eventData } from "./sse.js";

// What went wrong, in words for people. `kind` says what helps:
//   "offline"  nobody answers          "key"      a key is needed, or the one given is wrong
//   "busy"     the queue is full: try again after retryAfter_s
//   "recovering"  a node was lost and the others are put together again: the same
//   "context"  the conversation is too long
//   "server"   the server failed       "request"  it refused what was asked
export class ApiError extends Error {
  constructor(kind, message, retryAfter_s = null) {
    super(message);
    this.kind = kind;
    this.retryAfter_s = retryAfter_s;
  }
}

export class Api {
  // `key` holds the API key (see key.js).
  constructor(key) {
    this.key = key;
  }

  // What GET /api/cluster says. Does not ask for a key: throws an ApiError "key" where one is missing.
  async cluster(signal) {
    const response = await this.#fetch("api/cluster", { signal });
    if (!response.ok) throw await failure(response);
    return await json(response);
  }

  // What the server does where a request says nothing: {temperature, top_p, ...}, as GET /api/defaults has it.
  async defaults(signal) {
    const response = await this.#fetch("api/defaults", { signal });
    if (!response.ok) throw await failure(response);
    return await json(response);
  }

  // Why the server would refuse `key`; null where it does not, or does not answer.
  async refusal(key, signal) {
    const response = await this.#fetch("v1/models", { signal }, key).catch(() => null);
    return response?.status === 401 ? (await failure(response)).message : null;
  }

  // Yields {text} and {thoughts} while the reply grows, {finish} at its end, {usage} after it. `body` is that of
  // /v1/chat/completions without its streaming options. Until text comes, `onprompt({n_done, n_all})` is told how many
  // of the prompt's tokens are computed. Asks for a key where one is missing.
  async* chat(body, signal, onprompt) {
    const response = await this.#ask("v1/chat/completions", {
      method: "POST",
      signal,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    });
    let isWhole = false;
    for await (const data of readable(eventData(chunksOf(response.body), tellPrompt(onprompt)), signal)) {
      if (data === "[DONE]") {
        isWhole = true;
        break;
      }
      yield* news(JSON.parse(data));
    }
    if (!isWhole) throw new ApiError("offline", "The connection was lost before the reply was complete.");
  }

  async #ask(path, options) {
    for (;;) {
      const response = await this.#fetch(path, options);
      if (response.ok) return response;
      const error = await failure(response);
      if (error.kind !== "key" || !await this.key.ask(error.message, options.signal)) throw error;
    }
  }

  async #fetch(path, options, key = this.key.value) {
    const headers = { ...options.headers };
    if (key) headers.Authorization = `Bearer ${asHeader(key)}`;
    try {
      return await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError" || error.name === "TimeoutError") throw error;
      throw new ApiError("offline", "The server does not answer. Is it still running, and this computer connected to it?");
    }
  }
}

// A header's letters are bytes to a browser: those of the text's UTF-8.
function asHeader(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

// Understands the comment "prompt 512/7500".
function tellPrompt(onprompt) {
  return (comment) => {
    const found = /^prompt (\d+)\/(\d+)$/.exec(comment);
    if (found) onprompt({ n_done: Number(found[1]), n_all: Number(found[2]) });
  };
}

function* news(event) {
  if (event.error) throw new ApiError(event.error.code === "context_length_exceeded" ? "context" : "server", event.error.message);
  const choice = event.choices?.[0];
  if (choice?.delta?.reasoning_content) yield { thoughts: choice.delta.reasoning_content };
  if (choice?.delta?.content) yield { text: choice.delta.content };
  if (choice?.finish_reason) yield { finish: choice.finish_reason };
  if (event.usage) yield { usage: event.usage };
}

// The same events; a connection that breaks on the way becomes an ApiError.
async function* readable(events, signal) {
  try {
    yield* events;
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("offline", "The connection was lost before the reply was complete.");
  }
}

async function failure(response) {
  const said = await response.json().catch(() => null);
  const message = said?.error?.message ?? `The server answered ${response.status} ${response.statusText}`.trim();
  if (response.status === 401) return new ApiError("key", message);
  const retryAfter_s = parseFloat(response.headers.get("Retry-After"));
  if (response.status === 429) return new ApiError("busy", message, Number.isFinite(retryAfter_s) ? retryAfter_s : 5);
  if (response.status === 503 && Number.isFinite(retryAfter_s)) return new ApiError("recovering", message, retryAfter_s);
  if (said?.error?.code === "context_length_exceeded") return new ApiError("context", message);
  return new ApiError(response.status >= 500 ? "server" : "request", message);
}

async function json(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError("server", "The server's answer cannot be read.");
  }
}
