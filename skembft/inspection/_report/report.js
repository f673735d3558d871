const byId = (id) => document.getElementById(id);
const PAGE = 15; // queries of a page of the table
const FILTERS = {
  all: () => true,
  helped: (i) => gain(i) > 0,
  hurt: (i) => gain(i) < 0,
  unchanged: (i) => gain(i) === 0,
  "never found": (i) => !data.first[0][i] && !data.first[1][i],
};
// what a column sorts by; a document that is not among those kept comes last
const KEYS = {
  query: (i) => data.queries[i].toLowerCase(),
  before: (i) => data.before[state.metric][i],
  after: (i) => data.after[state.metric][i],
  gain,
  rank: (i) => data.first[1][i] || data.kept + 1,
};
const state = {
  metric: 0, key: "gain", ascending: false, filter: "all", words: [], page: 0, chosen: 0,
};
let data, texts; // the numbers and cut texts; the full ones of those that are cut
let order = []; // queries of the table, as filtered and sorted

function gain(i) {
  // of numbers with six decimals
  const [old, now] = [data.before[state.metric][i], data.after[state.metric][i]];
  return Math.round((now - old) * 1e6) / 1e6;
}

async function unpack(id) {
  const packed = byId(id).textContent;
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

async function fullTexts() {
  texts ??= byId("texts").textContent ? await unpack("texts") : { queries: {}, documents: {} };
  return texts;
}

function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "scope") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

const drawing = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);
const number = (value) => value.toLocaleString("en");
const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "±") + Math.abs(value).toFixed(3);
const color = (value) => (value > 0 ? "good" : value < 0 ? "bad" : "");
const ranked = (rank) => (rank ? String(rank) : `>${data.kept}`);

// the table

function select() {
  const wanted = FILTERS[state.filter];
  const matches = (i) => {
    const text = (texts?.queries[i] ?? data.queries[i]).toLowerCase();
    return state.words.every((word) => text.includes(word));
  };
  const key = data.queries.map((_, i) => KEYS[state.key](i));
  const sign = state.ascending ? 1 : -1;
  order = [...key.keys()].filter((i) => wanted(i) && matches(i));
  order.sort((a, b) => sign * (key[a] < key[b] ? -1 : key[a] > key[b] ? 1 : 0) || a - b);
  state.page = 0;
  showTable();
}

function showTable() {
  const last = Math.max(Math.ceil(order.length / PAGE) - 1, 0);
  const start = state.page * PAGE;
  byId("table").tBodies[0].replaceChildren(...order.slice(start, start + PAGE).map(tableRow));
  for (const th of byId("table").tHead.rows[0].cells) {
    if (th.firstChild.dataset.key === state.key)
      th.setAttribute("aria-sort", state.ascending ? "ascending" : "descending");
    else th.removeAttribute("aria-sort");
  }
  byId("count").textContent = `${number(order.length)} of ${number(data.queries.length)} queries`;
  byId("page").textContent = `page ${number(state.page + 1)} of ${number(last + 1)}`;
  byId("back").disabled = state.page === 0;
  byId("forth").disabled = state.page === last;
}

function tableRow(i) {
  const cell = (text, options) => element("td", options, text);
  const name = element(
    "button", { type: "button", class: "query", title: data.queries[i] },
    element("span", {}, data.queries[i]),
  );
  const tr = element(
    "tr", { onclick: () => choose(i, true) },
    element("th", { scope: "row" }, name),
    cell(data.before[state.metric][i].toFixed(3), { class: "wide" }),
    cell(data.after[state.metric][i].toFixed(3), { class: "wide" }),
    cell(signed(gain(i)), { class: color(gain(i)) }),
    cell(`${ranked(data.first[0][i])} → ${ranked(data.first[1][i])}`),
  );
  tr.dataset.query = i;
  mark(tr);
  return tr;
}

function mark(tr) {
  const chosen = Number(tr.dataset.query) === state.chosen;
  tr.classList.toggle("chosen", chosen);
  tr.querySelector("button").setAttribute("aria-current", chosen);
}

// the chosen query

