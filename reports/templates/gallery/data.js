// Data: where chunks come from, how numbers are unpacked, and pure functions over the columnar gallery.

const waiting = new Map();
const chunks = new Map();

/** The one global name: each file of a bundle hands its content over by calling `gazebench.receive`. */
globalThis.gazebench = {
  receive(name, content) {
    waiting.get(name)?.(content);
    waiting.delete(name);
  },
};

/** A part of the data: from the page, or from a file beside it where the page does not hold it. */
function chunk(name) {
  if (!chunks.has(name)) chunks.set(name, loadChunk(name));
  return chunks.get(name);
}

async function loadChunk(name) {
  const element = document.getElementById(`data-${name}`);
  if (element) return JSON.parse(element.textContent);
  const folder = document.getElementById('samples').dataset.folder;
  if (!folder) throw new Error(`This page does not hold the data “${name}”.`);
  // fetch() is forbidden on file://; a script is not.
  return new Promise((resolve, reject) => {
    waiting.set(name, resolve);
    const script = document.createElement('script');
    const fail = () => {
      script.remove();
      reject(new Error(`The file ${folder}${name}.js can’t be read; keep it beside this page.`));
    };
    // After `receive` has resolved the promise, rejecting it does nothing.
    script.addEventListener('load', fail);
    script.addEventListener('error', fail);
    script.src = `${folder}${name}.js`;
    document.head.append(script);
  });
}

function decodeBytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

/** The maps of one caption and method: a view per word, -127 to 127; null where their size is not that of the words. */
function decodeMaps(text, words, grid) {
  const cells = grid ? grid[0] * grid[1] : 0;
  const values = text && cells ? new Int8Array(decodeBytes(text).buffer) : [];
  if (!cells || values.length !== words * cells) return null;
  return Array.from({ length: words }, (_, t) => values.subarray(t * cells, (t + 1) * cells));
}

/** A minus B, -127 to 127, after the positive part of each is scaled to sum 1: both have the same to give. */
function mapDifference(a, b) {
  const sum = (map) => map.reduce((total, value) => total + Math.max(value, 0), 0) || 1;
  const [sumA, sumB] = [sum(a), sum(b)];
  const differences = Float64Array.from(a, (value, i) => Math.max(value, 0) / sumA - Math.max(b[i], 0) / sumB);
  const most = differences.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0) || 1;
  return Int8Array.from(differences, (value) => Math.round((127 * value) / most));
}

/** Where the same words stand in both texts: pairs of positions of a longest common subsequence. */
function commonWords(a, b) {
  // The table has a.length × b.length cells: a stranger's caption of 5,000 words must not stop the page.
  if (a.length * b.length > 250_000) return [];
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      longest[i * width + j] = a[i] === b[j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) pairs.push([i++, j++]);
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
    else j++;
  }
  return pairs;
}

function splitWords(text) {
  return text.split(/\s+/).filter(Boolean);
}

/** Words of `text`, each with whether `other` has it at its place too. */
function wordDiff(text, other) {
  const words = splitWords(text);
  const common = new Set(commonWords(words, splitWords(other)).map(([i]) => i));
  return words.map((word, i) => ({ word, same: common.has(i) }));
}

/** Numbers of one sort, NaN where there is none. `order.by` names the kind, `order.metric` is an index. */
function sortKeys(data, variant, base, order) {
  const name = [order.by, order.metric, variant, base].join();
  data.keys ??= new Map();
  if (!data.keys.has(name)) data.keys.set(name, makeKeys(data, variant, base, order));
  return data.keys.get(name);
}

function makeKeys(data, variant, base, { by, metric }) {
  if (by === 'score') return Float64Array.from(data.scores[variant][metric], (value) => value ?? NaN);
  if (by === 'change' || by === 'difference') {
    if (base === null) return new Float64Array(data.ids.length).fill(NaN);
    const before = sortKeys(data, base, null, { by: 'score', metric });
    const change = sortKeys(data, variant, null, { by: 'score', metric }).map((value, i) => value - before[i]);
    return by === 'change' ? change : change.map(Math.abs);
  }
  if (by === 'length') {
    return Float64Array.from(data.lengths[variant], (n, i) => (data.captions[variant][i] === null ? NaN : n));
  }
  if (by === 'caption') return textRanks(data.captions[variant]);
  if (by === 'id') return textRanks(data.ids);
  const keys = Float64Array.from(data.ids, (_, i) => i);
  if (by === 'random') data.random.forEach((image, place) => { keys[image] = place; });
  return keys;
}

/** Places in alphabetical order: texts are compared once, and then never again. */
function textRanks(texts) {
  const { compare } = new Intl.Collator('en', { numeric: true });
  const different = [...new Set(texts)].filter((text) => text !== null).sort(compare);
  const ranks = new Map(different.map((text, rank) => [text, rank]));
  return Float64Array.from(texts, (text) => ranks.get(text) ?? NaN);
}

/** Image indices by key; those without a key come last in either direction, and equal ones keep their order. */
function sortedImages(keys, down) {
  const images = Array.from(keys, (_, i) => i);
  const known = Int32Array.from(images.filter((i) => !Number.isNaN(keys[i])));
  const sign = down ? -1 : 1;
  known.sort((a, b) => sign * (keys[a] - keys[b]) || a - b);
  return [...known, ...images.filter((i) => Number.isNaN(keys[i]))];
}

