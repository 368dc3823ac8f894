// Bring the page to life.

for (const canvas of document.querySelectorAll("canvas[data-plain]")) paint(canvas, Number(canvas.dataset.cell), { outline: false, attention: -1 });
repaint();

for (const button of document.querySelectorAll("[data-open]")) {
  const cell = Number(button.dataset.open);
  button.title = [data.ids[cell], ...shortFacts(cell)].join("\n");
  button.setAttribute("aria-label", data.ids[cell]);
  button.addEventListener("click", () => openDetail(cell));
}

for (const button of document.querySelectorAll("[data-look]")) {
  button.addEventListener("click", () => {
    look.outline = button.dataset.look === "outline";
    look.attention = /^\d+$/.test(button.dataset.look) ? Number(button.dataset.look) : -1;
    for (const other of document.querySelectorAll("[data-look]")) other.setAttribute("aria-pressed", String(other === button));
    const note = document.getElementById("attention-note");
    if (note) note.hidden = look.attention < 0;
    repaint();
  });
}

for (const bar of document.querySelectorAll(".bar")) {
  bar.addEventListener("click", () => {
    showLevel(bar.dataset.level);
    document.getElementById("map").scrollIntoView();
  });
}

const more = document.getElementById("more");
if (more) {
  more.addEventListener("click", () => {
    for (const figure of document.querySelectorAll("figure.more")) figure.hidden = false;
    more.hidden = true;
  });
}

const theme = document.getElementById("theme");
const themes = ["", "light", "dark"];
const themeNames = ["Theme", "Light", "Dark"];
theme.addEventListener("click", () => {
  const next = (themes.indexOf(document.documentElement.dataset.theme || "") + 1) % themes.length;
  if (themes[next]) document.documentElement.dataset.theme = themes[next];
  else delete document.documentElement.dataset.theme;
  theme.textContent = themeNames[next];
  map.recolour();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => map.recolour());

const copy = document.getElementById("copy");
if (copy) {
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(copy.previousElementSibling.textContent);
    copy.textContent = "Copied";
  });
}

document.getElementById("detail").addEventListener("click", (event) => { if (event.target === event.currentTarget) event.currentTarget.close(); });

startTable();
document.documentElement.dataset.ready = "1";
