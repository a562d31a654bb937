// Slices of exams, one at a time. Pixels are codes in a picture; an SVG filter maps them to greys of the
// HU window, so nothing is read back from a canvas and a step only draws one tile.
for (const root of document.querySelectorAll(".ct-scroller:not([data-ready])")) {
  const data = JSON.parse(root.querySelector(".sc-data").textContent);
  const app = root.querySelector(".sc-app");
  const id = "sc" + Math.random().toString(36).slice(2, 8);
  const BIG_STEP = 10;
  const make = (tag, more = {}, ...inside) => {
    const svg = ["svg", "path", "rect", "filter", "feComponentTransfer", "feFuncR", "feFuncG", "feFuncB"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(more)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...inside);
    return made;
  };
  const minus = text => String(text).replace("-", "\u2212");
  const picture = source => {
    const image = new Image();
    image.src = source;
    return image.decode().then(() => image);
  };

  // ---- what does not change with the exam
  const greys = ["feFuncR", "feFuncG", "feFuncB"].map(name => make(name, { type: "table" }));
  const filter = make("filter", { id, "color-interpolation-filters": "sRGB", x: 0, y: 0, width: 1, height: 1 }, make("feComponentTransfer", {}, ...greys));
  const slices = make("canvas", { style: `filter:url(#${id})` });
  const glow = make("canvas");
  const outlines = make("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
  const where = make("div", { class: "sc-corner sc-tl" });
  const level = make("div", { class: "sc-corner sc-bl" });
  const state = make("div", { class: "sc-corner sc-tr" });
  const stage = make("div", { class: "sc-stage", tabindex: 0, role: "img" }, slices, glow, outlines, where, state, level,
    make("div", { class: "sc-corner sc-l", title: "the patient's right" }, "R"), make("div", { class: "sc-corner sc-r", title: "the patient's left" }, "L"));
  const slider = make("input", { type: "range", min: 0, step: 1, "aria-label": "Slice, from inferior to superior" });
  const tracks = make("div", { class: "sc-tracks" });
  const chooser = make("div", { class: "sc-exams", role: "group", "aria-label": "Exams" });
  const windows = make("div", { class: "sc-set" });
  const overlays = make("fieldset", {}, make("legend", {}, "Overlays"));
  const key = make("div", { class: "sc-key" });
  const hint = make("p", { class: "sc-hint" });
  hint.innerHTML = "<kbd>←</kbd> <kbd>→</kbd> one slice, <kbd>Page Up</kbd> <kbd>Page Down</kbd> ten, <kbd>Home</kbd> <kbd>End</kbd> the ends. Click the picture, then turn the wheel.";
  const side = make("div", { class: "sc-side" },
    make("fieldset", {}, make("legend", {}, "HU window"), windows), overlays, key, hint);
  app.append(make("svg", { width: 0, height: 0, style: "position:absolute", "aria-hidden": "true" }, filter), chooser,
    make("div", { class: "sc-body" }, stage, side, tracks));

  let exam = null, at = 0, sheet = null, heat = null, heats = {}, marks = [], shown = { outlines: true, heat: 0, strength: 0.6 };

  // ---- HU windows
  const setWindow = name => {
    const [, centre, width] = data.windows.find(known => known[0] === name);
    const table = data.code_hu.map(hu => Math.min(1, Math.max(0, (hu - centre) / width + 0.5)).toFixed(4)).join(" ");
    for (const channel of greys) channel.setAttribute("tableValues", table);
    level.textContent = minus(`${name} ${centre}/${width} HU`);
    app.dataset.window = name;
    for (const button of windows.children) button.setAttribute("aria-pressed", button.dataset.name === name);
  };
  for (const [name, centre, width] of data.windows)
    windows.append(make("button", { type: "button", "data-name": name, title: minus(`centre ${centre}, width ${width} HU`), onclick: () => setWindow(name) }, name));

  // ---- one slice
  const tile = (canvas, image, [height, width], i) => {
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingQuality = "high";
    if (image) pen.drawImage(image, (i % exam.columns) * width, Math.floor(i / exam.columns) * height, width, height, 0, 0, canvas.width, canvas.height);
  };
  const told = i => {
    const place = exam.places[i], label = exam.labels[place];
    return `slice ${place}, z ${minus(exam.z[place].toFixed(1))} mm` + (label === 1 ? ", disease" : label === 0 ? ", no disease" : "");
  };
  const draw = () => {
    const place = exam.places[at], label = exam.labels[place];
    tile(slices, sheet, exam.tile, at);
    const lit = shown.heat ? exam.heats[shown.heat - 1] : null;
    glow.style.opacity = shown.strength;
    if (lit) tile(glow, heat, lit.tile, at); else glow.getContext("2d").clearRect(0, 0, glow.width, glow.height);
    outlines.replaceChildren(...(shown.outlines ? marks[place] || [] : []).map(([reader, hole, path]) =>
      make("path", { d: path, stroke: data.readers[reader], "stroke-dasharray": hole ? "3 3" : null })));
    where.textContent = `slice ${place} of 0 to ${exam.n - 1}\nz ${minus(exam.z[place].toFixed(1))} mm`;
    state.textContent = label === 1 ? "disease" : label === 0 ? "no disease" : "";
    state.classList.toggle("sc-ill", label === 1);
    slider.value = at;
    slider.setAttribute("aria-valuetext", told(at));
    stage.setAttribute("aria-label", `${exam.title}, ${told(at)}; arrow keys turn the slices`);
    for (const line of tracks.querySelectorAll(".sc-now")) line.style.left = `${100 * (place + 0.5) / exam.n}%`;
    for (const clip of tracks.querySelectorAll(".sc-clip"))
      clip.toggleAttribute("data-now", place >= +clip.dataset.start && place < +clip.dataset.stop);
    app.dataset.slice = place;
  };
  const go = i => {
    const next = Math.min(exam.places.length - 1, Math.max(0, Math.round(i)));
    if (next === at) return;
    at = next;
    draw();
  };
  const nearest = slice => exam.places.reduce((best, place, i) => Math.abs(place - slice) < Math.abs(exam.places[best] - slice) ? i : best, 0);
  const fit = () => {
    const wide = Math.max(1, Math.round(stage.clientWidth * Math.min(devicePixelRatio || 1, 2)));
    for (const canvas of [slices, glow]) { canvas.width = wide; canvas.height = Math.max(1, Math.round(wide / exam.aspect)); }
    draw();
  };

  // ---- keys, wheel, tracks
  const keys = event => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: BIG_STEP, PageDown: -BIG_STEP }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey || !(step || event.key === "Home" || event.key === "End")) return;
    event.preventDefault();
    event.stopPropagation(); // JupyterLab would choose another cell
    go(step ? at + step : event.key === "Home" ? 0 : exam.places.length - 1);
  };
  stage.addEventListener("keydown", keys);
  slider.addEventListener("keydown", keys);
  slider.addEventListener("input", () => go(+slider.value));
  let turned = 0;
  stage.addEventListener("wheel", event => {
    if (document.activeElement !== stage) return; // else the page could not be scrolled past it
    event.preventDefault();
    turned += event.deltaMode ? event.deltaY * 30 : event.deltaY;
    const steps = Math.trunc(turned / 30);
    turned -= steps * 30;
    go(at - steps);
  }, { passive: false });
  const jump = event => {
    const box = event.currentTarget.getBoundingClientRect();
    go(nearest(Math.floor((event.clientX - box.left) / box.width * exam.n)));
  };
  const track = (kind, ...inside) => make("div", { class: `sc-track ${kind}`, onpointerdown: event => { jump(event); event.currentTarget.dataset.held = "1"; },
    onpointermove: event => { if (event.buttons && event.currentTarget.dataset.held) jump(event); },
    onpointerup: event => delete event.currentTarget.dataset.held, onpointerleave: event => delete event.currentTarget.dataset.held },
    ...inside, make("div", { class: "sc-now" }));

  // ---- what changes with the exam
  const layTracks = () => {
    const span = i => [`${100 * i / exam.n}%`];
    const last = exam.places.at(-1);
    slider.max = exam.places.length - 1;
    slider.style.left = `calc(${50 / exam.n}% - 9px)`;
    slider.style.width = `calc(${100 * last / exam.n}% + 18px)`;
    tracks.replaceChildren(make("span", {}, "slice"), make("div", { class: "sc-slide" }, slider));
    if (exam.labels.length) {
      const band = make("svg", { viewBox: `0 0 ${exam.n} 1`, preserveAspectRatio: "none", "aria-hidden": "true" });
      for (let i = 0, end; i < exam.n; i = end) { // one bar a stretch of equal labels
        end = exam.labels.findIndex((label, j) => j > i && label !== exam.labels[i]);
        if (end < 0) end = exam.n;
        const label = exam.labels[i];
        if (label !== null) band.append(make("rect", { x: i, y: 0, width: end - i, height: 1, fill: label ? "#E69F00" : "var(--sc-bar)", "fill-opacity": label ? 1 : 0.3 }));
      }
      tracks.append(make("span", {}, "slice label"), track("", band));
    }
    for (const run of exam.scores) {
      const bars = exam.clips.map(([start, stop], i) => {
        const score = run.by_clip[i], said = score === null ? "no score" : `score ${score.toFixed(2)}`;
        return make("button", {
          type: "button", class: "sc-clip", "data-start": start, "data-stop": stop, title: `clip ${i}, slices ${start} to ${stop - 1}: ${said}`,
          "aria-label": `${run.name}, clip ${i}, slices ${start} to ${stop - 1}, ${said}`,
          style: `left:${span(start)};width:${100 * (stop - start) / exam.n}%;--c:${run.colour}`,
          onclick: event => { if (!event.detail) go(nearest((start + stop - 1) / 2)); },
        }, make("i", { style: `height:${100 * (score || 0)}%` }), make("b", {}, score === null ? "–" : score.toFixed(2)));
      });
      tracks.append(make("span", {}, run.name), track("bars", ...bars));
    }
    tracks.append(make("span"), make("div", { class: "sc-ends" }, make("span", {}, "inferior"), make("span", {}, "superior")));
  };
  const layOverlays = () => {
    const readers = [...new Set(exam.outlines.map(([, reader]) => reader))].sort();
    const rows = [];
    if (exam.outlines.length)
      rows.push(make("label", {}, make("input", { type: "checkbox", checked: shown.outlines, "data-for": "outlines", onchange: event => { shown.outlines = event.target.checked; draw(); } }), "readers' contours"));
    if (exam.heats.length) {
      const choice = make("select", { "aria-label": "Heat", onchange: event => setHeat(+event.target.value) },
        ...["off", ...exam.heats.map(one => one.name)].map((name, i) => make("option", { value: i, selected: i === shown.heat }, name)));
      rows.push(make("label", {}, "heat", choice));
      rows.push(make("label", {}, "its opacity", make("input", { type: "range", min: 0, max: 1, step: 0.05, value: shown.strength, oninput: event => { shown.strength = +event.target.value; draw(); } })));
    }
    overlays.replaceChildren(overlays.firstChild, ...rows);
    overlays.hidden = !rows.length;
    const part = (colour, text, line) => make("span", {}, make("i", { class: line ? "line" : "", style: line ? `border-color:${colour}` : `background:${colour}` }), text);
    key.replaceChildren(...(exam.labels.includes(1) ? [part("#E69F00", "slice with disease")] : []), ...readers.map(reader => part(data.readers[reader], `reader ${reader}`, true)),
      ...(exam.scores.length ? [make("span", {}, "bars: score of each clip, 0 to 1")] : []));
  };
  const setHeat = async i => {
    const chosen = exam;
    shown.heat = i;
    const lit = exam.heats[i - 1];
    heat = null;
    if (lit) {
      heats[lit.name] ||= await picture(lit.source);
      if (exam !== chosen || shown.heat !== i) return;
      heat = heats[lit.name];
    }
    draw();
  };
  const open = async i => {
    const next = data.exams[i];
    const loaded = await picture(next.source);
    [exam, sheet, heat, heats, marks] = [next, loaded, null, {}, []];
    shown.heat = 0;
    for (const [place, reader, hole, path] of exam.outlines) (marks[place] ||= []).push([reader, hole, path]);
    stage.style.aspectRatio = exam.aspect;
    outlines.setAttribute("viewBox", `0 0 ${exam.size[0]} ${exam.size[1]}`);
    [...chooser.children].forEach((button, j) => button.setAttribute("aria-pressed", i === j));
    layTracks();
    layOverlays();
    const ill = exam.places.map((place, j) => j).filter(j => exam.labels[exam.places[j]] === 1);
    at = ill.length ? ill[ill.length >> 1] : exam.places.length >> 1; // where there is something to see
    setWindow(exam.window);
    fit();
    app.dataset.exam = i;
  };
  const strips = root.querySelectorAll(".sc-strip img");
  data.exams.forEach((one, i) => {
    const small = make("canvas", { width: 96, height: 96 });
    const strip = strips[i];
    const paint = () => { // a tile of the strip: it has 18 px of letters above, and 4 px between tiles
      const side = strip.naturalHeight - 18, step = Math.round((strip.naturalWidth + 4) / Math.round((strip.naturalWidth + 4) / (side * one.aspect + 4)));
      small.getContext("2d").drawImage(strip, step * Math.min(3, Math.floor(strip.naturalWidth / step) - 1), 18, step - 4, side, 0, 0, 96, 96);
    };
    if (strip.complete && strip.naturalWidth) paint(); else strip.addEventListener("load", paint);
    chooser.append(make("button", { type: "button", class: "sc-exam", "aria-pressed": "false", onclick: () => open(i) },
      make("span", { class: "sc-thumb" }, small), make("span", {}, one.title)));
  });
  chooser.hidden = data.exams.length < 2;
  root.setAttribute("data-ready", "");
  app.hidden = false;
  open(0);
  new ResizeObserver(() => exam && fit()).observe(stage);
}
