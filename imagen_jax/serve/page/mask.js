// The picture to edit and the brush over it.

const LONGEST_SIDE = 1536;
const COLOUR = "#ff2d78";

export class Brush {
  // `picture` and `mask` are canvases of one size, the second above the first.
  constructor(picture, mask, width, eraser) {
    Object.assign(this, { picture, mask, width, eraser, last: null, cursor: null });
    mask.addEventListener("pointerdown", (event) => {
      mask.setPointerCapture(event.pointerId);
      this.last = this.place(event);
      this.stroke(this.last);
    });
    mask.addEventListener("pointermove", (event) => this.last && this.stroke(this.place(event)));
    for (const name of ["pointerup", "pointercancel"])
      mask.addEventListener(name, () => { this.last = null; });
    mask.addEventListener("keydown", (event) => this.key(event));
  }

  // Takes a file, or throws where it is no picture. Large ones are made smaller.
  async load(file) {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const width = Math.max(1, Math.round(bitmap.width * scale));
    const height = Math.max(1, Math.round(bitmap.height * scale));
    for (const canvas of [this.picture, this.mask]) Object.assign(canvas, { width, height });
    const context = this.picture.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0, width, height);
    bitmap.close();
    this.clear();
  }

  clear() {
    this.mask.getContext("2d").clearRect(0, 0, this.mask.width, this.mask.height);
    this.cursor = { x: this.mask.width / 2, y: this.mask.height / 2 };
  }

  get radius() {
    return (Math.min(this.mask.width, this.mask.height) * this.width.value) / 200;
  }

  place(event) {
    const box = this.mask.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.mask.width,
      y: ((event.clientY - box.top) / box.height) * this.mask.height,
    };
  }

  stroke(to, erase = this.eraser.checked) {
    const context = this.mask.getContext("2d");
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    Object.assign(context, { strokeStyle: COLOUR, lineCap: "round", lineWidth: 2 * this.radius });
    context.beginPath();
    context.moveTo(this.last?.x ?? to.x, this.last?.y ?? to.y);
    context.lineTo(to.x, to.y);
    context.stroke();
    if (this.last) this.last = to;
    this.cursor = to;
  }

  key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      const within = (value, most) => Math.min(Math.max(value, 0), most);
      this.cursor.x = within(this.cursor.x + way[0] * this.radius, this.mask.width);
      this.cursor.y = within(this.cursor.y + way[1] * this.radius, this.mask.height);
    } else if (event.key === " ") this.stroke({ ...this.cursor });
    else if (event.key === "Backspace") this.stroke({ ...this.cursor }, true);
    else return;
    event.preventDefault();
  }

  // The picture in base64.
  image() {
    return base64(this.picture);
  }

  // White where the brush was and black elsewhere, in base64; null where it was nowhere.
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

function base64(canvas) {
  return canvas.toDataURL("image/png").split(",")[1];
}
