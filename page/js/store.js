// --- store: conversations, objectives of one's own and settings, in this browser -------------------------------------
// A conversation lies under a key of its own, so that two tabs do not write over each other.
//   chat:   {id, title, created, updated, system, turns: [turn]}
//   turn:   {query, chosen, answers: [answer]}, one answer for each set of objectives
//   answer: {objectives, policy, text, state, note, meta}; state: "waiting" | "policy" | "edit" | "done" | "stopped" |
//           "error"; meta: what the server told at the end

const CHAT = "mal.chat.";

function load(key, otherwise) {
  try { return JSON.parse(localStorage.getItem(key)) ?? otherwise; } catch { return otherwise; }
}

function keep(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    notice("This browser's storage is full or closed: what is new is not kept. Export it, or delete old conversations.");
    return false;
  }
}

/** What is kept as long as the tab, or where the browser keeps nothing, as long as the page. */
const tab = {
  held: new Map(),
  get(key) {
    try { return this.held.get(key) ?? sessionStorage.getItem(key); } catch { return null; }
  },
  set(key, value) {
    this.held.set(key, value);
    try { sessionStorage.setItem(key, value); } catch { /* held has it */ }
  },
};

const settings = {
  theme: "system", view: "side", model: "", rounds: null, gate: "", limit: null, temperature: null, system: "",
  sets: [[]],
  ...load("mal.settings", {}),
};
const keepSettings = () => keep("mal.settings", settings);

function newChat() {
  const now = new Date().toISOString();
  return { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), title: "", created: now, updated: now,
    system: settings.system, turns: [] };
}

const dropped = new Set(); // what was deleted while it was being answered stays deleted

function keepChat(chat) {
  if (chat.turns.length && !dropped.has(chat.id)) keep(CHAT + chat.id, chat);
}

/** Every kept conversation, the last one used first. */
function keptChats() {
  let keys = [];
  try { keys = Object.keys(localStorage); } catch { /* the browser keeps nothing */ }
  return keys.filter((key) => key.startsWith(CHAT)).map((key) => load(key, null))
    .filter((chat) => Array.isArray(chat?.turns)).sort((one, other) => other.updated.localeCompare(one.updated));
}

/** A conversation as it is kept, with answers that a closed tab cut off shown as stopped. */
function openChat(id) {
  const chat = load(CHAT + id, null);
  for (const answer of chat?.turns.flatMap((turn) => turn.answers) ?? []) {
    if (isRunning(answer)) answer.state = "stopped";
  }
  return chat;
}

function dropChat(id) {
  dropped.add(id);
  try { localStorage.removeItem(CHAT + id); } catch { /* nothing was kept */ }
}

function forgetAll() {
  try {
    for (const key of Object.keys(localStorage)) if (key.startsWith("mal.")) localStorage.removeItem(key);
    sessionStorage.removeItem(KEY);
  } catch { /* nothing was kept */ }
}

const isRunning = (answer) => ["waiting", "policy", "edit"].includes(answer.state);
