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

const settings = {
  theme: "system", view: "side", model: "", rounds: 1, gate: false, limit: null, temperature: null, system: "",
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
  return Object.keys(localStorage).filter((key) => key.startsWith(CHAT)).map((key) => load(key, null))
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
  localStorage.removeItem(CHAT + id);
}

function forgetAll() {
  for (const key of Object.keys(localStorage)) if (key.startsWith("mal.")) localStorage.removeItem(key);
  sessionStorage.removeItem(KEY);
}

const isRunning = (answer) => ["waiting", "policy", "edit"].includes(answer.state);
