// The page: a network, a picture that is dropped or chosen, boxes drawn on it.
import * as ort from "./runtime/ort.wasm.min.mjs";
import { detections, inputSize, readMetadata, warp } from "./detect.js";

const COLORS = ["#009e73", "#56b4e9", "#e69f00", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"]; // Okabe and Ito
const element = (id) => document.getElementById(id);
const color = (label) => COLORS[label % COLORS.length];
const luminance = (hex) => {
  const shares = [1, 3, 5].map((at) => (parseInt(hex.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.21 * shares[0] + 0.72 * shares[1] + 0.07 * shares[2];
};

let network = null; // {session, about, isBytes}
let picture = null; // {bitmap, outputs}
let work = Promise.resolve(); // one thing after another: a session runs one picture at a time

ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1; // threads need isolation

async function loadNetwork(bytes, name) {
  const about = readMetadata(bytes);
  const session = await ort.InferenceSession.create(bytes);
  const { dtype, shape } = about.input; // null where any number goes
  network = { session, about, batch: shape[0] ?? 1, isBytes: dtype === "uint8" };
  const size = about.transform.mode === "keep" ? "the picture's own size" : about.resolution.join(" × ");
  element("threshold").value = about.threshold;
  element("shown").textContent = about.threshold.toFixed(2);
  element("model").textContent = `${name}: ${about.task}, ${size}; ${about.class_names.join(", ")}`;
}

async function detect(blob) {
  const bitmap = await createImageBitmap(blob);
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const started = performance.now();
  const { session, about, batch, isBytes } = network;
  const pixels = warp(context.getImageData(0, 0, width, height).data, height, width, about);
  const repeated = new (isBytes ? Uint8Array : Float32Array)(batch * pixels.length); // a file may want several
  for (let n = 0; n < batch; n++) repeated.set(pixels, n * pixels.length);
  const dims = [batch, 3, ...inputSize(about, height, width)];
  const images = new ort.Tensor(isBytes ? "uint8" : "float32", repeated, dims);
  const warped = performance.now();
  const outputs = await session.run({ [session.inputNames[0]]: images });
  const done = performance.now();
  picture = { bitmap, outputs };
  element("times").textContent = `warp ${(warped - started).toFixed(0)} ms, network ${(done - warped).toFixed(0)} ms`;
  show();
}

function show() {
  if (!picture) return;
  const { bitmap, outputs } = picture;
  const found = detections(outputs, network.about, bitmap.height, bitmap.width, Number(element("threshold").value));
  const canvas = document.createElement("canvas");
  const grow = Math.max(1, Math.min(4, 512 / Math.max(bitmap.width, bitmap.height))); // small pictures are enlarged
  [canvas.width, canvas.height] = [bitmap.width * grow, bitmap.height * grow];
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const unit = Math.max(canvas.width, canvas.height) / 512;
  context.lineWidth = 2 * unit;
  context.font = `${13 * unit}px system-ui, sans-serif`;
  context.textBaseline = "bottom";
  const onCanvas = (value) => (value + 0.5) * grow; // the canvas counts from the pixel's corner
  for (const { box, label, points } of [...found].reverse()) {
    const [x1, y1, x2, y2] = box.map(onCanvas);
    context.strokeStyle = context.fillStyle = color(label);
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    for (const [x, y] of points) context.fillRect(onCanvas(x) - 2 * unit, onCanvas(y) - 2 * unit, 4 * unit, 4 * unit);
  }
  const taken = []; // plates of text, the surest first: later ones go where they cover no other
  for (const { box, score, label, name } of found) {
    const text = `${name} ${score.toFixed(2)}`;
    const [wide, high] = [context.measureText(text).width + 6 * unit, 17 * unit];
    const left = Math.max(0, Math.min(onCanvas(box[0]), canvas.width - wide)); // inside the picture
    const places = [onCanvas(box[1]) - high, onCanvas(box[3]), onCanvas(box[1]) - 2 * high, onCanvas(box[1])];
    const isFree = (top) =>
      top >= 0 &&
      top + high <= canvas.height &&
      !taken.some((other) => Math.abs(other.top - top) < high && left < other.right && other.left < left + wide);
    const top = places.find(isFree);
    if (top === undefined) continue; // the list below has it
    taken.push({ left, right: left + wide, top });
    context.fillStyle = color(label);
    context.fillRect(left, top, wide, high);
    context.fillStyle = luminance(color(label)) > 0.3 ? "#000" : "#fff";
    context.fillText(text, left + 3 * unit, top + high - unit);
  }
  element("drop").replaceChildren(canvas);
  element("drop").classList.add("filled");
  const head = document.createElement("tr");
  for (const title of ["class", "score", "x1", "y1", "x2", "y2"]) {
    head.append(Object.assign(document.createElement("th"), { textContent: title }));
  }
  element("list").replaceChildren(head, ...found.map(line));
  document.body.dataset.state = "done"; // for those who watch from outside
}

function line({ box, score, label, name }) {
  const row = document.createElement("tr");
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.background = color(label);
  row.insertCell().append(swatch, name);
  for (const value of [score.toFixed(3), ...box.map((side) => side.toFixed(1))]) row.insertCell().textContent = value;
  return row;
}

// Errors are told on the page, and the next file is taken all the same.
function take(file) {
  work = work
    .then(async () => {
      element("error").textContent = "";
      if (file.name.endsWith(".onnx")) {
        await loadNetwork(new Uint8Array(await file.arrayBuffer()), file.name);
        if (picture) await detect(await (await canvasOf(picture.bitmap)).convertToBlob());
      } else if (network) await detect(file);
      else throw new Error("There is no network yet; drop an .onnx file.");
    })
    .catch((error) => {
      element("error").textContent = error.message;
      document.body.dataset.state = "failed";
    });
}

async function canvasOf(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas;
}

// index.html?model=FILE&image=FILE loads these; without, model.onnx beside the page if it is there.
async function open() {
  const asked = new URLSearchParams(location.search);
  const model = asked.get("model") ?? "model.onnx";
  const answer = await fetch(model);
  if (!answer.ok) {
    element("model").textContent = `There is no ${model} beside this page; drop an .onnx file.`;
    return;
  }
  take(new File([await answer.blob()], model.split("/").pop()));
  if (asked.has("image")) take(new File([await (await fetch(asked.get("image"))).blob()], asked.get("image")));
}

const drop = element("drop");
drop.addEventListener("click", () => element("file").click());
drop.addEventListener("keydown", (event) => event.key === "Enter" && element("file").click());
element("file").addEventListener("change", (event) => [...event.target.files].forEach(take));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // else the browser opens the file
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") [...event.dataTransfer.files].forEach(take);
  });
}
element("threshold").addEventListener("input", (event) => {
  element("shown").textContent = Number(event.target.value).toFixed(2);
  show();
});
open();
