// The page: puts its parts together.

import { Api } from "./api.js";
import { Chat } from "./chat.js";
import { ClusterView } from "./cluster_view.js";
import { ClusterWatch } from "./cluster.js";
import { Composer } from "./composer.js";
import { ConversationView } from "./conversation_view.js";
import { changedElsewhere, Conversations } from "./conversations.js";
import { fillIcons } from "./dom.js";
import { Drawers } from "./drawers.js";
import { asJson, asMarkdown, download, fileName } from "./export.js";
import { count, rate, sentence } from "./format.js";
import { Key } from "./key.js";
import { notify } from "./notices.js";
import { defaultSettings, SettingsDialog } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { inTab, isBlocked, keepIfRoom, onComputer } from "./storage.js";

const CURRENT = "dllama.current";
const at = (id) => document.getElementById(id);

class Page {
  constructor() {
    fillIcons(document);
    this.drafts = new Map(); // conversation -> what is written for it and not sent
    this.conversations = new Conversations(onComputer, notify);
    at("not-kept").hidden = !isBlocked;
    this.key = new Key(at("key"), () => this.watch.now(), (key, signal) => this.api.refusal(key, signal));
    this.api = new Api(this.key);
    this.chat = new Chat(this.api, this.conversations, (...news) => this.#onNews(...news));
    this.settings = new SettingsDialog(at("settings"), (signal) => this.api.defaults(signal));
    this.drawers = new Drawers();
    this.composer = new Composer({
      send: (text) => this.ask(text),
      stop: () => this.chat.stop(this.conversation),
      editLast: () => this.view.editLastOfPerson(),
    });
    this.view = new ConversationView({
      ask: (text) => this.ask(text),
      edit: (message, text) => this.edit(message, text),
      regenerate: (message) => this.#replyAgain(message),
      startNew: () => this.startNew(),
    });
    this.sidebar = new Sidebar(at("list"), {
      choose: (id) => this.#choose(id),
      rename: (id, title) => this.#rename(id, title),
      remove: (id) => this.#remove(id),
    }, (id) => this.#isReplying(id));
    this.clusterView = new ClusterView(at("cluster"));
    this.watch = new ClusterWatch(this.api, (view) => this.#onCluster(view), (error) => this.#onNoCluster(error));
    this.#listen();
    this.#show(this.conversations.get(inTab.getItem(CURRENT) ?? onComputer.getItem(CURRENT)) ?? this.#fresh());
    this.watch.now();
    if (!window.matchMedia("(pointer: coarse)").matches) this.composer.focus();
  }

  ask(text) {
    this.view.follow();
    this.chat.send(this.conversation, text);
  }

  // A person's message is sent anew, and what followed it goes; a reply's text is just replaced.
  edit(message, text) {
    const { conversation } = this;
    const index = conversation.messages.indexOf(message);
    if (message.role === "assistant") {
      message.content = text;
      this.view.messageChanged(message);
      this.conversations.save(conversation);
      return;
    }
    const n_later = conversation.messages.length - index - 1;
    const undo = this.chat.cut(conversation, index);
    this.ask(text);
    if (n_later > 1) notify(`${count(n_later, "later message")} removed.`, undo);
    this.composer.focus();
  }

  startNew() {
    this.drawers.close();
    this.#show(this.#fresh());
    this.composer.focus();
  }

  #fresh() {
    return this.conversations.create(defaultSettings());
  }

  #replyAgain(message) {
    const { conversation } = this;
    const undo = this.chat.cut(conversation, conversation.messages.indexOf(message));
    this.view.follow();
    this.chat.reply(conversation);
    if (message.content) notify("The reply is written anew.", undo);
    this.composer.focus();
  }

  #show(conversation) {
    if (this.conversation) this.drafts.set(this.conversation.id, this.composer.draft);
    this.conversation = conversation;
    for (const storage of [inTab, onComputer]) keepIfRoom(storage, CURRENT, conversation.id);
    this.composer.draft = this.drafts.get(conversation.id) ?? "";
    this.view.open(conversation);
    this.#showAround();
  }

