// The messages of the conversation on the screen; stays at the end while a reply grows, unless the person scrolled up.

import { thoughtsAndAnswer } from "./chat.js";
import { element } from "./dom.js";
import { MessageView } from "./message_view.js";
import { say, Speaker } from "./notices.js";

const NEAR_END_PX = 60;

const STARTERS = {
  demo: ["Tell me a story about a fox and a bear.", "What is the opposite of hot?", "Count from three to nine.",
    "My name is Mia. What can you do?"],
  other: ["Explain how a large model runs on several small computers.", "Write a Python function that merges two sorted lists.",
    "Suggest a dinner from what is usually at home.", "Summarise the text that I paste next."],
};

export class ConversationView {
  #views = new Map(); // message -> MessageView
  #isFollowing = true;
  #top = 0; // where it was scrolled to
  #speaker = null;
  #isDemo = false;

  // `act` is that of MessageView, and ask(text) for the suggestions of an empty conversation.
  constructor(act) {
    this.act = act;
    this.place = document.getElementById("messages");
    this.scroller = document.getElementById("scroller");
    this.toEnd = document.getElementById("to-end");
    this.scroller.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    this.toEnd.addEventListener("click", () => this.follow());
    const observer = new ResizeObserver(() => this.#keepAtEnd());
    for (const part of [this.place, this.scroller]) observer.observe(part);
  }

  // Shows a conversation from its end.
  open(conversation) {
    this.conversation = conversation;
    this.#views.clear();
    this.place.replaceChildren();
    this.#speaker = null;
    this.messagesChanged();
    this.follow();
  }

  // After messages came or went: keeps the views of those that stayed.
  messagesChanged() {
    const { messages } = this.conversation;
    for (const [message, view] of this.#views) {
      if (messages.includes(message)) continue;
      view.root.remove();
      this.#views.delete(message);
    }
    if (messages.length === 0) this.place.replaceChildren(this.#welcome());
    else this.place.querySelector(".welcome")?.remove();
    for (const message of messages) {
      if (this.#views.has(message)) continue;
      const view = new MessageView(message, this.act);
      this.#views.set(message, view);
      this.place.append(view.root);
    }
    this.#keepAtEnd(); // at once: the message box may have shrunk, which looks as if somebody had scrolled up
  }

  messageChanged(message) {
    this.#views.get(message)?.changed();
    this.#speak(message);
  }

  editLastOfPerson() {
    const message = this.conversation.messages.findLast(({ role }) => role === "user");
    if (message) this.#views.get(message).edit();
  }

  follow() {
    this.#isFollowing = true;
    this.#keepAtEnd();
  }

  // Which suggestions fit: the bundled model knows stories and little else.
  setModel(model) {
    const isDemo = /demo/i.test(model);
    if (isDemo === this.#isDemo) return;
    this.#isDemo = isDemo;
    this.place.querySelector(".welcome")?.replaceWith(this.#welcome());
  }

  #welcome() {
    const starters = STARTERS[this.#isDemo ? "demo" : "other"];
    return element("div", { class: "welcome" },
      element("p", { class: "greeting" }, "What shall we talk about?"),
      element("p", { class: "lead" }, this.#isDemo
        ? "This is the small model that comes with dllama: it tells children's stories and answers simple questions."
        : "What you write is answered by your own computers, and stays with them."),
      element("ul", { class: "starters" }, starters.map((text) => element("li", {},
        element("button", { type: "button", onclick: () => this.act.ask(text) }, text)))));
  }

  #speak(message) {
    const [, answer] = thoughtsAndAnswer(message);
    if (message.state === "streaming") {
      if (this.#speaker?.message !== message) this.#speaker = Object.assign(new Speaker(), { message });
      this.#speaker.follow(answer);
    } else if (this.#speaker?.message === message) {
      this.#speaker.follow(answer, true);
      if (message.state !== "failed") say(message.state === "done" ? "The reply is complete." : "The reply was stopped.");
      this.#speaker = null;
    }
  }

  // Only scrolling upwards ends following: a text that grows leaves the end too.
  #onScroll() {
    const isUpwards = this.scroller.scrollTop < this.#top;
    this.#top = this.scroller.scrollTop;
    if (this.#isNearEnd()) this.#isFollowing = true;
    else if (isUpwards) this.#isFollowing = false;
    this.toEnd.hidden = this.#isFollowing;
  }

  #isNearEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  }

  #keepAtEnd() {
    if (this.#isFollowing) {
      this.scroller.scrollTop = this.scroller.scrollHeight;
      this.#top = this.scroller.scrollTop;
    }
    this.toEnd.hidden = this.#isFollowing || this.#isNearEnd();
  }
}
