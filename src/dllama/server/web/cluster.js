// Watches the cluster: asks GET /api/cluster about once a second while somebody looks, and tells what came.

const EVERY_MS = 1000;
const EVERY_MS_AFTER_FAILURES = [1000, 2000, 5000];
const LONGEST_MS = 5000; // that an answer may take

export class ClusterWatch {
  #timer = null;
  #n_failures = 0;
  #isAsking = false;

  // `onnews(view)` gets each answer, `onfailure(error)` an ApiError.
  constructor(api, onnews, onfailure) {
    this.api = api;
    this.onnews = onnews;
    this.onfailure = onfailure;
    document.addEventListener("visibilitychange", () => this.now());
  }

  // Asks at once, and from then on in turn. While the page is hidden nothing is asked.
  now() {
    clearTimeout(this.#timer);
    if (!document.hidden && !this.#isAsking) this.#ask();
  }

  async #ask() {
    this.#isAsking = true;
    try {
      const view = await this.api.cluster(AbortSignal.timeout(LONGEST_MS));
      this.#n_failures = 0;
      this.onnews(view);
    } catch (error) {
      this.#n_failures += 1;
      this.onfailure(error);
    }
    this.#isAsking = false;
    const pause = this.#n_failures ? EVERY_MS_AFTER_FAILURES[Math.min(this.#n_failures, EVERY_MS_AFTER_FAILURES.length) - 1] : EVERY_MS;
    if (!document.hidden) this.#timer = setTimeout(() => this.#ask(), pause);
  }
}
