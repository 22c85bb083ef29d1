// The box in which a message is written.

const MAX_SHARE_OF_WINDOW = 0.4;

export class Composer {
  #isReplying = false;

  // `act` has send(text), stop(), editLast().
  constructor(act) {
    this.act = act;
    this.form = document.getElementById("composer");
    this.prompt = document.getElementById("prompt");
    this.sendButton = document.getElementById("send");
    this.stopButton = document.getElementById("stop");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.prompt.addEventListener("input", () => this.#fit());
    this.prompt.addEventListener("keydown", (event) => this.#onKey(event));
    this.stopButton.addEventListener("click", () => {
      act.stop();
      this.prompt.focus();
    });
    this.#fit();
  }

  // What has been written and not sent; each conversation has its own.
  get draft() {
    return this.prompt.value;
  }

  set draft(text) {
    this.prompt.value = text;
    this.#fit();
  }

  focus() {
    this.prompt.focus({ preventScroll: true });
  }

  setReplying(isReplying) {
    this.#isReplying = isReplying;
    const hadFocus = document.activeElement === this.sendButton || document.activeElement === this.stopButton;
    this.sendButton.hidden = isReplying;
    this.stopButton.hidden = !isReplying;
    if (hadFocus) this.prompt.focus();
    this.#fit();
  }

  #send() {
    const text = this.prompt.value.trim();
    if (!text || this.#isReplying) return;
    this.draft = "";
    this.act.send(text);
  }

  #onKey(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey && !isTouch()) {
      event.preventDefault();
      this.#send();
    } else if (event.key === "ArrowUp" && this.prompt.value === "" && !this.#isReplying) {
      event.preventDefault();
      this.act.editLast();
    }
  }

  #fit() {
    this.prompt.style.height = "auto";
    const most = window.innerHeight * MAX_SHARE_OF_WINDOW;
    this.prompt.style.height = `${Math.min(this.prompt.scrollHeight, most)}px`;
    this.prompt.style.overflowY = this.prompt.scrollHeight > most ? "auto" : "hidden";
    this.sendButton.disabled = this.prompt.value.trim() === "";
  }
}

// On a screen keyboard Enter begins a new line, as everywhere there.
function isTouch() {
  return window.matchMedia("(pointer: coarse) and (hover: none)").matches;
}
