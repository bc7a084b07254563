// --- files: a conversation as JSON in the form of messages, out and in -----------------------------------------------
// {"title", "created", "messages": [{"role", "content"}, ...]}; an assistant's turn also holds, under "metaaligner",
// every set's answer, so that nothing is lost on the way. `mal align --history` reads the same file.

const LARGEST_FILE = 20 * 2 ** 20;

function messagesFile(chat) {
  const messages = chat.system ? [{ role: "system", content: chat.system }] : [];
  for (const turn of chat.turns) {
    messages.push({ role: "user", content: turn.query });
    if (!turn.answers.length) continue;
    const answers = turn.answers.map(({ objectives, policy, text, state, note, meta }) => (
      { objectives, policy_text: policy, content: text, state, note, ...meta }));
    messages.push({ role: "assistant", content: turn.answers[turn.chosen].text, metaaligner: { chosen: turn.chosen, answers } });
  }
  return { title: chat.title, created: chat.created, messages };
}

/** What later turns build on: the chosen set's text, or if it failed another's; "" where there is none. */
function finalText(turn) {
  const whole = [turn.answers[turn.chosen], ...turn.answers].find((answer) => answer && answer.state !== "error");
  return whole?.text || whole?.policy || "";
}

/** The conversation in a file's text. Raises Error, in words to show, for what is none. */
function chatOfFile(text) {
  let raw;
  try { raw = JSON.parse(text); } catch { throw new Error("That file is not JSON."); }
  const messages = Array.isArray(raw) ? raw : raw?.messages;
  if (!Array.isArray(messages)) throw new Error('That file holds no conversation: expected {"messages": [{"role", "content"}, …]}.');
  const chat = newChat();
  chat.system = "";
  messages.forEach((message, place) => {
    const content = textOf(message?.content);
    const open = chat.turns.at(-1);
    if (content === null) throw new Error(`Message ${place + 1} has no text.`);
    if (["system", "developer"].includes(message.role)) chat.system = [chat.system, content].filter(Boolean).join("\n\n");
    else if (message.role === "user") chat.turns.push({ query: content, chosen: 0, answers: [] });
    else if (message.role !== "assistant") throw new Error(`Message ${place + 1} has the role ${JSON.stringify(message.role)}: expected system, user or assistant.`);
    else if (!open || open.answers.length) throw new Error(`Message ${place + 1} answers no message of a user.`);
    else Object.assign(open, answersOf(message, content));
  });
  if (!chat.turns.length) throw new Error("That file holds no message of a user.");
  chat.title = typeof raw.title === "string" && raw.title ? raw.title.slice(0, 200) : titleOf(chat.turns[0].query);
  if (!Number.isNaN(Date.parse(raw.created))) chat.created = new Date(raw.created).toISOString();
  return chat;
}

function textOf(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return null;
  return content.every((part) => typeof part?.text === "string") ? content.map((part) => part.text).join("\n") : null;
}

function answersOf(message, content) {
  const given = message.metaaligner?.answers;
  const answers = (Array.isArray(given) ? given : []).slice(0, MOST_SETS).filter((one) => typeof one?.content === "string").map(
    (one) => ({
      objectives: (Array.isArray(one.objectives) ? one.objectives : []).map(asObjective).filter(Boolean),
      policy: typeof one.policy_text === "string" ? one.policy_text : "",
      text: one.content,
      state: ["stopped", "error"].includes(one.state) ? one.state : "done",
      note: typeof one.note === "string" ? one.note : "",
      meta: metaOf(one),
    }));
  const plain = { objectives: [], policy: "", text: content, state: "done", note: "", meta: null };
  const chosen = Number(message.metaaligner?.chosen);
  return answers.length ? { answers, chosen: answers[chosen] ? chosen : 0 } : { answers: [plain], chosen: 0 };
}

const titleOf = (query) => (query.trim().split("\n")[0].slice(0, 80) || "Untitled");

function download(chat) {
  const blob = new Blob([JSON.stringify(messagesFile(chat), null, 2) + "\n"], { type: "application/json" });
  const name = (chat.title || "conversation").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40);
  const link = el("a", { href: URL.createObjectURL(blob), download: `${name || "conversation"}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
