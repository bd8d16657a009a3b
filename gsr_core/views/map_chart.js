// Draws a map of samples on a plain canvas and reports the user's gestures on it.
//
// gsr_core/figures/scatter.py describes the input `data.map`, map_chart.py `data.shown`. The output
// is one trigger, `gesture`: the outline of a lasso or box, or the row of the point that was
// clicked. No WebGL: a map must also work without a GPU, and 200,000 points are blended here in a
// few hundredths of a second. One long file, because Streamlit loads a component as one script and
// nothing in this repository bundles scripts.

const NEAR = 8; // pixels within which a point counts as pointed at
const STILL = 4; // pixels that a click may move
const MARGIN = 14; // pixels around the points in the whole view
const SVG = 'http://www.w3.org/2000/svg';

const TOOLS = [
  ['lasso', 'Lasso (L)', 'M4 9c0-3 4-5 8-5s8 2 8 5-4 5-8 5-8-2-8-5zM7 13c-2 2 1 3 0 6'],
  ['box', 'Box (B)', 'M4 4h3m3 0h4m3 0h3v3m0 3v4m0 3v3h-3m-3 0h-4m-3 0H4v-3m0-3v-4m0-3V4'],
  ['pan', 'Move (M)', 'M12 3v18M3 12h18M9 6l3-3 3 3M9 18l3 3 3-3M6 9l-3 3 3 3M18 9l3 3-3 3'],
];
const ACTIONS = [
  ['in', 'Zoom in (+)', 'M5 12h14M12 5v14'],
  ['out', 'Zoom out (-)', 'M5 12h14'],
  ['whole', 'Whole map (0)', 'M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5'],
  ['clear', 'Clear the selection (Esc)', 'M6 6l12 12M18 6L6 18'],
  ['save', 'Save as PNG', 'M12 4v11m-4-4l4 4 4-4M5 20h14'],
];

const SHAPES = {
  circle: 'M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0Z',
  square: 'M-.85-.85H.85V.85H-.85Z',
  diamond: 'M0-1.15L1.15 0 0 1.15-1.15 0Z',
  cross: 'M-.35-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z',
  'triangle-up': 'M0-1.1L1.1.9H-1.1Z',
  'triangle-down': 'M0 1.1L1.1-.9H-1.1Z',
  star: 'M0-1.2L.3-.4 1.15-.37.48.15.7.97 0 .5-.7.97-.48.15-1.15-.37-.3-.4Z',
  x: 'M-1-.5L-.5-1 0-.5.5-1 1-.5.5 0 1 .5.5 1 0 .5-.5 1-1 .5-.5 0Z',
};

const KEYS = 'Arrows move it, plus and minus zoom, 0 shows all, Escape clears the selection.';

const maps = new WeakMap();

export default function (component) {
  const root = component.parentElement.querySelector('.map');
  if (!maps.has(root)) maps.set(root, new Chart(root));
  const map = maps.get(root);
  map.send = gesture => component.setTriggerValue('gesture', gesture);
  map.show(component.data);
}

class Chart {
  constructor(root) {
    this.root = root;
    root.setAttribute('role', 'figure');
    this.tools = element(root, 'div', 'tools');
    this.plot = element(root, 'div', 'plot');
    this.plot.tabIndex = 0;
    // It takes keys of its own; without a role, a name on it would not be read.
    this.plot.setAttribute('role', 'application');
    this.canvas = element(this.plot, 'canvas');
    this.canvas.setAttribute('aria-hidden', 'true');
    this.over = this.plot.appendChild(document.createElementNS(SVG, 'svg'));
    this.tip = element(this.plot, 'div', 'tip');
    this.key = element(root, 'ul', 'key');
    this.buttons = {};
    for (const each of TOOLS) this.button(each, () => this.use(each[0]));
    element(this.tools, 'span', 'gap');
    for (const each of ACTIONS) this.button(each, () => this.act(each[0]));
    this.status = element(this.tools, 'span', 'status');
    this.status.setAttribute('role', 'status');
    this.use('lasso');
    this.listen();
    new ResizeObserver(() => this.resized()).observe(this.plot);
  }

  button([name, label, path], action) {
    const button = element(this.tools, 'button');
    button.type = 'button';
    button.title = label;
    button.setAttribute('aria-label', label);
    const icon = button.appendChild(document.createElementNS(SVG, 'svg'));
    icon.setAttribute('viewBox', '0 0 24 24');
    icon.appendChild(document.createElementNS(SVG, 'path')).setAttribute('d', path);
    button.addEventListener('click', action);
    this.buttons[name] = button;
  }

