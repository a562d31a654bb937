// What a report can do beyond being read: contents that follow, tables that sort and can be taken along,
// figures that enlarge. Without it everything is shown, in the order in which it was written.
const made = (tag, more = {}, ...inside) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(more)) name.startsWith("on") ? node.addEventListener(name.slice(2), value) : node.setAttribute(name, value);
  node.append(...inside);
  return node;
};

// ---- contents: the section that is being read is marked, and named in the bar of narrow screens
{
  const links = [...document.querySelectorAll(".side a")];
  const heads = links.map(a => document.getElementById(decodeURIComponent(a.hash.slice(1))) || document.getElementById(a.hash.slice(1)));
  const bar = document.querySelector("details.contents");
  const name = bar && bar.querySelector(".now");
  let waiting = false;
  const mark = () => {
    waiting = false;
    let here = heads.findLastIndex(h => h && h.getBoundingClientRect().top < 140);
    if (innerHeight + scrollY >= document.body.scrollHeight - 4) here = links.length - 1;
    links.forEach((a, i) => {
      a.classList.toggle("here", i === here);
      if (i === here) a.setAttribute("aria-current", "true"); else a.removeAttribute("aria-current");
    });
    if (name) name.textContent = here < 0 ? "" : links[here].textContent;
  };
  addEventListener("scroll", () => { if (!waiting) { waiting = true; requestAnimationFrame(mark); } }, { passive: true });
  mark();
  if (bar) bar.addEventListener("click", event => { if (event.target.closest("a")) bar.open = false; });
}

