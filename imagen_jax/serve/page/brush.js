// The picture to edit, what is drawn on it in colours, and the mask over both.

const LONGEST_SIDE = 1536;
const MASK_COLOUR = "#ff2d78";

export const COLOURS = {
  black: "#000000", grey: "#8a8a8a", white: "#ffffff", brown: "#7b4a21", red: "#e02020", orange: "#f58a1f",
  yellow: "#f9d71c", green: "#2e9e3f", blue: "#1f6fe0", purple: "#7d3fc9", pink: "#f48fb1",
};

export class Brush {
  // `picture`, `drawing` and `mask` are canvases, each above the one before. `settings()` says
  // what a stroke is begun with: { layer: "drawing" or "mask", colour, width, erase }, the width
  // in percent of the shorter side.
  constructor(picture, drawing, mask, settings) {
    Object.assign(this, { picture, drawing, mask, settings, strokes: [], going: null, cursor: null });
    mask.addEventListener("pointerdown", (event) => {
      mask.setPointerCapture(event.pointerId);
      this.going = this.begin(this.place(event), this.settings().erase);
    });
    mask.addEventListener("pointermove", (event) => this.going && this.extend(this.place(event)));
    for (const name of ["pointerup", "pointercancel"])
      mask.addEventListener(name, () => { this.going = null; });
    mask.addEventListener("keydown", (event) => this.key(event));
  }

  // Takes a file, or throws where it is no picture. Large ones are made smaller.
  async load(file) {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const width = Math.max(1, Math.round(bitmap.width * scale));
    const height = Math.max(1, Math.round(bitmap.height * scale));
    this.blank(width, height);
    this.picture.getContext("2d").drawImage(bitmap, 0, 0, width, height);
    bitmap.close();
  }

  // A white picture without strokes.
  blank(width, height) {
    for (const canvas of [this.picture, this.drawing, this.mask]) Object.assign(canvas, { width, height });
    const context = this.picture.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    Object.assign(this, { strokes: [], going: null, cursor: { x: width / 2, y: height / 2 } });
  }

  // Takes the strokes off the layer that is drawn on; the other one keeps its own.
  clear() {
    const { layer } = this.settings();
    this.strokes = this.strokes.filter((stroke) => stroke.layer !== layer);
    this.redraw();
  }

  undo() {
    this.strokes.pop();
    this.redraw();
  }

  redraw() {
    this.going = null;
    for (const canvas of [this.drawing, this.mask])
      canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    for (const stroke of this.strokes) stroke.points.forEach((_, index) => this.line(stroke, index));
  }

  get thickness() {
    return (Math.min(this.mask.width, this.mask.height) * this.settings().width) / 100;
  }

  place(event) {
    const box = this.mask.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.mask.width,
      y: ((event.clientY - box.top) / box.height) * this.mask.height,
    };
  }

  begin(point, erase) {
    const { layer, colour } = this.settings();
    const stroke = { layer, colour, erase, thickness: this.thickness, points: [point] };
    this.strokes.push(stroke);
    this.line(stroke, 0);
    this.cursor = { ...point };
    return stroke;
  }

  extend(point) {
    this.going.points.push(point);
    this.line(this.going, this.going.points.length - 1);
    this.cursor = { ...point };
  }

  // Draws from the point before to the one at `index`; the first is a dot.
  line({ layer, colour, erase, thickness, points }, index) {
    const context = this[layer].getContext("2d");
    const from = points[Math.max(0, index - 1)], to = points[index];
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    const strokeStyle = layer === "mask" ? MASK_COLOUR : colour;
    Object.assign(context, { strokeStyle, lineCap: "round", lineWidth: thickness });
    context.beginPath();
    context.moveTo(from.x, from.y);
    context.lineTo(to.x, to.y);
    context.stroke();
  }

  key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      const within = (value, most) => Math.min(Math.max(value, 0), most);
      this.cursor.x = within(this.cursor.x + (way[0] * this.thickness) / 2, this.mask.width);
      this.cursor.y = within(this.cursor.y + (way[1] * this.thickness) / 2, this.mask.height);
    } else if (event.key === " ") this.begin({ ...this.cursor }, this.settings().erase);
    else if (event.key === "Backspace") this.begin({ ...this.cursor }, true);
    else if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else return;
    event.preventDefault();
  }

  // The picture with what is drawn on it, in base64. Of colours each pixel takes the nearest.
  image(colours = []) {
    const { width, height } = this.picture;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    for (const layer of [this.picture, this.drawing]) context.drawImage(layer, 0, 0);
    if (colours.length) {
      const pixels = context.getImageData(0, 0, width, height);
      snap(pixels.data, colours.map(channels));
      context.putImageData(pixels, 0, 0);
    }
    return base64(canvas);
  }

  // White where the mask was painted and black elsewhere, in base64; null where it was nowhere.
  maskImage() {
    const { width, height } = this.mask;
    const pixels = this.mask.getContext("2d").getImageData(0, 0, width, height);
    let painted = false;
    for (let i = 0; i < pixels.data.length; i += 4) {
      const value = pixels.data[i + 3] > 127 ? 255 : 0;
      painted ||= value > 0;
      pixels.data.fill(value, i, i + 3);
      pixels.data[i + 3] = 255;
    }
    if (!painted) return null;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return base64(canvas);
  }
}

const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

// Gives each pixel the nearest of some colours.
function snap(data, colours) {
  for (let i = 0; i < data.length; i += 4) {
    const distance = (colour) => colour.reduce((sum, value, c) => sum + (value - data[i + c]) ** 2, 0);
    data.set(colours.reduce((best, colour) => (distance(colour) < distance(best) ? colour : best)), i);
  }
}

function base64(canvas) {
  return canvas.toDataURL("image/png").split(",")[1];
}
