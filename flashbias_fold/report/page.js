
"use strict";
(() => {
  const drawn = JSON.parse(document.getElementById("drawn").textContent);

  // Tables

  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const number = cell.querySelector("data");
    if (number) return Number(number.value);
    return cell.querySelector(".nothing") ? null : cell.textContent;
  };

  const compare = (left, right) =>
    typeof left === "number" && typeof right === "number" ? left - right : String(left).localeCompare(String(right));

  const sort = (table, column, header) => {
    const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: keyOf(row, column) }));
    // What was not measured stays at the end in either order.
    rows.sort((a, b) => (a.key === null) - (b.key === null) || (a.key === null ? 0 : sign * compare(a.key, b.key)));
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", order);
    table.tBodies[0].append(...rows.map(({ row }) => row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      header.querySelector("button").addEventListener("click", () => sort(table, column, header));
    });
  }

  const view = document.getElementById("view");
  if (!view) return;

  const look = (key) => (Object.hasOwn(drawn.looks, key) ? drawn.looks[key] : { label: key, style: "experiment" });

  // The style sheet knows the colours, for light and dark; a swatch of the class has them.
  const colourOf = (key) => {
    const swatch = document.querySelector(`.swatch.${look(key).style}`);
    return swatch ? getComputedStyle(swatch).backgroundColor : "gray";
  };

  // Maps of predicted aligned error

  const RAMP = [
    [0, 32, 77], [0, 62, 120], [61, 82, 111], [98, 103, 112], [128, 124, 121], [166, 149, 112], [209, 181, 90], [253, 231, 55],
  ];

  const shade = (share) => {
    const place = share * (RAMP.length - 1);
    const below = Math.min(Math.floor(place), RAMP.length - 2);
    return RAMP[below].map((value, channel) => value + (place - below) * (RAMP[below + 1][channel] - value));
  };

  const paint = (width, height, shareAt) => {
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    for (let index = 0; index < width * height; index++) {
      image.data.set([...shade(shareAt(index)), 255], 4 * index);
    }
    context.putImageData(image, 0, 0);
    return canvas;
  };

  const element = (kind, className, ...children) => {
    const made = document.createElement(kind);
    made.className = className;
    made.append(...children);
    return made;
  };

  const named = (key) => {
    const label = document.createElement("bdi");
    label.textContent = look(key).label;
    return [element("span", `swatch ${look(key).style}`), label];
  };

  const showMaps = (maps) => {
    const figures = maps.map((map) => {
      const bytes = atob(map.values);
      const canvas = paint(map.size, map.size, (index) => bytes.charCodeAt(index) / 255);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `predicted aligned error, ${look(map.of).label}`);
      return element("figure", "map", canvas, element("figcaption", "", ...named(map.of)));
    });
    if (maps.length) {
      const bar = paint(128, 1, (index) => index / 127);
      const most = Math.max(...maps.map((map) => map.most));
      const unit = element("span", "", `${most} \u212b, predicted aligned error`);
      figures.push(element("div", "scale", "0", bar, unit));
    }
    document.getElementById("maps").replaceChildren(...figures);
  };

  // The view of superposed traces

  const STEPS = 4; // pieces of a curve between two atoms
  const FAR = 0.35; // how much of a colour is left at the back

  const multiply = (left, right) =>
    left.map((row) => [0, 1, 2].map((column) => row.reduce((sum, value, index) => sum + value * right[index][column], 0)));

  const turned = (across, down) => {
    const [ca, sa, cd, sd] = [Math.cos(across), Math.sin(across), Math.cos(down), Math.sin(down)];
    return multiply([[1, 0, 0], [0, cd, -sd], [0, sd, cd]], [[ca, 0, sa], [0, 1, 0], [-sa, 0, ca]]);
  };

  const START = turned(0.35, 0.35);
  let traces = [];
  let hidden = new Set();
  let rotation = START;
  let zoom = 1;
  let radius = 1; // of all atoms, for depth
  let size = 1; // of most atoms, for the scale: a loose end may leave the picture

  // A curve through the atoms, after Catmull and Rom.
  const curve = (points) => {
    if (points.length < 3) return points;
    const found = [];
    for (let index = 0; index + 1 < points.length; index++) {
      const [a, b, c, d] = [-1, 0, 1, 2].map((step) => points[Math.min(Math.max(index + step, 0), points.length - 1)]);
      for (let step = 0; step < STEPS; step++) {
        const t = step / STEPS;
        found.push(b.map((_, axis) => 0.5 * (2 * b[axis] + (c[axis] - a[axis]) * t
          + (2 * a[axis] - 5 * b[axis] + 4 * c[axis] - d[axis]) * t * t
          + (3 * b[axis] - a[axis] - 3 * c[axis] + d[axis]) * t * t * t)));
      }
    }
    found.push(points[points.length - 1]);
    return found;
  };

  const turn = (across, down) => {
    rotation = multiply(turned(across, down), rotation);
    draw();
  };

  const scaleBy = (factor) => {
    zoom = Math.min(Math.max(zoom * factor, 0.3), 12);
    draw();
  };

  const load = (entry) => {
    const all = entry.traces.flatMap((trace) => trace.chains.flatMap((chain) => chain.segments.flat()));
    const centre = [0, 1, 2].map((axis) => all.reduce((sum, point) => sum + point[axis], 0) / Math.max(all.length, 1));
    const centred = (point) => point.map((value, axis) => value - centre[axis]);
    const away = all.map((point) => Math.hypot(...centred(point)));
    radius = away.reduce((most, distance) => Math.max(most, distance), 1);
    size = 1.55 * Math.sqrt(away.reduce((sum, distance) => sum + distance * distance, 1) / Math.max(all.length, 1));
    traces = entry.traces.map((trace) => ({
      of: trace.of,
      lines: trace.chains.flatMap((chain) => chain.segments.map((segment) => curve(segment.map(centred)))),
    }));
    rotation = START;
    zoom = 1;
    hidden = new Set();
    showLegend();
    draw();
  };

  const showLegend = () => {
    document.getElementById("traces").replaceChildren(...traces.map(({ of }) => {
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => {
        if (box.checked) hidden.delete(of); else hidden.add(of);
        draw();
      });
      return element("li", "", element("label", "", box, ...named(of)));
    }));
  };

  const pieces = (width, height) => {
    const scale = zoom * 0.46 * Math.min(width, height) / size;
    const found = [];
    for (const trace of traces) {
      if (hidden.has(trace.of)) continue;
      const colour = colourOf(trace.of);
      for (const line of trace.lines) {
        const placed = line.map((point) => {
          const [x, y, z] = rotation.map((row) => row[0] * point[0] + row[1] * point[1] + row[2] * point[2]);
          const near = 4 * radius / (4 * radius - z);
          return [width / 2 + scale * near * x, height / 2 - scale * near * y, z / radius];
        });
        if (placed.length === 1) placed.push(placed[0]);
        for (let index = 0; index + 1 < placed.length; index++) {
          found.push({ from: placed[index], to: placed[index + 1], depth: (placed[index][2] + placed[index + 1][2]) / 2, colour });
        }
      }
    }
    return found.sort((a, b) => a.depth - b.depth);
  };

  const redraw = () => {
    const { clientWidth: width, clientHeight: height } = view;
    const density = Math.min(window.devicePixelRatio || 1, 3);
    view.width = Math.round(width * density);
    view.height = Math.round(height * density);
    const context = view.getContext("2d");
    context.scale(density, density);
    context.lineCap = "round";
    const behind = getComputedStyle(view).backgroundColor;
    const thick = Math.min(Math.max(0.26 * zoom * Math.min(width, height) / size, 1.2), 8);
    const line = (piece, thickness, colour, alpha) => {
      context.globalAlpha = alpha;
      context.strokeStyle = colour;
      context.lineWidth = thickness;
      context.beginPath();
      context.moveTo(piece.from[0], piece.from[1]);
      context.lineTo(piece.to[0], piece.to[1]);
      context.stroke();
    };
    // From back to front. What is behind shows the background through, with an edge where lines cross.
    for (const piece of pieces(width, height)) {
      const nearness = Math.min(Math.max((piece.depth + 1) / 2, 0), 1);
      const thickness = thick * (0.6 + 0.6 * nearness);
      context.lineCap = "butt";
      line(piece, thickness + 1.8, behind, 1);
      context.lineCap = "round";
      line(piece, thickness, behind, 1);
      line(piece, thickness, piece.colour, FAR + (1 - FAR) * nearness);
    }
  };

  let awaited = 0;
  const draw = () => {
    cancelAnimationFrame(awaited);
    awaited = requestAnimationFrame(redraw);
  };

  // One pointer turns, two pinch.
  const pointers = new Map();
  const apart = () => {
    const [one, other] = [...pointers.values()];
    return Math.hypot(one.x - other.x, one.y - other.y) || 1;
  };
  view.addEventListener("pointerdown", (event) => {
    view.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });
  view.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const now = { x: event.clientX, y: event.clientY };
    if (pointers.size === 1) {
      pointers.set(event.pointerId, now);
      turn(0.01 * (now.x - last.x), 0.01 * (now.y - last.y));
    } else if (pointers.size === 2) {
      const before = apart();
      pointers.set(event.pointerId, now);
      scaleBy(apart() / before);
    }
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    view.addEventListener(kind, (event) => pointers.delete(event.pointerId));
  }
  view.addEventListener("wheel", (event) => {
    event.preventDefault();
    scaleBy(Math.exp(-0.0015 * event.deltaY));
  }, { passive: false });
  const KEYS = {
    ArrowLeft: () => turn(-0.12, 0), ArrowRight: () => turn(0.12, 0),
    ArrowUp: () => turn(0, -0.12), ArrowDown: () => turn(0, 0.12),
    "+": () => scaleBy(1.15), "=": () => scaleBy(1.15), "-": () => scaleBy(1 / 1.15),
  };
  view.addEventListener("keydown", (event) => {
    if (!Object.hasOwn(KEYS, event.key)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  document.getElementById("nearer").addEventListener("click", () => scaleBy(1.25));
  document.getElementById("farther").addEventListener("click", () => scaleBy(0.8));
  document.getElementById("reset").addEventListener("click", () => {
    rotation = START;
    zoom = 1;
    draw();
  });

  const chooser = document.getElementById("entry");
  const choose = () => {
    const entry = drawn.entries[chooser.selectedIndex];
    document.getElementById("chosen").textContent = entry.name;
    showMaps(entry.pae_maps);
    load(entry);
  };
  chooser.addEventListener("change", choose);
  new ResizeObserver(draw).observe(view);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // Printed on white, and at once.
  window.addEventListener("beforeprint", redraw);
  matchMedia("print").addEventListener("change", redraw);
  choose();
})();
