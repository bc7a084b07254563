// --- history: the conversations that this browser keeps, and files ---------------------------------------------------

function renderHistory() {
  $("title").textContent = chat.title || "New conversation";
  document.title = chat.title ? `${chat.title} · metaaligner-lite` : "metaaligner-lite";
  $("export").disabled = !chat.turns.length;
  $("chats").replaceChildren(...keptChats().map((one) => el("li", {},
    el("button", { type: "button", class: "chat", "aria-current": one.id === chat.id && "true", onclick: () => show(openChat(one.id)) },
      el("span", {}, one.title || "Untitled"), el("time", { datetime: one.updated }, when(one.updated))),
    el("button", { type: "button", class: "quiet icon small", "aria-label": `Delete ${one.title || "Untitled"}`, title: "Delete", onclick: () => remove(one) }, icon("trash")))));
}

function when(stamp) {
  const date = new Date(stamp), today = new Date().toDateString() === date.toDateString();
  return date.toLocaleString(undefined, today ? { timeStyle: "short" } : { dateStyle: "medium" });
}

/** Shows a conversation. What is being answered in the one before is stopped. */
function show(one) {
  if (!one) return;
  stop();
  endEdit();
  chat = one;
  tab.set("mal.open", chat.id);
  notice("");
  renderHistory();
  renderTurns();
  scrollToEnd(true);
  closeMenu();
  $("query").focus();
}

const begin = () => show(newChat());

function remove(one) {
  dropChat(one.id);
  if (one.id === chat.id) begin();
  else renderHistory();
  say(`${one.title} deleted`);
  notice(`“${one.title}” was deleted.`, "Undo", () => { dropped.delete(one.id); keepChat(one); renderHistory(); });
}

async function importFile(file) {
  try {
    if (file.size > LARGEST_FILE) throw new Error("That file is larger than 20 MB.");
    const imported = chatOfFile(await file.text());
    keepChat(imported);
    show(imported);
    say(`${imported.title} imported`);
  } catch (error) {
    notice(error.message);
  }
}

$("new").addEventListener("click", begin);
$("export").addEventListener("click", () => download(chat));
$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  if ($("file").files[0]) importFile($("file").files[0]);
  $("file").value = "";
});

// The drawer of narrow screens.
const narrow = matchMedia("(max-width: 55rem)");

function openMenu() {
  document.body.classList.add("menu");
  $("menu").setAttribute("aria-expanded", "true");
  $("shade").hidden = false;
  $("new").focus();
}

function closeMenu() {
  const open = document.body.classList.contains("menu");
  document.body.classList.remove("menu");
  $("menu").setAttribute("aria-expanded", "false");
  $("shade").hidden = true;
  if (open) $("menu").focus();
}

$("menu").addEventListener("click", () => (document.body.classList.contains("menu") ? closeMenu() : openMenu()));
$("shade").addEventListener("click", closeMenu);
$("history").addEventListener("focusout", (event) => {
  if (narrow.matches && event.relatedTarget && !$("history").contains(event.relatedTarget)) closeMenu();
});