function choose(i, move = false) {
  state.chosen = i;
  for (const tr of byId("table").tBodies[0].rows) mark(tr);
  showDetail();
  byId("said").textContent = `Shown: ${data.queries[i]}`;
  // where it stands below the table, as on a phone
  if (move && byId("detail").offsetTop > byId("table").offsetTop + 100) {
    byId("detail").scrollIntoView({ block: "start" });
    byId("detail").focus({ preventScroll: true });
  }
}

async function step(by) {
  const at = order.indexOf(state.chosen) + by;
  if (order[at] === undefined) return;
  state.page = Math.floor(at / PAGE);
  showTable();
  choose(order[at]);
  byId(by < 0 ? "earlier" : "later").focus();
}

function showDetail() {
  const i = state.chosen;
  const title = element("h3", { id: "chosen", class: "text", tabIndex: 0 }, data.queries[i]);
  fullTexts().then((full) => {
    if (!full.queries[i]) return;
    title.textContent = full.queries[i];
    title.classList.add("whole");
  });
  const at = order.indexOf(i);
  const go = (id, text, by) => element(
    "button",
    { type: "button", id, disabled: order[at + by] === undefined || at < 0, onclick: () => step(by) },
    text,
  );
  const lists = element(
    "div", { class: "rankings" },
    ranking(i, 0),
    element("div", { class: "lines", "aria-hidden": "true" }, drawing("svg")),
    ranking(i, 1),
  );
  byId("detail").replaceChildren(
    element("div", { class: "row" }, element("span", { class: "quiet" }, "Chosen query"),
      element("div", { class: "filters" }, go("earlier", "Previous", -1), go("later", "Next", 1))),
    title,
    summary(i),
    lists,
    ...missed(i),
  );
  watcher.disconnect();
  watcher.observe(lists); // draws the lines, now and whenever sizes change
}

function summary(i) {
  const [m, n] = [state.metric, data.relevant[i]];
  return element(
    "p", { class: "quiet" },
    `${data.metrics[m]} ${data.before[m][i].toFixed(3)} → ${data.after[m][i].toFixed(3)} (`,
    element("span", { class: color(gain(i)) }, signed(gain(i))),
    `). ${number(n)} relevant ${n === 1 ? "document" : "documents"}; the first at rank `
      + `${ranked(data.first[0][i])} → ${ranked(data.first[1][i])}.`,
  );
}

function ranking(i, side) {
  const items = data.documentsOf[side][i].map((document, at) => {
    if (document < 0) return [];
    const score = data.scores[side][i][at].toFixed(data.decimals);
    const facts = [element("span", { class: "score" }, `score ${score}`)];
    const grade = data.grades[side][i][at];
    if (grade > 0) facts.push(element("span", { class: "grade" }, graded(grade)));
    const other = data.elsewhere[side][i][at];
    facts.push(element("span", {}, ...moved(side, at + 1, other)));
    const button = documentButton(document, at + 1, facts);
    button.classList.toggle("relevant", grade > 0);
    Object.assign(button.dataset, { other, rank: at + 1, document });
    return element("li", {}, button);
  });
  return element(
    "section", {},
    element("h4", {}, side ? "After" : "Before"),
    element("ol", {}, ...items.flat()),
  );
}

const binary = () => (binary.known ??= data.grades.flat(2).every((g) => g === 0 || g === 1));
const graded = (grade) => (binary() ? "relevant" : `grade ${grade}`);

// where a document of one side stands on the other
function moved(side, rank, other) {
  if (!side) return [other === 0 ? `now below ${data.kept}` : `now ${other}`];
  if (other === 0) return [element("span", { class: "good" }, "▲"), ` from below ${data.kept}`];
  if (other === rank) return ["= same rank"];
  const rose = other > rank;
  return [
    element("span", { class: rose ? "good" : "bad" }, `${rose ? "▲" : "▼"} ${Math.abs(other - rank)}`),
    ` ${rose ? "up" : "down"} from ${other}`,
  ];
}

function documentButton(document, rank, facts) {
  const text = element("span", { class: "text" }, data.documents[document]);
  const button = element(
    "button",
    { type: "button", class: "document", "aria-expanded": "false" },
    element("span", { class: "quiet" }, rank), text,
    element("span", { class: "facts" }, ...facts),
  );
  button.addEventListener("click", async () => {
    const whole = text.classList.toggle("whole");
    button.setAttribute("aria-expanded", whole);
    const full = (await fullTexts()).documents[document];
    text.textContent = whole && full ? full : data.documents[document];
  });
  for (const [event, lit] of [["mouseenter", true], ["mouseleave", false], ["focus", true], ["blur", false]])
    button.addEventListener(event, () => light(document, lit));
  return button;
}

