// Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): the data of each, as they come.

// `chunks` is an async iterable of Uint8Array, such as a fetch's body; borders of chunks may lie anywhere.
// `oncomment(text)` gets the comments between events.
export async function* eventData(chunks, oncomment = () => {}) {
  const decoder = new TextDecoder();
  let data = [];
  let rest = "";
  for await (const chunk of chunks) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "" && data.length > 0) {
        yield data.join("\n");
        data = [];
      } else if (line.startsWith("data:")) {
        data.push(line.slice(5).replace(/^ /, ""));
      } else if (line.startsWith(":")) {
        oncomment(line.slice(1).trim());
      }
    }
  }
}

// A fetch's body as chunks; safari has no async iteration over streams.
export async function* chunksOf(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