  use(tool) {
    this.tool = this.plot.dataset.tool = tool;
    for (const [name] of TOOLS) this.buttons[name].setAttribute('aria-pressed', name === tool);
  }

  act(action) {
    if (action === 'in') this.zoom(1.5);
    if (action === 'out') this.zoom(1 / 1.5);
    if (action === 'whole') this.whole();
    if (action === 'clear') this.gesture({});
    if (action === 'save') this.save();
  }

  // What comes in ------------------------------------------------------------------------------

  show({map, shown}) {
    this.root.setAttribute('aria-label', shown.alt);
    this.plot.setAttribute('aria-label', `${shown.alt} ${KEYS}`);
    this.root.style.setProperty('--accent', shown.accent);
    if (map.places !== this.map?.places) {
      this.x = numbers(map.x, Uint16Array);
      this.y = numbers(map.y, Uint16Array);
      this.view = null;
    }
    if (map.content !== this.map?.content) {
      this.codes = numbers(map.codes, Uint16Array);
      this.rows = numbers(map.rows, Int32Array);
      this.values = map.values === null ? null : numbers(map.values, Float32Array);
      this.cells = map.density && numbers(map.density.cells, Uint8Array);
      this.picture = null;
      this.map = map;
      this.explain();
    }
    this.shown = shown;
    this.chosen = shown.chosen === null ? null : numbers(shown.chosen, Uint8Array);
    this.buttons.clear.disabled = !shown.count;
    this.status.textContent = shown.count ? `${shown.count.toLocaleString('en')} selected` : '';
    this.sent = null;
    this.resized();
  }

  explain() {
    const {map, key} = this;
    key.replaceChildren();
    element(key, 'li', 'title').textContent = map.title;
    if (map.bar) {
      const {bar} = map;
      const item = element(key, 'li');
      element(item, 'span').textContent = (bar.below ? '≤ ' : '') + short(bar.low);
      const strip = element(item, 'span', 'bar');
      strip.style.background = `linear-gradient(to right, ${bar.inks.join(',')})`;
      element(item, 'span').textContent = (bar.above ? '≥ ' : '') + short(bar.high);
    }
    for (const {name, ink, symbol, count} of map.legend) {
      const item = element(key, 'li');
      const swatch = element(item, 'canvas');
      swatch.width = swatch.height = 24;
      const pen = swatch.getContext('2d');
      pen.setTransform(8, 0, 0, 8, 12, 12);
      pen.fillStyle = ink;
      pen.fill(new Path2D(SHAPES[map.symbols ? symbol : 'circle']));
      element(item, 'span').textContent = name;
      element(item, 'small').textContent = count.toLocaleString('en');
    }
    if (map.density) {
      const {density} = map;
      const item = element(key, 'li');
      element(item, 'span').textContent = `${density.title}: 1`;
      const strip = element(item, 'span', 'bar');
      strip.style.background = `linear-gradient(to right, ${density.ink}1a, ${density.ink})`;
      element(item, 'span').textContent = density.most.toLocaleString('en');
    }
    element(key, 'li', 'note').textContent =
      'The axes have no unit: only what lies close together means something.';
  }

  // From map units to pixels: x * scale + left, top - y * scale --------------------------------

  resized() {
    const {clientWidth: wide, clientHeight: tall} = this.plot;
    if (!this.map || !wide || !tall) return;
    if (this.wide !== wide || this.tall !== tall) {
      if (this.view && this.wide) {
        this.view.left += (wide - this.wide) / 2;
        this.view.top += (tall - this.tall) / 2;
      }
      this.wide = wide;
      this.tall = tall;
    }
    if (!this.view) this.view = this.fitted();
    this.redraw();
  }

  fitted() {
    const [x0, x1, y0, y1] = this.map.extent;
    const scale = Math.min(
      (this.wide - 2 * MARGIN) / (x1 - x0),
      (this.tall - 2 * MARGIN) / (y1 - y0),
    );
    return {
      scale,
      left: this.wide / 2 - ((x0 + x1) / 2) * scale,
      top: this.tall / 2 + ((y0 + y1) / 2) * scale,
    };
  }

  whole() {
    this.view = this.fitted();
    this.redraw();
  }

  zoom(factor, x = this.wide / 2, y = this.tall / 2) {
    const {view} = this;
    const fitted = this.fitted().scale;
    const scale = Math.min(Math.max(view.scale * factor, fitted / 4), fitted * 400);
    const change = scale / view.scale;
    view.left = x + (view.left - x) * change;
    view.top = y + (view.top - y) * change;
    view.scale = scale;
    this.redraw();
  }