  // All but the messages: the title, the list, the buttons.
  #showAround() {
    const { title, messages, settings } = this.conversation;
    at("title").textContent = title;
    document.title = messages.length ? `${title} · dllama` : "dllama";
    at("export").hidden = messages.length === 0;
    at("open-settings").classList.toggle("in-use", Object.keys(settings).length > 0);
    this.composer.setReplying(this.chat.isReplying(this.conversation));
    this.sidebar.show(this.conversations.list(), this.conversation.id, Date.now());
  }

  #onNews(conversation, message) {
    if (conversation === this.conversation) {
      if (message) this.view.messageChanged(message);
      else this.view.messagesChanged();
    }
    if (!message || message.state !== "streaming") this.#showAround();
  }

  #isReplying(id) {
    const conversation = this.conversations.open.get(id);
    return conversation !== undefined && this.chat.isReplying(conversation);
  }

  #choose(id) {
    const conversation = this.conversations.get(id);
    this.drawers.close();
    if (conversation) this.#show(conversation);
    this.composer.focus();
  }

  #rename(id, title) {
    const conversation = this.conversations.get(id);
    if (conversation && title !== conversation.title) this.conversations.rename(conversation, title);
    this.#showAround();
  }

  #remove(id) {
    const conversation = this.conversations.get(id);
    if (!conversation) return;
    this.chat.stop(conversation);
    this.conversations.remove(id);
    if (conversation === this.conversation) this.#show(this.#fresh());
    else this.#showAround();
    (at("list").querySelector(".choose") ?? at("new")).focus();
    notify(`“${conversation.title}” deleted.`, () => {
      this.conversations.restore(conversation);
      this.#show(conversation);
    });
  }

  #onCluster(view) {
    this.clusterView.show(view, performance.now());
    this.view.setModel(view.model);
    const speed = view.engine?.running ? ` · ${rate(view.engine.tok_per_s)} tokens/s` : "";
    this.#showPill(view.status === "ok" ? count(view.nodes.length, "node") : "recovering", speed, view.status !== "ok");
  }

  #onNoCluster(error) {
    const isKey = error.kind === "key";
    const text = error.kind ? sentence(error.message) : "The server takes too long to answer.";
    this.clusterView.showTrouble(text, isKey ? { text: "Enter the key", onclick: () => this.key.ask(text) } : null);
    this.#showPill(isKey ? "key needed" : "no answer", "", true);
  }

  #showPill(text, speed, isTrouble) {
    at("pill").textContent = text;
    at("pill-speed").textContent = speed;
    at("open-cluster").classList.toggle("trouble", isTrouble);
  }

  #listen() {
    at("new").addEventListener("click", () => this.startNew());
    at("change-key").addEventListener("click", () => this.key.ask("The key that this page sends to the server."));
    at("open-settings").addEventListener("click", () => this.#changeSettings());
    at("theme").value = onComputer.getItem("dllama.theme") ?? "";
    at("theme").addEventListener("change", ({ target }) => {
      keepIfRoom(onComputer, "dllama.theme", target.value);
      document.documentElement.dataset.theme = target.value;
    });
    this.#listenToExport();
    document.addEventListener("keydown", (event) => {
      const isFree = !this.drawers.isOpen && !document.querySelector("dialog[open]");
      if (event.key === "Escape" && isFree && !at("export").open) this.chat.stop(this.conversation);
    });
    window.addEventListener("pagehide", () => {
      if (this.#isReplying(this.conversation.id)) this.conversations.save(this.conversation);
      this.chat.stopAll();
    });
    window.addEventListener("storage", (event) => this.#onOtherTab(event));
  }

  #listenToExport() {
    const menu = at("export");
    const close = () => {
      menu.open = false;
    };
    menu.addEventListener("click", (event) => {
      const format = event.target.closest("[data-format]")?.dataset.format;
      if (!format) return;
      close();
      const { title } = this.conversation;
      if (format === "json") download(fileName(title, "json"), asJson(this.conversation), "application/json");
      else download(fileName(title, "md"), asMarkdown(this.conversation), "text/markdown");
    });
    document.addEventListener("click", (event) => menu.contains(event.target) || close());
    menu.addEventListener("focusout", (event) => event.relatedTarget && !menu.contains(event.relatedTarget) && close());
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      event.stopPropagation();
      close();
      menu.querySelector("summary").focus();
    });
  }

  async #changeSettings() {
    const { conversation } = this;
    const given = await this.settings.ask(conversation.settings);
    if (given === null) return;
    conversation.settings = given;
    this.conversations.save(conversation);
    this.#showAround();
  }

  #onOtherTab(event) {
    const id = changedElsewhere(event);
    if (id === null || this.#isReplying(id)) return;
    this.conversations.forget(id);
    if (id !== this.conversation.id) this.#showAround();
    else this.#show(this.conversations.get(id) ?? this.#fresh());
  }
}

new Page();
