// Axial, coronal and sagittal plane of a volume: the page asks the kernel for those it shows, keeps them,
// and draws them at the volume's own rows and columns; HU window, colours and ruler need no kernel.
const NAMES = ["axial", "coronal", "sagittal"], STEPPED = ["slice", "row", "column"];
const ACROSS = [[1, 2], [0, 2], [0, 1]];  // axes of the volume along a plane's rows and columns
const EDGE = 18, GAP = 4;  // px: around a plane, for its letters; between planes
const AHEAD = 6, KEPT_BYTES = 256e6, PATIENCE_MS = 8000, SAVE_MS = 80, NOTCH = 40;
const CURSOR = "rgba(255, 82, 70, 0.85)", RULER = "#ffd866", GAP_PX = 10;

function element(kind, name, parent) {
  const made = document.createElement(kind);
  made.className = name;
  parent?.appendChild(made);
  return made;
}

function render({ model, el }) {
  const box = element("div", "ct-planes", el);
  box.tabIndex = 0;
  box.dataset.lmSuppressShortcuts = "true";  // else JupyterLab takes the arrows for its cells
  box.setAttribute("aria-label", "planes of the volume; arrow and Page keys step through the slices");
  const status = element("div", "ct-status", el);
  status.setAttribute("role", "status");
  let kept = new Map(), bytes = 0, waiting = 0, ended = false, active = 0, way = 1, drag = null;
  let saving = null, frame = null, turned = 0;

  const get = (name) => model.get(name);
  const at = (index) => get("place")[index];
  const size = (index) => ACROSS[index].map((axis) => get("shape")[axis]);
  const pitch = (index) => ACROSS[index].map((axis) => get("spacing_mm")[axis]);
  const visible = () => (get("view") === "all" ? [0, 1, 2] : [Math.max(NAMES.indexOf(get("view")), 0)]);

  const brush = (canvas) => canvas.getContext("2d", { willReadFrequently: true });  // drawn by the CPU

  const tiles = NAMES.map((name, index) => {
    const root = element("div", "ct-plane", box);
    root.dataset.plane = name;
    const canvas = element("canvas", "", root);
    const sides = ["left", "right", "above", "below"].map((edge) => element("span", `ct-side ${edge}`, root));
    const tile = { index, root, canvas, sides, what: element("span", "ct-what", root), off: [], rulers: [] };
    tile.still = () => Object.assign(tile, { zoom: 1, centre: size(index).map((n) => n / 2) });
    return tile;
  });

  // ---- what the kernel sends ------------------------------------------------------------------
  function keep({ planes }, buffers) {
    const each = get("layers").length + 1;
    planes.forEach(([index, place], i) => {
      const parts = buffers.slice(i * each, (i + 1) * each).map((b) =>
        b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength));
      const plane = { ct: new Int16Array(parts[0]), over: parts.slice(1).map((p) => new Uint8Array(p)) };
      plane.bytes = parts.reduce((sum, part) => sum + part.byteLength, 0);
      bytes += plane.bytes;
      kept.set(`${index} ${place}`, plane);
    });
    for (const [name, plane] of kept) {
      if (bytes < KEPT_BYTES) break;
      kept.delete(name);  // the oldest
      bytes -= plane.bytes;
    }
  }

  function ask() {
    if (waiting || ended) return;
    let need = visible().map((index) => [index, at(index)]).filter((one) => !kept.has(one.join(" ")));
    if (!need.length) {
      const last = get("shape")[active] - 1;
      for (let i = 1; i <= AHEAD && need.length < 2; i++) {
        const one = [active, at(active) + way * i];
        if (one[1] >= 0 && one[1] <= last && !kept.has(one.join(" "))) need.push(one);
      }
    }
    if (!need.length) return;
    waiting = Date.now();
    model.send({ need, serial: get("serial"), slab_mm: get("slab_mm") });
  }

  function answer(content, buffers) {
    if (content.snapshot) return snapshot();
    waiting = 0;
    if (status.dataset.kind === "silent") say("");
    if (content.serial === get("serial") && content.slab_mm === get("slab_mm")) keep(content, buffers);
    later();
    ask();
  }

  function say(text, kind = "") {
    status.textContent = text;
    status.dataset.kind = kind;
  }

  function lost() {
    ended = true;
    say("The kernel of this viewer has ended: no other slice can be loaded. Run its cell again.", "ended");
  }
  const patience = setInterval(() => {
    if (el.closest(".jupyter-widgets-disconnected")) lost();
    else if (waiting && !ended && Date.now() - waiting > PATIENCE_MS)
      say("The kernel does not answer: it is busy with a cell, or has ended. If it has, run this cell again.",
        "silent");
  }, 1000);
  const kernel = model.widget_manager?.kernel;  // of JupyterLab; elsewhere the silence tells
  const heard = (_, now) => ["restarting", "autorestarting", "dead", "terminating"].includes(now) && lost();
  kernel?.statusChanged?.connect(heard);
  kernel?.disposed?.connect(lost);

  // ---- drawing --------------------------------------------------------------------------------
  function paint(tile, plane) {
    const [rows, columns] = size(tile.index), n = rows * columns, [low, high] = get("limits");
    const layers = get("layers"), painted = [plane, low, high, layers];
    if (painted.every((part, i) => part === tile.painted?.[i])) return;  // only the cursor moved
    tile.painted = painted;
    tile.off = [0, 1].map((i) => tile.off[i]?.width === columns && tile.off[i].height === rows
      ? tile.off[i] : Object.assign(document.createElement("canvas"), { width: columns, height: rows }));
    const [grey, sharp] = tile.off.map((off) => brush(off).createImageData(columns, rows));
    const out = new Uint32Array(grey.data.buffer), per = 255 / Math.max(high - low, 1);
    for (let i = 0; i < n; i++) {
      const value = (plane.ct[i] - low) * per;
      out[i] = 0xff000000 | (0x010101 * (value < 0 ? 0 : value > 255 ? 255 : (value + 0.5) | 0));
    }
    layers.forEach((layer, i) => {
      const over = plane.over[i], [target, mixed] = layer.sharp ? [sharp.data, false] : [grey.data, true];
      for (let j = 0; j < over.length; j++) {
        if (!over[j]) continue;
        const [red, green, blue, alpha] = layer.colours[over[j]], share = mixed ? (alpha * layer.opacity) / 255 : 1;
        [red, green, blue].forEach((c, k) => { target[4 * j + k] += (c - target[4 * j + k]) * share; });
        if (!mixed) target[4 * j + 3] = alpha * layer.opacity;
      }
    });
    brush(tile.off[0]).putImageData(grey, 0, 0);
    brush(tile.off[1]).putImageData(sharp, 0, 0);
  }

  /** Where pixel (row, column) of a plane lies on its canvas. */
  function spot(tile, [row, column]) {
    const [rows, columns] = size(tile.index), { width, height } = tile.canvas;
    return [width / 2 + ((column - tile.centre[1]) * width * tile.zoom) / columns,
      height / 2 + ((row - tile.centre[0]) * height * tile.zoom) / rows];
  }

  /** Row and column, fractions of pixels, under a pointer. */
  function under(tile, event) {
    const [rows, columns] = size(tile.index), seen = tile.canvas.getBoundingClientRect();
    const [x, y] = [(event.clientX - seen.left) / seen.width - 0.5, (event.clientY - seen.top) / seen.height - 0.5];
    return [tile.centre[0] + (y * rows) / tile.zoom, tile.centre[1] + (x * columns) / tile.zoom];
  }

  /** The cursor on a plane, in the middle of its pixel; all planes but the axial have Superior on top. */
  function cursor(index) {
    const [down, across] = ACROSS[index];
    return [down === 0 ? get("shape")[0] - at(0) - 0.5 : at(down) + 0.5, at(across) + 0.5];
  }

  function draw(tile) {
    const plane = kept.get(`${tile.index} ${at(tile.index)}`);
    if (!plane) return;  // the one before stays until it is there
    paint(tile, plane);
    const context = brush(tile.canvas), { width, height } = tile.canvas;
    const [rows, columns] = size(tile.index), dpr = window.devicePixelRatio || 1;
    const [x, y] = spot(tile, [0, 0]), [right, bottom] = spot(tile, [rows, columns]);
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    tile.off.forEach((off, i) => {
      context.imageSmoothingEnabled = i === 0;
      context.drawImage(off, x, y, right - x, bottom - y);
    });
    const [cx, cy] = spot(tile, cursor(tile.index)).map((v) => Math.round(v - dpr / 2)), gap = GAP_PX * dpr;
    context.fillStyle = CURSOR;
    for (const [from, to] of [[0, cx - gap], [cx + gap, width]]) context.fillRect(from, cy, to - from, dpr);
    for (const [from, to] of [[0, cy - gap], [cy + gap, height]]) context.fillRect(cx, from, dpr, to - from);
    tile.rulers.filter((ruler) => ruler.at === at(tile.index)).forEach((ruler) => measure(tile, context, ruler, dpr));
    const slab = get("slab_mm") ? `, ${get("slab_mm")} mm maximum` : "";
    tile.what.textContent = `${NAMES[tile.index]}, ${STEPPED[tile.index]} ${at(tile.index)}${slab}`;
    Object.assign(tile.root.dataset, { at: at(tile.index), drawn: `${rows} x ${columns}` });
    tile.root.classList.toggle("active", tile.index === active && visible().length > 1);
  }

  const length = (index, ruler) => Math.hypot(...pitch(index).map((mm, k) => mm * (ruler.to[k] - ruler.from[k])));

  function measure(tile, context, ruler, dpr) {
    const [from, to] = [spot(tile, ruler.from), spot(tile, ruler.to)];
    context.strokeStyle = context.fillStyle = RULER;
    context.lineWidth = dpr;
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
    for (const end of [from, to]) context.fillRect(end[0] - 2 * dpr, end[1] - 2 * dpr, 4 * dpr, 4 * dpr);
    context.font = `${13 * dpr}px system-ui, sans-serif`;
    Object.assign(context, { lineWidth: 3 * dpr, lineJoin: "round", strokeStyle: "#000" });
    const text = `${length(tile.index, ruler).toFixed(1)} mm`;
    context.strokeText(text, to[0] + 6 * dpr, to[1] - 6 * dpr);
    context.fillText(text, to[0] + 6 * dpr, to[1] - 6 * dpr);
  }

  function later() {
    frame ??= requestAnimationFrame(() => {
      frame = null;
      visible().forEach((index) => draw(tiles[index]));
    });
  }

  /** Axial on the left, as high as the two others together; true aspect; no wider than what is drawn. */
  function arrange() {
    const mm = (index) => pitch(index).map((step, k) => step * size(index)[k]);  // height, width
    const shown = visible(), wide = Math.max(el.clientWidth, 240), tall = Math.max(Math.min(get("height_px"), 0.6 * innerHeight), 300) - 2 * EDGE;
    const [height, width] = mm(shown[0]), both = shown.length > 1;
    const most = Math.max(mm(1)[1], mm(2)[1]), stack = mm(1)[0] + mm(2)[0], rims = 2 * EDGE + GAP;
    let room = wide - 2 * EDGE, scale = Math.min(room / width, tall / height), side = 0;
    if (both) {
      room -= rims;
      scale = Math.min((room + (rims * most) / stack) / (width + (height * most) / stack), tall / height);
      side = (height * scale - rims) / stack;
      if (side * most > 0.75 * width * scale) {  // few slices: they would be wider than the axial plane
        scale = Math.min(room / (1.75 * width), tall / height);
        side = (0.75 * width * scale) / most;
      }
    }
    const dpr = window.devicePixelRatio || 1;
    tiles.forEach((tile) => {
      tile.root.style.display = shown.includes(tile.index) ? "" : "none";
      if (!shown.includes(tile.index)) return;
      const own = Math.max(tile.index === shown[0] ? scale : side, 0.01);
      const [high, broad] = mm(tile.index).map((n) => Math.max(Math.round(n * own), 1));
      Object.assign(tile.canvas.style, { width: `${broad}px`, height: `${high}px` });
      Object.assign(tile.canvas, { width: Math.round(broad * dpr), height: Math.round(high * dpr) });
      tile.sides.forEach((side, k) => { side.textContent = get("sides")[tile.index][k]; });
    });
    box.classList.toggle("single", shown.length === 1);
    if (!shown.includes(active)) active = shown[0];
    later();
  }

  // ---- what hands do --------------------------------------------------------------------------
  function save() {
    saving ??= setTimeout(() => {
      saving = null;
      if (!ended) model.save_changes();
    }, SAVE_MS);
  }

  function go(place) {
    const inside = place.map((value, axis) => Math.max(0, Math.min(get("shape")[axis] - 1, value)));
    if (inside.every((value, axis) => value === at(axis))) return;
    model.set("place", inside);
    save();
  }

  /** Steps down a stack: from Superior to Inferior, Anterior to Posterior, Right to Left. */
  function step(n) {
    way = Math.sign(active === 0 ? -n : n);
    go(get("place").map((value, axis) => (axis === active ? value + (active === 0 ? -n : n) : value)));
  }

  function pointed(tile, spot) {
    const place = [...get("place")], [down, across] = ACROSS[tile.index], [row, column] = spot.map(Math.floor);
    place[down] = down === 0 ? get("shape")[0] - 1 - row : row;
    place[across] = column;
    return place;
  }

  function hover(tile, event) {
    const [row, column] = under(tile, event).map(Math.floor), [rows, columns] = size(tile.index);
    const plane = kept.get(`${tile.index} ${at(tile.index)}`);
    if (status.dataset.kind || !plane || row < 0 || column < 0 || row >= rows || column >= columns) return;
    say(`pointer: ${plane.ct[row * columns + column]} HU`.replace("-", "−"));
  }

  function moved(tile, event) {
    const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.far ||= Math.hypot(dx, dy) > 3;
    if (!drag.far) return;
    if (drag.kind === "pan") {
      const [rows, columns] = size(tile.index), seen = tile.canvas.getBoundingClientRect();
      tile.centre = [drag.centre[0] - (dy * rows) / seen.height / tile.zoom,
        drag.centre[1] - (dx * columns) / seen.width / tile.zoom];
    } else if (drag.kind === "ruler") {
      drag.ruler ??= tile.rulers[tile.rulers.push({ at: at(tile.index), from: drag.from, to: drag.from }) - 1];
      drag.ruler.to = under(tile, event);
      say(`ruler: ${length(tile.index, drag.ruler).toFixed(1)} mm`, "ruler");
    } else {
      const [low, high] = drag.limits, step = Math.max((high - low) / 200, 1);
      const width = Math.max(Math.round(high - low + dx * step), 1);
      const centre = Math.round((low + high) / 2 - dy * step);
      model.set("limits", [centre - width / 2, centre + width / 2]);
      save();
    }
    later();
  }

  tiles.forEach((tile) => {
    tile.canvas.addEventListener("pointerdown", (event) => {
      tile.canvas.setPointerCapture(event.pointerId);
      box.focus({ preventScroll: true });
      active = tile.index;
      const pans = event.button !== 0 || event.shiftKey;
      drag = { x: event.clientX, y: event.clientY, limits: get("limits"), centre: tile.centre,
        from: under(tile, event), kind: pans ? "pan" : get("tools")[get("tool")] };
      if (status.dataset.kind === "ruler") say("");
      event.preventDefault();
    });
    tile.canvas.addEventListener("pointermove", (event) => (drag ? moved(tile, event) : hover(tile, event)));
    tile.canvas.addEventListener("pointerup", (event) => {
      if (drag && !drag.far && drag.kind !== "pan") go(pointed(tile, under(tile, event)));
      drag = null;
      later();
    });
    tile.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    tile.canvas.addEventListener("dblclick", () => { tile.still(); later(); });
    tile.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      event.stopPropagation();
      active = tile.index;
      if (document.activeElement !== box) box.focus({ preventScroll: true });
      if (!event.ctrlKey) {
        turned += event.deltaY * (event.deltaMode ? 40 : 1);
        if (Math.abs(turned) < NOTCH) return;
        step(Math.sign(turned));
        turned = 0;
        return;
      }
      const before = under(tile, event);
      tile.zoom = Math.max(1, Math.min(16, tile.zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15)));
      const after = under(tile, event);
      tile.centre = tile.zoom === 1 ? size(tile.index).map((n) => n / 2)
        : tile.centre.map((middle, k) => middle + before[k] - after[k]);
      later();
    }, { passive: false });
  });

  box.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, PageUp: -10, PageDown: 10,
      Home: -Infinity, End: Infinity };
    if (event.key in steps) step(Math.max(-1e6, Math.min(1e6, steps[event.key])));
    else if (["Delete", "Escape"].includes(event.key)) { tiles.forEach((tile) => { tile.rulers = []; }); say(""); later(); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  /** The planes as they are seen, as a PNG that the browser saves. */
  function snapshot() {
    const whole = box.getBoundingClientRect(), dpr = window.devicePixelRatio || 1;
    const sheet = Object.assign(document.createElement("canvas"),
      { width: Math.ceil(whole.width * dpr), height: Math.ceil(whole.height * dpr) });
    const context = sheet.getContext("2d");
    context.fillRect(0, 0, sheet.width, sheet.height);
    visible().forEach((index) => {
      const place = (node) => {
        const seen = node.getBoundingClientRect();
        return [(seen.left - whole.left) * dpr, (seen.top - whole.top) * dpr];
      };
      context.drawImage(tiles[index].canvas, ...place(tiles[index].canvas));
      context.fillStyle = "#ffe27a";
      context.textBaseline = "top";
      context.font = `${12 * dpr}px system-ui, sans-serif`;
      for (const text of [...tiles[index].sides, tiles[index].what]) context.fillText(text.textContent, ...place(text));
    });
    const link = document.createElement("a");
    const [slice, row, column] = get("place");
    link.download = `ct-slice${slice}-row${row}-column${column}.png`;
    link.href = sheet.toDataURL("image/png");
    link.click();
  }

  // ---- what the kernel changes ------------------------------------------------------------------
  function opened() {
    [kept, bytes, waiting] = [new Map(), 0, 0];
    keep(get("first"), get("first").buffers);
    tiles.forEach((tile) => { tile.rulers = []; tile.still(); });
    arrange();
    ask();
  }
  const events = {
    "change:serial": opened,
    "change:slab_mm": () => { [kept, bytes] = [new Map(), 0]; later(); ask(); },
    "change:place": () => { later(); ask(); },
    "change:view": () => { arrange(); ask(); },
    "change:limits change:layers": later,
    "msg:custom": answer,
  };
  for (const [name, call] of Object.entries(events)) model.on(name, call);
  const watch = new ResizeObserver(arrange);
  watch.observe(el);
  opened();
  return () => {
    clearInterval(patience);
    watch.disconnect();
    kernel?.statusChanged?.disconnect(heard);
    kernel?.disposed?.disconnect(lost);
    for (const [name, call] of Object.entries(events)) model.off(name, call);
  };
}

export default { render };
