// Bands along z that move the slice: inferior on the left, superior on the right.
const SVG = "http://www.w3.org/2000/svg";
const ROW = 20, GAP = 4, NAMES = 110;

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.appendChild(made);
  return made;
}

function dark(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b < 140;
}

function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "ct-strip";
  box.tabIndex = 0;
  box.setAttribute("role", "slider");
  box.setAttribute("aria-label", "slice, from inferior to superior");
  el.appendChild(box);
  let line, scale;

  const clamp = (slice) => Math.max(0, Math.min(model.get("n_slices") - 1, slice));

  function go(slice) {
    const to = clamp(slice);
    if (to === model.get("place")) return;
    model.set("place", to);
    model.save_changes();
  }

  function follow() {
    const place = model.get("place");
    box.setAttribute("aria-valuemin", 0);
    box.setAttribute("aria-valuemax", model.get("n_slices") - 1);
    box.setAttribute("aria-valuenow", place);
    const x = NAMES + (place + 0.5) * scale;
    for (const end of ["x1", "x2"]) line?.setAttribute(end, x);
  }

  function draw() {
    const bands = model.get("bands");
    const width = Math.max(box.clientWidth, NAMES + 100);
    const height = bands.length * (ROW + GAP) + 18;
    scale = (width - NAMES - 2) / model.get("n_slices");
    box.replaceChildren();
    const svg = element("svg", { width, height }, box);
    bands.forEach((band, i) => {
      const y = i * (ROW + GAP);
      const name = element("text", { x: 0, y: y + 14, class: "name" }, svg);
      name.textContent = band.name.length > 16 ? band.name.slice(0, 15) + "…" : band.name;
      element("title", {}, name).textContent = band.name;
      for (const part of band.parts) {
        const x = NAMES + part.start * scale, wide = (part.stop - part.start) * scale;
        const shape = element("rect", {
          x, y, width: Math.max(wide - 1, 0.5), height: ROW, fill: part.colour, class: "part",
        }, svg);
        element("title", {}, shape).textContent = part.says;
        if (part.text && wide > 30) {
          const text = element("text", {
            x: x + wide / 2, y: y + 14, "text-anchor": "middle", fill: dark(part.colour) ? "#fff" : "#111",
          }, svg);
          text.textContent = part.text;
        }
      }
    });
    const foot = bands.length * (ROW + GAP) + 12;
    element("text", { x: NAMES, y: foot, class: "end" }, svg).textContent = "inferior";
    element("text", { x: width - 2, y: foot, class: "end", "text-anchor": "end" }, svg).textContent = "superior";
    line = element("line", { y1: 0, y2: bands.length * (ROW + GAP), class: "place" }, svg);
    follow();
  }

  function at(event) {
    const x = event.clientX - box.querySelector("svg").getBoundingClientRect().left;
    if (x >= NAMES) go(Math.floor((x - NAMES) / scale));
  }
  box.addEventListener("pointerdown", (event) => {
    box.setPointerCapture(event.pointerId);
    box.focus();
    at(event);
  });
  box.addEventListener("pointermove", (event) => event.buttons & 1 && at(event));
  box.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
    const ends = { Home: 0, End: model.get("n_slices") - 1 };
    if (event.key in steps) go(model.get("place") + steps[event.key]);
    else if (event.key in ends) go(ends[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  model.on("change:place", follow);
  model.on("change:bands change:n_slices", draw);
  const watch = new ResizeObserver(draw);
  watch.observe(box);
  return () => {
    watch.disconnect();
    model.off("change:place", follow);
    model.off("change:bands change:n_slices", draw);
  };
}

export default { render };
