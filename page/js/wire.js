// --- wire: requests to the server that gave out this page, its key, its streams --------------------------------------

class WireError extends Error {
  constructor(message, { code = "", retryAfter = 0 } = {}) {
    super(message);
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

const KEY = "mal.key";
let asking = null; // one question at a time, however many requests were refused

/** Asks for the server's key and keeps it as long as the tab. Gives false if there is none to be had. */
function askKey(refused) {
  asking ??= new Promise((resolve) => {
    $("key-error").textContent = refused ? "The server refused that key." : "";
    $("key").value = "";
    $("key-form").onsubmit = (event) => {
      event.preventDefault();
      tab.set(KEY, $("key").value.trim());
      $("ask-key").close("given");
    };
    $("ask-key").onclose = () => { asking = null; resolve($("ask-key").returnValue === "given"); };
    $("ask-key").returnValue = "";
    $("ask-key").showModal();
  });
  return asking;
}

/** The server's response. Raises WireError in words to show; an abort stays an AbortError. */
async function request(path, options = {}) {
  for (;;) {
    const key = tab.get(KEY);
    const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    let response;
    try {
      response = await fetch(path, { ...options, headers, credentials: "same-origin", redirect: "error" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new WireError("The server cannot be reached. Is mal serve still running?", { code: "unreachable" });
    }
    if (response.ok) return response;
    const error = await refusal(response);
    if (response.status !== 401) throw error;
    if (tab.get(KEY) === key && !(await askKey(Boolean(key)))) throw error;
  }
}

async function refusal(response) {
  let told = {};
  try { told = (await response.json()).error ?? {}; } catch { /* no JSON: the status has to do */ }
  return new WireError(told.message || `The server answered ${response.status} ${response.statusText}.`, {
    code: told.code || told.type || String(response.status),
    retryAfter: response.status === 429 ? Number(response.headers.get("Retry-After")) || 1 : 0,
  });
}

async function getJson(path) {
  return (await request(path)).json();
}

/** The data of each event of a stream, as text; comments, which only keep the line alive, are passed over. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) { yield data.join("\n"); data = []; }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The chunks of a streamed answer. Raises WireError for an error inside, or if the stream breaks off. */
async function* chunksOf(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  try {
    for await (const data of eventsOf(response)) {
      if (data.trim() === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new WireError(chunk.error.message || "The server failed.", { code: chunk.error.code || chunk.error.type });
      yield chunk;
    }
  } catch (error) {
    if (error instanceof WireError || error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) throw new WireError("The server sent what is no JSON.", { code: "broken_stream" });
  }
  throw new WireError("The connection broke before the answer was whole.", { code: "broken_stream" });
}
