// From the bytes of an exported file and the pixels of a picture to detections. Knows neither the page nor the runtime,
// so that it also runs in Node (tests/export/test_web.py).

const METADATA_PROPS = 14; // of ModelProto in onnx.proto: entries with a key (1) and a value (2)
const PREFIX = "centernet_"; // of the keys that this project writes; their values are JSON
const LENGTH_DELIMITED = 2; // wire type of strings and messages in protocol buffers

// The fields of one protocol buffer message: [number, Uint8Array] of those that have bytes, the others are skipped.
function* messageFields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * shift;
      if (byte < 128 || at > bytes.length) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const wire = tag % 8;
    if (wire === LENGTH_DELIMITED) {
      const length = varint();
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else if (wire === 0) varint();
    else if (wire === 1) at += 8;
    else if (wire === 5) at += 4;
    else return; // not a protocol buffer
  }
}

// What an ONNX file says of itself (classes, task, how a picture becomes its input); onnxruntime-web does not tell.
export function readMetadata(bytes) {
  const decoder = new TextDecoder();
  const about = {};
  for (const [number, entry] of messageFields(bytes)) {
    if (number !== METADATA_PROPS) continue;
    const pair = Object.fromEntries([...messageFields(entry)].map(([n, text]) => [n, decoder.decode(text)]));
    if (pair[1]?.startsWith(PREFIX)) about[pair[1].slice(PREFIX.length)] = JSON.parse(pair[2]);
  }
  if (about.task) return about;
  throw new Error("This is no file of this project; make one with scripts/export.py --format onnx.");
}

// Height and width of the input for a picture. Mode keep: its own size, padded to the next multiple of the divisor.
export function inputSize(about, height, width) {
  const { mode, divisor } = about.transform;
  if (mode !== "keep") return about.resolution;
  return [height, width].map((side) => (Math.floor(side / divisor) + 1) * divisor);
}

// Scales and shifts that take pixels of the picture to pixels of the input: {sx, sy, tx, ty}. As in all of this
// project, the center of the first pixel is at (0, 0).
export function inputFromImage(about, height, width) {
  const { mode } = about.transform;
  const [rows, columns] = inputSize(about, height, width);
  if (mode === "stretch") return { sx: columns / width, sy: rows / height, tx: 0, ty: 0 };
  let scale = Math.min(columns / width, rows / height);
  let [x, y] = [width / 2, height / 2];
  if (mode === "width") scale = columns / width;
  if (mode === "keep") [scale, x, y] = [1, Math.floor(x), Math.floor(y)];
  return { sx: scale, sy: scale, tx: columns / 2 - scale * x, ty: rows / 2 - scale * y };
}

// For every pixel of one axis of the input: the pixel of the picture before it and the share of the one behind.
function axis(count, scale, shift) {
  const first = new Int32Array(count);
  const share = new Float32Array(count);
  for (let n = 0; n < count; n++) {
    const place = (n - shift) / scale;
    first[n] = Math.floor(place);
    share[n] = place - first[n];
  }
  return { first, share };
}

// The input: uint8 [3, rows, columns] RGB from RGBA [height, width, 4], bilinear, black around the picture. The browser's
// own scaling of pictures would smooth them, which the network has not seen in training.
export function warp(rgba, height, width, about) {
  const [rows, columns] = inputSize(about, height, width);
  const { sx, sy, tx, ty } = inputFromImage(about, height, width);
  const across = axis(columns, sx, tx);
  const down = axis(rows, sy, ty);
  const out = new Uint8Array(3 * rows * columns);
  const at = (y, x, channel) => (x >= 0 && x < width && y >= 0 && y < height ? rgba[4 * (y * width + x) + channel] : 0);
  for (let row = 0; row < rows; row++) {
    const y = down.first[row];
    if (y < -1 || y >= height) continue;
    const v = down.share[row];
    for (let column = 0; column < columns; column++) {
      const x = across.first[column];
      if (x < -1 || x >= width) continue;
      const u = across.share[column];
      for (let channel = 0; channel < 3; channel++) {
        const above = at(y, x, channel) * (1 - u) + at(y, x + 1, channel) * u;
        const below = at(y + 1, x, channel) * (1 - u) + at(y + 1, x + 1, channel) * u;
        out[(channel * rows + row) * columns + column] = Math.round(above * (1 - v) + below * v);
      }
    }
  }
  return out;
}

// Detections above a threshold in pixels of the picture, by decreasing score: {box, score, label, name, points}. `found`
// has the outputs as {name: {data, dims}}; points are joints or extreme points, where the task has them.
export function detections(found, about, height, width, threshold) {
  const { sx, sy, tx, ty } = inputFromImage(about, height, width);
  const positions = (name, n) => {
    const { data, dims } = found[name];
    const size = dims.slice(2).reduce((a, b) => a * b, 1);
    const step = dims.length > 3 ? dims[3] : 2; // joints may have a third number
    const points = [];
    for (let k = n * size; k < (n + 1) * size; k += step) points.push([(data[k] - tx) / sx, (data[k + 1] - ty) / sy]);
    return points;
  };
  const results = [];
  for (let n = 0; n < found.scores.dims[1]; n++) {
    const score = found.scores.data[n];
    if (score < threshold) continue;
    const label = Number(found.labels.data[n]); // int64 arrives as BigInt
    const points = ["joints", "extreme_points"].filter((name) => name in found).flatMap((name) => positions(name, n));
    results.push({ box: positions("boxes", n).flat(), score, label, name: about.class_names[label], points });
  }
  return results.sort((a, b) => b.score - a.score);
}