// ---- tables
{
  const FOLD_FROM = 18, SHOWN = 12;
  const text = cell => cell.textContent.trim();
  const exact = cell => cell.dataset.v ?? (text(cell) === "–" ? "" : cell.classList.contains("num") ? text(cell).replace(/,/g, "").replace("−", "-") : text(cell));
  const rowsOf = table => [...table.tBodies[0].rows];
  const grid = table => [[...table.tHead.rows[0].cells].map(text), ...rowsOf(table).map(row => [...row.cells].map(exact))];
  const csv = table => grid(table).map(row => row.map(v => /[",\r\n]/.test(v) ? `"${v.replace(/"/g, '""')}"` : v).join(",")).join("\r\n") + "\r\n";
  const slug = table => text(table.caption || made("i")).toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "table";
  const copy = async words => {
    try { await navigator.clipboard.writeText(words); } catch {
      const area = made("textarea", { style: "position:fixed;opacity:0" }, words);
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  for (const table of document.querySelectorAll("table.ct-table")) {
    if (!table.tHead || !table.tBodies.length) continue;
    const original = rowsOf(table), body = table.tBodies[0];
    const fold = () => rowsOf(table).forEach((row, i) => row.classList.toggle("rest", i >= SHOWN));
    const tools = made("div", { class: "tools" });
    const said = made("span", { role: "status" });
    const button = (label, act) => made("button", { type: "button", onclick: act }, label);
    if (original.length >= FOLD_FROM) {
      const all = `Show all ${original.length} rows`;
      const toggle = made("button", { type: "button", class: "all", "aria-expanded": "false", onclick: () => {
        const folded = table.classList.toggle("folded");
        toggle.textContent = folded ? all : `Show ${SHOWN} rows`;
        toggle.setAttribute("aria-expanded", String(!folded));
      } }, all);
      table.classList.add("folded");
      fold();
      tools.append(toggle);
    }
    tools.append(button("Copy", async () => {
      await copy(grid(table).map(row => row.join("\t")).join("\n"));
      said.textContent = `${original.length} rows copied`;
      setTimeout(() => { said.textContent = ""; }, 4000);
    }), button("CSV", () => {
      const address = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
      made("a", { href: address, download: `${slug(table)}.csv` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 10000);
    }), said);
    const told = table.caption ? text(table.caption) : "table";
    tools.querySelectorAll("button").forEach(b => b.textContent.startsWith("Show") || b.setAttribute("aria-label", `${b.textContent === "CSV" ? "Download as CSV" : "Copy"}: ${told}`));
    (table.closest("details") ? table : table.closest(".box") || table).after(tools);
    if (original.length < 2) continue;
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const press = made("button", { type: "button", class: "sort", onclick: () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort") || "none"];
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        if (next !== "none") head.setAttribute("aria-sort", next);
        const way = next === "descending" ? -1 : 1, number = head.classList.contains("num");
        const compare = (a, b) => {
          const [x, y] = [exact(a.cells[column]), exact(b.cells[column])];
          if (x === "" || y === "") return (x === "") - (y === ""); // what is missing stays at the end
          return way * (number ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
        };
        body.append(...(next === "none" ? original : [...original].sort(compare)));
        if (original.length >= FOLD_FROM) fold();
      } });
      press.append(...head.childNodes);
      head.append(press);
    });
  }
}

// ---- figures that enlarge
{
  const pictures = [...document.querySelectorAll("figure.ct-figure img")];
  if (pictures.length) {
    const shown = made("div", { class: "shown" }), caption = made("p"), count = made("span", { class: "count" });
    const dialog = made("dialog", { class: "zoom", "aria-label": "Figure, enlarged" });
    let at = 0;
    const put = i => {
      at = (i + pictures.length) % pictures.length;
      const image = pictures[at], figure = image.closest("figure");
      const copy = (image.closest("picture") || image).cloneNode(true);
      const large = copy.tagName === "IMG" ? copy : copy.querySelector("img");
      large.removeAttribute("width");
      large.removeAttribute("style");
      shown.className = figure.classList.contains("ct-chart") ? "shown ct-chart" : "shown";
      shown.replaceChildren(copy);
      shown.scrollTo(0, 0);
      caption.textContent = figure.querySelector("figcaption")?.textContent ?? image.alt;
      count.textContent = `${at + 1} of ${pictures.length}`;
    };
    const press = (label, act, more = {}) => made("button", { type: "button", onclick: act, ...more }, label);
    const enlarge = large => {
      dialog.classList.toggle("large", large);
      size.textContent = large ? "Fit" : "Larger";
    };
    const size = press("Larger", () => enlarge(!dialog.classList.contains("large")));
    dialog.append(made("div", { class: "bar" }, count, press("Previous", () => put(at - 1)), press("Next", () => put(at + 1)), size, press("Close", () => dialog.close())), shown, caption);
    shown.tabIndex = 0;
    dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step && !dialog.classList.contains("large")) { event.preventDefault(); put(at + step); }
    });
    dialog.addEventListener("close", () => pictures[at].closest("button").focus());
    document.body.append(dialog);
    pictures.forEach((image, i) => {
      const picture = image.closest("picture") || image;
      const open = made("button", { type: "button", class: "enlarge", "aria-label": `Enlarge: ${image.alt}`, onclick: () => { put(i); enlarge(innerWidth < 700); dialog.showModal(); } });
      picture.replaceWith(open);
      open.append(picture);
    });
  }
}

// ---- what scrolls in its own box can be reached by keyboard; on paper nothing stays folded but code
{
  const boxes = document.querySelectorAll(".box, .stream, .highlight, .traceback, .prose pre, .sc-exams");
  const reach = () => boxes.forEach(box => {
    const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
    if (box.matches(".box")) box.classList.toggle("scrolls", box.scrollWidth > box.clientWidth + 1);
    if (scrolls) box.tabIndex = 0; else box.removeAttribute("tabindex");
  });
  new ResizeObserver(reach).observe(document.body);
  let opened = [];
  // Chromium repeats the head of a table on each page only where there is no button in it.
  const sorts = [...document.querySelectorAll(".sort")].map(button => [button, button.parentElement]);
  addEventListener("beforeprint", () => {
    for (const [button, head] of sorts) head.replaceChildren(...button.childNodes);
    opened = [...document.querySelectorAll("details.fold:not(.setup, .glossary, .more):not([open])")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of opened) fold.open = false;
    for (const [button, head] of sorts) { button.append(...head.childNodes); head.append(button); }
  });
}