  move(x, y) {
    this.view.left += x;
    this.view.top += y;
    this.redraw();
  }

  toPixels([x, y]) {
    const {scale, left, top} = this.view;
    return [x * scale + left, top - y * scale];
  }

  toMap([x, y]) {
    const {scale, left, top} = this.view;
    return [(x - left) / scale, (top - y) / scale];
  }

  // From the 65,536 levels of the coordinates to pixels: level * step + start.
  levels() {
    const [x0, x1, y0, y1] = this.map.extent;
    const [startX, startY] = this.toPixels([x0, y0]);
    const {scale} = this.view;
    return [((x1 - x0) * scale) / 65535, startX, (-(y1 - y0) * scale) / 65535, startY];
  }

  // Drawing --------------------------------------------------------------------------------------

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.paint();
      this.annotate();
    });
  }

  paint() {
    const {canvas, wide, tall, map} = this;
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(wide * ratio), Math.round(tall * ratio)];
    if (canvas.width !== w || canvas.height !== h || !this.image) {
      canvas.width = w;
      canvas.height = h;
      this.pen = canvas.getContext('2d');
      this.image = this.pen.createImageData(w, h);
    }
    this.image.data.fill(0);
    // Points grow a little with the zoom, so that single ones can be pointed at.
    const zoomed = Math.min(Math.max((this.view.scale / this.fitted().scale) ** 0.3, 1), 3);
    const stamps = this.stamps(map.size * zoomed * ratio);
    if (this.chosen) {
      this.stampAll(stamps, ratio, 0, map.opacity * 0.16);
      this.stampAll(stamps, ratio, 1, Math.min(map.opacity + 0.2, 1));
    } else {
      this.stampAll(stamps, ratio, null, map.opacity);
    }
    if (!map.density) {
      this.pen.putImageData(this.image, 0, 0);
    } else {
      this.layer ??= document.createElement('canvas');
      this.layer.width = w;
      this.layer.height = h;
      this.layer.getContext('2d').putImageData(this.image, 0, 0);
      this.pen.clearRect(0, 0, w, h);
      this.paintCells(ratio);
      this.pen.drawImage(this.layer, 0, 0);
    }
    this.plot.dataset.painted = map.content;
  }

  paintCells(ratio) {
    const {density, extent} = this.map;
    if (!this.picture) {
      const {columns, lines} = density;
      this.picture = document.createElement('canvas');
      this.picture.width = columns;
      this.picture.height = lines;
      const pen = this.picture.getContext('2d');
      const image = pen.createImageData(columns, lines);
      const ink = rgb(density.ink);
      for (let line = 0; line < lines; line++) {
        for (let column = 0; column < columns; column++) {
          const to = 4 * ((lines - 1 - line) * columns + column);
          image.data.set([...ink, this.cells[line * columns + column]], to);
        }
      }
      pen.putImageData(image, 0, 0);
    }
    const [x0, y0] = this.toPixels([extent[0], extent[3]]);
    const [x1, y1] = this.toPixels([extent[1], extent[2]]);
    this.pen.imageSmoothingEnabled = false;
    const [x, y] = [x0 * ratio, y0 * ratio];
    this.pen.drawImage(this.picture, x, y, (x1 - x0) * ratio, (y1 - y0) * ratio);
  }

  // One stamp a shape: where a point of this diameter has ink, and how much.
  stamps(diameter) {
    const shapes = this.map.symbols ? [...new Set(this.map.symbols)] : ['circle'];
    const stamps = {};
    for (const shape of shapes) {
      const side = 2 * Math.ceil(0.7 * diameter) + 1;
      const small = document.createElement('canvas');
      small.width = small.height = side;
      const pen = small.getContext('2d');
      pen.setTransform(diameter / 2, 0, 0, diameter / 2, side / 2, side / 2);
      pen.fill(new Path2D(SHAPES[shape]));
      const ink = pen.getImageData(0, 0, side, side).data;
      const [across, down, cover] = [[], [], []];
      for (let at = 0; at < side * side; at++) {
        if (!ink[4 * at + 3]) continue;
        across.push((at % side) - (side >> 1));
        down.push(Math.floor(at / side) - (side >> 1));
        cover.push(ink[4 * at + 3] / 255);
      }
      stamps[shape] = {
        across: Int32Array.from(across),
        down: Int32Array.from(down),
        cover: Float32Array.from(cover),
        reach: side >> 1,
      };
    }
    return stamps;
  }

  // Blend the points in their order; `which` is 1 for the chosen ones, 0 for the others.
  stampAll(stamps, ratio, which, opacity) {
    const {x, y, codes, chosen, image} = this;
    const {n, inks, symbols} = this.map;
    const {data, width, height} = image;
    const colours = inks.map(rgb);
    const shapes = inks.map((_, code) => stamps[symbols ? symbols[code] : 'circle']);
    const [stepX, startX, stepY, startY] = this.levels().map(part => part * ratio);
    for (let i = 0; i < n; i++) {
      if (which !== null && ((chosen[i >> 3] >> (i & 7)) & 1) !== which) continue;
      const {across, down, cover, reach} = shapes[codes[i]];
      const px = Math.round(x[i] * stepX + startX);
      const py = Math.round(y[i] * stepY + startY);
      if (px < -reach || py < -reach || px >= width + reach || py >= height + reach) continue;
      const [red, green, blue] = colours[codes[i]];
      for (let k = 0; k < cover.length; k++) {
        const qx = px + across[k];
        const qy = py + down[k];
        if (qx < 0 || qy < 0 || qx >= width || qy >= height) continue;
        // The source over the destination, both without premultiplied alpha.
        const to = 4 * (qy * width + qx);
        const ink = cover[k] * opacity;
        const under = (data[to + 3] / 255) * (1 - ink);
        const part = ink / (ink + under);
        data[to] += (red - data[to]) * part;
        data[to + 1] += (green - data[to + 1]) * part;
        data[to + 2] += (blue - data[to + 2]) * part;
        data[to + 3] = 255 * (ink + under);
      }
    }
  }

  // What is drawn over the points follows the page's theme by itself, being SVG.
  annotate() {
    this.over.replaceChildren();
    const drawn = this.sent ?? this.shown.outline;
    const path = this.drag?.path ?? drawn.map(corner => this.toPixels(corner));
    if (path.length > 1) {
      this.mark('path', {class: 'outline', d: `M${path.map(at => at.join(' ')).join('L')}Z`});
    }
    if (this.shown.focus) {
      const {x, y, name} = this.shown.focus;
      const [cx, cy] = this.toPixels([x, y]);
      const r = 6 + this.map.size / 2;
      this.mark('circle', {class: 'halo', cx, cy, r});
      this.mark('circle', {class: 'ring', cx, cy, r});
      const right = cx > this.wide * 0.7;
      const label = this.mark('text', {
        class: 'name',
        x: cx + (right ? -r - 6 : r + 6),
        y: cy + 4,
        'text-anchor': right ? 'end' : 'start',
      });
      label.textContent = name.length > 40 ? `…${name.slice(-39)}` : name;
    }
  }

  mark(kind, attributes) {
    const shape = this.over.appendChild(document.createElementNS(SVG, kind));
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    return shape;
  }

  save() {
    const sheet = document.createElement('canvas');
    sheet.width = this.canvas.width;
    sheet.height = this.canvas.height;
    const pen = sheet.getContext('2d');
    pen.fillStyle = getComputedStyle(this.root).getPropertyValue('--st-background-color') || '#fff';
    pen.fillRect(0, 0, sheet.width, sheet.height);
    pen.drawImage(this.canvas, 0, 0);
    const link = document.createElement('a');
    link.download = 'map.png';
    link.href = sheet.toDataURL('image/png');
    link.click();
  }

  // What the user does ---------------------------------------------------------------------------

  listen() {
    const {plot} = this;
    plot.addEventListener('pointerdown', event => this.press(event));
    plot.addEventListener('pointermove', event => this.drags(event));
    plot.addEventListener('pointerup', event => this.release(event));
    plot.addEventListener('pointercancel', () => this.abandon());
    plot.addEventListener('pointerleave', () => this.point(null));
    plot.addEventListener('dblclick', () => this.shown.count && this.gesture({}));
    plot.addEventListener('keydown', event => this.type(event));
    plot.addEventListener(
      'wheel',
      event => {
        event.preventDefault();
        const lines = event.deltaMode ? 16 : 1;
        this.zoom(Math.exp(-event.deltaY * lines * 0.0015), ...this.at(event));
      },
      {passive: false},
    );
  }

  at(event) {
    const {left, top} = this.plot.getBoundingClientRect();
    // The border is not part of what is drawn on.
    return [event.clientX - left - this.plot.clientLeft, event.clientY - top - this.plot.clientTop];
  }

  press(event) {
    if (event.button !== 0 && event.button !== 1) return;
    this.plot.focus({preventScroll: true});
    this.plot.setPointerCapture(event.pointerId);
    this.point(null);
    const tool = event.button === 1 ? 'pan' : this.tool;
    this.drag = {tool, from: this.at(event), last: this.at(event), path: [this.at(event)], far: 0};
    event.preventDefault();
  }

  drags(event) {
    const at = this.at(event);
    const {drag} = this;
    if (!drag) {
      this.point(at);
      return;
    }
    drag.far = Math.max(drag.far, distance(at, drag.from));
    if (drag.tool === 'pan') {
      this.move(at[0] - drag.last[0], at[1] - drag.last[1]);
    } else if (drag.tool === 'box') {
      const [[x0, y0], [x1, y1]] = [drag.from, at];
      drag.path = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
      this.annotate();
    } else if (distance(at, drag.last) >= 2) {
      drag.path.push(at);
      this.annotate();
    } else {
      return;
    }
    drag.last = at;
  }

  release(event) {
    const {drag} = this;
    if (!drag) return;
    const how = event.shiftKey ? 'add' : event.altKey ? 'remove' : 'replace';
    if (drag.far < STILL) {
      const point = this.nearest(drag.from);
      this.abandon();
      if (point !== null) this.gesture({row: this.rows[point], how});
    } else if (drag.tool === 'pan' || drag.path.length < 3) {
      this.abandon();
    } else {
      this.gesture({path: drag.path.map(corner => this.toMap(corner)), how});
    }
  }

  abandon() {
    this.drag = null;
    if (this.view) this.annotate();
  }

  gesture({path = [], row = null, how = 'replace'}) {
    this.status.textContent = 'Selecting …';
    this.drag = null;
    this.sent = path; // shown until the answer is there
    this.annotate();
    this.send({path, row, how, places: this.map.places});
  }

  nearest([px, py]) {
    const {x, y, map} = this;
    const [stepX, startX, stepY, startY] = this.levels();
    let best = NEAR * NEAR;
    let nearest = null;
    for (let i = 0; i < map.n; i++) {
      const dx = x[i] * stepX + startX - px;
      const dy = y[i] * stepY + startY - py;
      const far = dx * dx + dy * dy;
      // The later of two equal ones, as it lies on top.
      if (far <= best) {
        best = far;
        nearest = i;
      }
    }
    return nearest;
  }

  point(at) {
    this.pointed = at;
    this.pointing ??= requestAnimationFrame(() => {
      this.pointing = null;
      this.hover();
    });
  }

  hover() {
    const point = this.pointed && this.view ? this.nearest(this.pointed) : null;
    this.plot.toggleAttribute('data-over', point !== null);
    if (point === null) {
      this.tip.textContent = '';
      return;
    }
    const {map, rows, codes, values} = this;
    const meaning = values ? short(values[point]) : map.names[codes[point]];
    const name = map.ids ? map.ids[point] : `row ${rows[point]}`;
    const words = map.words ? `\n${map.words[point]}` : '';
    this.tip.textContent = `${map.title}: ${meaning}\n${name}${words}`;
    const [x, y] = this.pointed;
    const [right, low] = [x > this.wide / 2, y > this.tall / 2];
    Object.assign(this.tip.style, {
      left: right ? '' : `${x + 12}px`,
      right: right ? `${this.wide - x + 12}px` : '',
      top: low ? '' : `${y + 12}px`,
      bottom: low ? `${this.tall - y + 12}px` : '',
    });
  }

  type(event) {
    if (event.ctrlKey || event.metaKey) return;
    const step = 60;
    const keys = {
      l: () => this.use('lasso'),
      b: () => this.use('box'),
      m: () => this.use('pan'),
      '+': () => this.act('in'),
      '=': () => this.act('in'),
      '-': () => this.act('out'),
      0: () => this.act('whole'),
      Escape: () => (this.drag ? this.abandon() : this.shown.count && this.act('clear')),
      ArrowLeft: () => this.move(step, 0),
      ArrowRight: () => this.move(-step, 0),
      ArrowUp: () => this.move(0, step),
      ArrowDown: () => this.move(0, -step),
    };
    const action = keys[event.key] ?? keys[event.key.toLowerCase()];
    if (!action) return;
    action();
    event.preventDefault();
    event.stopPropagation();
  }
}

function element(parent, kind, name) {
  const child = parent.appendChild(document.createElement(kind));
  if (name) child.className = name;
  return child;
}

function numbers(packed, kind) {
  return new kind(Uint8Array.from(atob(packed), letter => letter.charCodeAt(0)).buffer);
}

function rgb(ink) {
  return [1, 3, 5].map(at => parseInt(ink.slice(at, at + 2), 16));
}

function short(value) {
  return Number.isNaN(value) ? 'none' : String(Number(value.toPrecision(4)));
}

function distance([x0, y0], [x1, y1]) {
  return Math.hypot(x1 - x0, y1 - y0);
}