/** What is searched, in lower case: all captions, the references and the id. */
function haystack(data, image) {
  data.haystacks ??= [];
  data.haystacks[image] ??= [data.ids[image], ...data.captions.map((c) => c[image] ?? ''), ...data.references[image]]
    .join('\n').toLowerCase();
  return data.haystacks[image];
}

/**
 * A test for what the filters leave. Of two that exclude each other, as changed and same, either will do.
 * @param {{query, only: Set, least, most, variant, base}} filter `least` and `most` words, or null
 * @param {number} metric decides what is better, if it has a direction; -1 where there is none
 */
function imageFilter(data, filter, metric) {
  const { only, least, most, variant, base } = filter;
  const terms = splitWords(filter.query.toLowerCase());
  const [pictures, explained] = [new Set(data.pictures), new Set(data.explained)];
  const unfinished = new Set(data.unfinished[variant]);
  const { captions, lengths } = data;
  const tests = {
    pictures: (i) => pictures.has(i),
    explained: (i) => explained.has(i),
    unknown: (i) => data.unknown[variant] === null || data.unknown[variant][i] > 0,
    unfinished: (i) => unfinished.has(i),
    missing: (i) => captions[variant][i] === null,
  };
  const all = Object.keys(tests).filter((name) => only.has(name)).map((name) => tests[name]);
  if (base !== null) {
    const alike = (i) => captions[variant][i] === captions[base][i];
    const pairs = [['changed', (i) => !alike(i), 'same', alike]];
    const higher = data.metrics[metric]?.higher ?? null;
    if (higher !== null) {
      const changes = sortKeys(data, variant, base, { by: 'change', metric });
      const gain = (i) => (higher ? changes[i] : -changes[i]);
      pairs.push(['better', (i) => gain(i) > 0, 'worse', (i) => gain(i) < 0]);
    }
    for (const [one, isOne, other, isOther] of pairs) {
      if (only.has(one) || only.has(other)) {
        all.push((i) => (only.has(one) && isOne(i)) || (only.has(other) && isOther(i)));
      }
    }
  }
  if (least !== null) all.push((i) => captions[variant][i] !== null && lengths[variant][i] >= least);
  if (most !== null) all.push((i) => captions[variant][i] !== null && lengths[variant][i] <= most);
  if (terms.length) all.push((i) => terms.every((term) => haystack(data, i).includes(term)));
  return (i) => all.every((test) => test(i));
}

/** What is exported of some images: an object each, numbers as numbers, and null where there is none. */
function exportRecords(data, images, variant, base) {
  const scores = (v, i) => Object.fromEntries(data.metrics.map(({ name }, m) => [name, data.scores[v][m][i]]));
  const unfinished = data.unfinished.map((list) => new Set(list));
  const said = (v, i) => ({
    [data.noun]: data.variants[v],
    caption: data.captions[v][i],
    words: data.captions[v][i] === null ? null : data.lengths[v][i],
    'unknown words': data.unknown[v]?.[i] ?? null,
    finished: data.captions[v][i] === null ? null : !unfinished[v].has(i),
    scores: scores(v, i),
  });
  return images.map((i) => ({
    image_id: data.ids[i],
    ...said(variant, i),
    ...(base === null ? {} : { base: said(base, i) }),
    references: data.references[i],
  }));
}

/** The records as CSV: scores and the base's fields get columns of their own. */
function toCsv(records) {
  const flat = (record, prefix = '') => Object.entries(record).flatMap(([key, value]) => {
    if (Array.isArray(value)) return [[prefix + key, value.join(' | ')]];
    if (value && typeof value === 'object') return flat(value, key === 'scores' ? prefix : `${prefix}${key} `);
    return [[prefix + key, value]];
  });
  const rows = records.map((record) => flat(record));
  const head = rows.length ? rows[0].map(([key]) => csvCell(key)) : [];
  const lines = rows.map((row) => row.map(([, value]) => csvCell(value)));
  return [head, ...lines].map((cells) => `${cells.join(',')}\r\n`).join('');
}

/** Text that a spreadsheet would take for a formula gets an apostrophe; numbers are left alone. */
function csvCell(value) {
  if (typeof value !== 'string') return value === null ? '' : String(value);
  const text = /^[=+\-@\t\r\n]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Numbers as the rest of the report writes them. */
function formatNumber(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  const places = Math.abs(value) < 10 ? digits : 1;
  return value.toLocaleString('en', { minimumFractionDigits: places, maximumFractionDigits: places })
    .replace('-', '−');
}

function formatChange(value, digits) {
  if (value === 0) return '±0';
  const text = formatNumber(value, digits);
  return /^[−–]/.test(text) ? text : `+${text}`;
}

function formatPercent(value) {
  const some = (value > 0 && value < 0.01) || (value > 0.99 && value < 1);
  return `${some ? Math.min(Math.max(100 * value, 0.1), 99.9).toFixed(1) : (100 * value).toFixed(0)}\u00a0%`;
}

function direction(higher) {
  return { true: '↑ higher is better', false: '↓ lower is better' }[higher] ?? 'describes only';
}

/** Text cut where it is longer than anyone reads. */
function clip(text, most = 400) {
  return text.length <= most ? text : `${text.slice(0, most)} … (${text.length.toLocaleString('en')} characters)`;
}
