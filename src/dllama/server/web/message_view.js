// One message on the screen. It is told of changes and draws a growing text at most once a frame.

import { thoughtsAndAnswer } from "./chat.js";
import { copyButton } from "./clipboard.js";
import { element, iconButton } from "./dom.js";
import { count, rate, seconds, sentence } from "./format.js";
import { showMarkdown } from "./markdown_view.js";

const REASONS = {
  offline: "The server is gone",
  key: "An API key is needed",
  busy: "The server is busy",
  recovering: "The cluster is being put together again",
  context: "This conversation is too long for the model",
  server: "The server failed",
  request: "The server refused this",
};

export class MessageView {
  #frame = 0;

  // `act` has what its buttons do: edit(message, text), regenerate(message), again(message), startNew().
  constructor(message, act) {
    this.message = message;
    this.act = act;
    const isUser = message.role === "user";
    this.body = element("div", { class: isUser ? "text said" : "text markdown" });
    this.thoughts = element("div", { class: "text markdown" });
    this.thinking = element("details", { class: "thoughts", hidden: true }, element("summary"), this.thoughts);
    this.status = element("div", { class: "status" });
    this.numbers = element("span", { class: "numbers" });
    this.tools = element("div", { class: "tools" }, this.#buttons(isUser), this.numbers);
    this.root = element("article", { class: `message ${message.role}`, "aria-label": isUser ? "You" : "Reply" },
      element("h2", { class: "only-read" }, isUser ? "You" : "Reply"), isUser ? null : this.thinking, this.body, this.status, this.tools);
    this.draw();
  }

  // Draws it soon; many calls within a frame are one.
  changed() {
    if (this.message.state !== "streaming") this.draw();
    else this.#frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { role, content, state } = this.message;
    if (role === "user") {
      this.body.textContent = content;
      return;
    }
    this.root.dataset.state = state;
    this.#drawText();
    this.#drawStatus();
    this.numbers.textContent = state === "done" || state === "stopped" ? inWords(this.message.numbers) : "";
  }

  // A text box in place of the text, until it is kept or left.
  edit() {
    const isUser = this.message.role === "user";
    const area = element("textarea", { "aria-label": isUser ? "Edit your message" : "Edit the reply" });
    area.value = this.message.content;
    const end = () => {
      form.replaceWith(this.body);
      this.root.classList.remove("edited");
      this.root.querySelector("[data-edit]").focus();
    };
    const form = element("form", { class: "editor", onsubmit: (event) => {
      event.preventDefault();
      const text = area.value.trim();
      end();
      if (text) this.act.edit(this.message, text);
    }, onkeydown: (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        end();
      } else if (event.key === "Enter" && !event.isComposing && (isUser ? !event.shiftKey : event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        form.requestSubmit();
      }
    } }, area, element("div", { class: "row" }, element("span", { class: "gap" }),
      element("button", { type: "button", class: "plain", onclick: end }, "Cancel"),
      element("button", { class: "main" }, isUser ? "Send" : "Keep")));
    this.body.replaceWith(form);
    this.root.classList.add("edited");
    area.style.height = `${Math.min(area.scrollHeight + 2, window.innerHeight / 2)}px`;
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  #buttons(isUser) {
    const copy = copyButton(() => this.message.content, isUser ? "Copy your message" : "Copy the reply");
    const edit = iconButton("edit", isUser ? "Edit your message" : "Edit the reply", () => this.edit(), { "data-edit": true });
    const again = iconButton("again", "Regenerate the reply", () => this.act.regenerate(this.message));
    return isUser ? [copy, edit] : [copy, edit, again];
  }

  #drawText() {
    const [thoughts, answer, isThinking] = thoughtsAndAnswer(this.message);
    this.thinking.hidden = thoughts === null;
    if (thoughts !== null) {
      this.thinking.firstChild.textContent = isThinking && this.message.state === "streaming" ? "Thinking…" : "Thoughts";
      showMarkdown(this.thoughts, thoughts);
    }
    showMarkdown(this.body, answer);
  }

  #drawStatus() {
    const { state, finish, error, retry, prompt } = this.message;
    this.status.replaceChildren();
    if (retry) this.status.append(retryNote(retry));
    else if (state === "waiting") this.status.append(prompt ? promptBar(prompt) : waitingDots());
    else if (state === "failed") this.status.append(this.#problem(error));
    else if (state === "stopped") this.status.append(element("p", { class: "note" }, "Stopped."));
    else if (finish === "length") this.status.append(element("p", { class: "note" }, "Ended at the longest reply or the end of the context."));
  }

  #problem({ kind, message }) {
    const button = kind === "context"
      ? element("button", { type: "button", class: "plain", onclick: () => this.act.startNew() }, "New conversation")
      : element("button", { type: "button", class: "plain", onclick: () => this.act.regenerate(this.message) }, "Try again");
    return element("div", { class: "problem", role: "alert" },
      element("div", {}, element("strong", {}, REASONS[kind] ?? REASONS.server), element("p", {}, sentence(message))), button);
  }
}

function waitingDots() {
  return element("p", { class: "waiting", role: "img", "aria-label": "Waiting for the reply" },
    element("span"), element("span"), element("span"));
}

// How much of the prompt the model has read: a long one takes a small cluster minutes.
function promptBar({ n_done, n_all }) {
  const [done, all] = [n_done, n_all].map((number) => number.toLocaleString("en"));
  return element("p", { class: "reading" }, element("progress", { max: n_all, value: n_done, "aria-label": "Prompt read" }),
    n_done === 0 ? `The prompt of ${all} tokens is next.` : `Reading the prompt: ${done} of ${all} tokens`);
}

// Counts down to the next try. The clock ends when the note has left the page.
function retryNote({ kind, message, at }) {
  const left = element("span");
  const note = element("div", { class: "problem calm", role: "status" },
    element("div", {}, element("strong", {}, REASONS[kind]), element("p", {}, `${sentence(message)} `, left)));
  const tick = () => {
    left.textContent = `Trying again in ${Math.max(0, Math.ceil((at - Date.now()) / 1000))} s.`;
  };
  tick();
  const timer = setInterval(() => (note.isConnected ? tick() : clearInterval(timer)), 500);
  return note;
}

// "128 tokens · 24.1 tokens/s · first after 0.8 s · 512 of 530 prompt tokens from cache"
function inWords({ n_prompt, n_cached, n_completion, first_s, total_s } = {}) {
  if (!n_completion) return "";
  const writing_s = total_s - first_s;
  return [
    count(n_completion, "token"),
    n_completion > 1 && writing_s > 0 && `${rate((n_completion - 1) / writing_s)} tokens/s`,
    `first after ${seconds(first_s)}`,
    n_cached > 0 && `${n_cached} of ${n_prompt} prompt tokens from the cache`,
  ].filter(Boolean).join(" · ");
}