function light(document, lit) {
  for (const each of byId("detail").querySelectorAll(`[data-document="${document}"]`))
    each.classList.toggle("lit", lit);
}

function missed(i) {
  if (!data.missed[i].length) return [];
  const items = data.missed[i].map(([document, before, after]) => {
    const facts = [element("span", {}, `rank ${ranked(before)} → ${ranked(after)}`)];
    const button = documentButton(document, "", facts);
    button.classList.add("relevant");
    return element("li", {}, button);
  });
  return [element(
    "div", { class: "missed" },
    element("h4", {}, `Relevant, but not among the first ${data.shown}`),
    element("ul", {}, ...items),
  )];
}

// a line from every document to itself on the other side, or toward the lower end
const watcher = new ResizeObserver(([{ target }]) => {
  const svg = target.querySelector("svg");
  const { top, width, height } = svg.getBoundingClientRect();
  const [left, right] = [...target.querySelectorAll("ol")].map((ol) => [...ol.querySelectorAll("button")]);
  const middle = (button) => {
    const box = button.getBoundingClientRect();
    return box.top + box.height / 2 - top;
  };
  const line = (button, from, to, away) => {
    const path = drawing("path");
    path.setAttribute("d", `M0,${from}C${width / 2},${from} ${width / 2},${to} ${width},${to}`);
    path.classList.toggle("away", away);
    path.classList.toggle("relevant", button.classList.contains("relevant"));
    path.dataset.document = button.dataset.document;
    return path;
  };
  const shown = (button, others) => others.find((o) => o.dataset.document === button.dataset.document);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(
    ...left.map((button) => {
      const other = shown(button, right);
      return line(button, middle(button), other ? middle(other) : height, !other);
    }),
    ...right.filter((button) => !shown(button, left)).map((button) => line(button, height, middle(button), true)),
  );
});

// controls

function showMetric() {
  for (const picture of document.querySelectorAll("[data-metric]"))
    picture.hidden = Number(picture.dataset.metric) !== state.metric;
  for (const button of document.querySelectorAll(".list .filters button")) {
    const { name } = button.dataset;
    const count = data.queries.filter((_, i) => FILTERS[name](i)).length;
    button.textContent = `${name} ${number(count)}`;
  }
}

function showFilter() {
  for (const button of document.querySelectorAll(".list .filters button"))
    button.setAttribute("aria-pressed", button.dataset.name === state.filter);
}

function listen() {
  const filters = Object.keys(FILTERS).map((name) => {
    const button = element("button", {
      type: "button",
      onclick: () => { state.filter = name; showFilter(); select(); },
    });
    button.dataset.name = name;
    return button;
  });
  document.querySelector(".list .filters").replaceChildren(...filters);
  byId("metric").addEventListener("change", (event) => {
    state.metric = Number(event.target.value);
    showMetric(); select(); showDetail();
  });
  byId("search").addEventListener("input", async (event) => {
    await fullTexts();
    state.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    select();
  });
  for (const button of byId("table").tHead.querySelectorAll("button"))
    button.addEventListener("click", () => {
      const { key } = button.dataset;
      state.ascending = key === state.key ? !state.ascending : key === "query" || key === "rank";
      state.key = key;
      select();
    });
  byId("back").addEventListener("click", () => { state.page -= 1; showTable(); });
  byId("forth").addEventListener("click", () => { state.page += 1; showTable(); });
}

function listenToTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => byId("theme").setAttribute("aria-pressed", isDark());
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    show();
  });
  system.addEventListener("change", show);
  show();
}

listenToTheme();
try {
  data = await unpack("contents");
  listen();
  showMetric();
  showFilter();
  select();
  choose(order[0]);
  performance.mark("ready");
} catch (error) {
  byId("failure").textContent = `The queries cannot be shown (${error}). Browsers since 2023 can.`;
  byId("failure").hidden = false;
}
