// --- markdown: a model's text as elements that can do nothing but stand there ----------------------------------------
// Three walls, each enough alone: marked is told that there is no HTML and no picture, DOMPurify lets only the tags below
// through, and the page's content policy runs no script and fetches no picture.

const LONGEST_MARKDOWN = 200_000; // characters; beyond, the text is shown as it is

const SAFE = {
  ALLOWED_TAGS: ["p", "br", "hr", "em", "strong", "del", "code", "pre", "blockquote", "ul", "ol", "li",
    "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "a"],
  ALLOWED_ATTR: ["href", "start"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  RETURN_DOM_FRAGMENT: true,
};

const escaped = (text) => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const reader = new globalThis.marked.Marked({
  gfm: true,
  breaks: true,
  tokenizer: { html: () => undefined, tag: () => undefined }, // what looks like HTML is the model's words
  renderer: {
    image: ({ raw }) => escaped(raw),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    heading({ tokens, depth }) { // below the page's own headings
      const level = Math.min(depth + 3, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
  },
});

/** The text as a fragment: Markdown where it can be read as such, else the text itself. */
function markdown(text) {
  if (text.length > LONGEST_MARKDOWN) return el("pre", {}, text);
  let fragment;
  try {
    fragment = globalThis.DOMPurify.sanitize(reader.parse(text), SAFE);
  } catch {
    return el("pre", {}, text);
  }
  for (const link of fragment.querySelectorAll("a")) {
    if (!link.getAttribute("href")) continue;
    link.setAttribute("rel", "noopener noreferrer nofollow");
    link.setAttribute("target", "_blank");
    link.setAttribute("title", link.href); // where it leads, whatever its words say
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = el("div", { class: "wide-table", tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}
