// The table of the cells, and the window with all that is known of one.

const PER_PAGE = 25;
const table = {
  head: document.querySelector("#table thead"),
  body: document.querySelector("#table tbody"),
  search: document.getElementById("search"),
  level: document.getElementById("level"),
  sort: document.getElementById("sort"),
  direction: document.getElementById("direction"),
  page: 0,
  falling: false,
  found: data.ids.map((_, cell) => cell),
};

/** Columns of the table: the picture and the id, then what tells cells apart best. */
const tableColumns = (() => {
  const wanted = ["top_location_1", "location_set", "novelty_p_value", "locations", "gene", "antibody", "cell_line", "plate", "well", "field_of_view", "qc_area_um2", "qc_focus"];
  const telling = (column) => column && (column.kind === "number" || column.name === "top_location_1" || column.levels.length > 1);
  const chosen = wanted.map((name) => columns.get(name)).filter(telling);
  return (chosen.length ? chosen : data.columns.filter(telling)).slice(0, 7);
})();
const filterColumn = columns.get("top_location_1") || tableColumns.find((column) => column.kind === "text" && column.levels.length <= 300);

// Searched as a whole: ids and every text of a cell.
const texts = data.columns.filter((column) => column.kind === "text" && !/^top_location_[23]$/.test(column.name));
const haystack = data.ids.map((id, cell) => [id, ...texts.map((column) => text(column, cell))].join("\n").toLowerCase());

function filterCells() {
  const words = table.search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const level = table.level.value === "" ? -1 : Number(table.level.value);
  table.found = data.ids.map((_, cell) => cell).filter((cell) =>
    words.every((word) => haystack[cell].includes(word)) && (level < 0 || filterColumn.codes[cell] === level));
  sortCells();
  table.page = 0;
  showPage();
}

function sortCells() {
  const column = columns.get(table.sort.value);
  const turn = table.falling ? -1 : 1;
  const key = (cell) => {
    if (!column) return table.sort.value === "id" ? data.ids[cell] : cell;
    return column.kind === "number" ? column.values[cell] : text(column, cell);
  };
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = (a, b) => (typeof a === "string" ? collator.compare(a, b) : a - b);
  const keys = new Map(table.found.map((cell) => [cell, key(cell)]));
  const unknown = (value) => value === null || value === "";
  table.found.sort((one, other) => {
    const [a, b] = [keys.get(one), keys.get(other)];
    // Unknown values come last, whichever way the order runs.
    if (unknown(a) || unknown(b)) return unknown(a) - unknown(b) || one - other;
    return turn * compare(a, b) || one - other;
  });
}

function showPage() {
  const pages = Math.max(1, Math.ceil(table.found.length / PER_PAGE));
  table.page = Math.min(Math.max(table.page, 0), pages - 1);
  const cells = table.found.slice(table.page * PER_PAGE, (table.page + 1) * PER_PAGE);
  table.body.replaceChildren(...cells.map(tableRow));
  const all = data.ids.length.toLocaleString("en");
  document.getElementById("found").textContent = table.found.length === data.ids.length ? `${all} cells` : `${table.found.length.toLocaleString("en")} of ${all} cells`;
  document.getElementById("page-number").textContent = `Page ${table.page + 1} of ${pages}`;
  document.getElementById("previous").disabled = table.page === 0;
  document.getElementById("next").disabled = table.page === pages - 1;
}

function dot(colour) {
  const made = element("i", { className: "dot" });
  made.style.background = colour;
  return made;
}

function tableRow(cell) {
  const row = element("tr", { tabIndex: 0 });
  const picture = element("td", { className: "picture" });
  if (data.tiles[cell] >= 0) {
    const canvas = element("canvas", { width: 128, height: 128 });
    picture.append(canvas);
    paint(canvas, cell);
  }
  row.append(picture, element("td", { textContent: data.ids[cell] }));
  for (const column of tableColumns) {
    const entry = element("td", {});
    const value = text(column, cell);
    if (column.name === "top_location_1") {
      entry.append(dot(column.colours ? column.colours[column.codes[cell]] : "#888888"), value);
      entry.append(element("span", { className: "probability", textContent: Number(text(columns.get("top_probability_1"), cell)).toFixed(2) }));
    } else {
      entry.textContent = value.replaceAll(";", ", ");
      if (value) entry.dataset.label = column.label;
      if (column.kind === "number") entry.className = "number";
    }
    row.append(entry);
  }
  const open = () => openDetail(cell);
  row.addEventListener("click", open);
  row.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
  return row;
}

function sortBy(name, falling) {
  table.sort.value = name;
  table.falling = falling;
  table.direction.textContent = falling ? "↓" : "↑";
  table.direction.setAttribute("aria-pressed", String(falling));
  for (const head of table.head.querySelectorAll("th[data-name]")) {
    const mine = head.dataset.name === name;
    head.setAttribute("aria-sort", mine ? (falling ? "descending" : "ascending") : "none");
    head.querySelector("button").textContent = head.dataset.label + (mine ? (falling ? " ↓" : " ↑") : "");
  }
  sortCells();
  table.page = 0;
  showPage();
}

/** Show the cells of one level in the table and on the map. */
function showLevel(name) {
  const level = columns.get("top_location_1").levels.indexOf(name);
  if (level < 0) return;
  table.level.value = String(level);
  filterCells();
  map.colour.value = "top_location_1";
  map.recolour();
  map.showOnly(level);
}

function startTable() {
  const heads = [{ name: "id", label: "Cell", kind: "text" }, ...tableColumns];
  const line = element("tr", {}, element("th", {}));
  for (const column of heads) {
    const button = element("button", { type: "button", textContent: column.label });
    const head = element("th", { className: column.kind === "number" ? "number" : "" }, button);
    head.dataset.name = column.name;
    head.dataset.label = column.label;
    button.addEventListener("click", () => sortBy(column.name, table.sort.value === column.name ? !table.falling : column.kind === "number"));
    line.append(head);
  }
  table.head.append(line);
  const sortable = [{ name: "", label: "Order of the table" }, { name: "id", label: "Cell" }, ...data.columns.filter((column) => !/_[23]$/.test(column.name))];
  for (const column of sortable) table.sort.append(element("option", { value: column.name, textContent: column.label }));
  table.sort.addEventListener("change", () => sortBy(table.sort.value, false));
  table.direction.addEventListener("click", () => sortBy(table.sort.value, !table.falling));
  if (filterColumn) {
    const label = document.getElementById("level-label");
    label.hidden = false;
    label.firstElementChild.textContent = filterColumn.label.replace("Predicted location", "Location");
    table.level.append(element("option", { value: "", textContent: "all" }));
    filterColumn.levels.forEach((name, number) => table.level.append(element("option", { value: number, textContent: name })));
    table.level.addEventListener("change", filterCells);
  }
  table.search.addEventListener("input", filterCells);
  document.getElementById("previous").addEventListener("click", () => { table.page -= 1; showPage(); });
  document.getElementById("next").addEventListener("click", () => { table.page += 1; showPage(); });
  showPage();
}

/** All that is known of one cell. */
function openDetail(cell) {
  if (cell < 0) return;
  const dialog = document.getElementById("detail");
  const left = element("div", {});
  if (data.tiles[cell] >= 0) {
    const canvas = element("canvas", { width: 512, height: 512, className: "large" });
    canvas.dataset.plain = "1";
    const asked = { ...look };
    left.append(canvas, lookButtons(asked, () => paint(canvas, cell, asked)));
    paint(canvas, cell, asked);
  } else left.append(element("p", { className: "note", textContent: "The run stored no picture of this cell." }));
  const right = element("div", {}, element("h3", { textContent: data.ids[cell] }));
  const tops = element("div", { className: "tops" });
  for (const rank of [1, 2, 3]) {
    const column = columns.get(`top_location_${rank}`);
    if (!column || column.codes[cell] < 0) continue;
    const probability = columns.get(`top_probability_${rank}`).values[cell];
    const bar = element("b", {});
    bar.style.width = `${100 * probability}%`;
    bar.style.background = column.colours ? column.colours[column.codes[cell]] : themeColour("--fill");
    bar.style.boxShadow = `inset 0 0 0 1px color-mix(in srgb, ${themeColour("--ink")} 45%, transparent)`;
    tops.append(element("div", { className: "top-row" }, element("span", { textContent: text(column, cell) }), element("span", { textContent: probability.toFixed(3) }), element("i", {}, bar)));
  }
  const facts = element("dl", {});
  for (const column of data.columns) {
    if (/^top_(location|probability)_/.test(column.name)) continue;
    const value = text(column, cell);
    if (value) facts.append(element("dt", { textContent: column.label }), element("dd", { textContent: value.replaceAll(";", ", ") }));
  }
  right.append(tops, facts);
  const similar = data.similar[cell];
  if (similar.length) {
    const tiles = element("div", { className: "tiles similar" }, ...similar.map(drawTile));
    right.append(element("h4", { textContent: "Most similar cells with a picture" }), tiles);
  }
  document.getElementById("detail-body").replaceChildren(left, right);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

/** A small picture that opens its cell. */
function drawTile(cell) {
  const canvas = element("canvas", { width: 128, height: 128 });
  const button = element("button", { type: "button", className: "tile", title: [data.ids[cell], ...shortFacts(cell)].join("\n") }, canvas);
  button.setAttribute("aria-label", data.ids[cell]);
  button.addEventListener("click", () => openDetail(cell));
  paint(canvas, cell);
  return button;
}

/** Buttons that switch a picture between plain, outlined and what the model looked at. */
function lookButtons(asked, changed) {
  const group = element("div", { className: "looks" });
  const add = (label, outline, attention) => {
    const button = element("button", { type: "button", textContent: label });
    const mark = () => button.setAttribute("aria-pressed", String(asked.outline === outline && asked.attention === attention));
    button.addEventListener("click", () => {
      Object.assign(asked, { outline, attention });
      for (const other of group.children) other.dispatchEvent(new Event("marked"));
      changed();
    });
    button.addEventListener("marked", mark);
    mark();
    group.append(button);
  };
  add("Picture", false, -1);
  if (data.pictures.outlines.some(Boolean)) add("Outline", true, -1);
  if (data.pictures.attention.some(Boolean)) for (let head = 0; head < data.pictures.heads; head += 1) add(`Attention ${head + 1}`, false, head);
  return group;
}
