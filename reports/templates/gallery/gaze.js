// The viewer: one image, its caption word by word, and where the evidence for the word lies.

const PREFERRED_B = 'grid_integrated_gradients';

/** Draws a map into a canvas with one pixel per cell; the browser scales it to the picture's size. */
function drawMap(canvas, values, [rows, columns], palette) {
  canvas.width = columns;
  canvas.height = rows;
  const drawing = new ImageData(columns, rows);
  values.forEach((value, cell) => {
    const colour = (value + 127) * 4;
    drawing.data.set(palette.subarray(colour, colour + 4), 4 * cell);
  });
  canvas.getContext('2d').putImageData(drawing, 0, 0);
}

function createViewer(root, data, state, actions) {
  const viewer = root.querySelector('.viewer');
  const one = (name) => viewer.querySelector(name);
  const spoken = one('.spoken');
  const [selectA, selectB] = ['method', 'with'].map((name) => one(`select[name="${name}"]`));
  const words = () => [...spoken.children];
  const labels = new Map(data.methods.map(({ name, label }) => [name, label]));
  let palette = null;
  let sample = null;
  let own = null;
  let choices = [];
  let lastB = null;
  let opening = 0;

  const modal = viewer.tagName === 'DIALOG';
  const isOpen = () => !modal || viewer.open;

  /** What is known of the caption of one variant; without a stored sample its words are those of the text. */
  function telling(variant) {
    const stored = sample?.[variant];
    if (stored) return stored;
    const caption = data.captions[variant][state.image];
    const said = caption === null ? [] : splitWords(caption).slice(0, 40);
    return { words: said, classes: null, probabilities: [], alternatives: [], grid: null, maps: {}, measures: {} };
  }

  const mapped = (variant) => data.methods.filter(({ name }) => Object.hasOwn(telling(variant).maps, name));
  const methodA = () => choices.find(({ name }) => name === state.method) ?? choices[0] ?? null;

  /** What map B shows, or null: a method, of this variant or of another. */
  function sideB() {
    if (state.with === null) return null;
    const variant = state.of ?? state.variant;
    return mapped(variant).some(({ name }) => name === state.with) ? { name: state.with, variant } : null;
  }

  /** The map of a word of the shown caption; of another variant's caption, that of the same word. */
  function mapOf(side) {
    const said = telling(side.variant);
    let place = state.word;
    if (side.variant !== state.variant) {
      place = commonWords(own.words, said.words).find(([ours]) => ours === state.word)?.[1];
    }
    const maps = decodeMaps(said.maps[side.name], said.words.length, said.grid);
    return { place, grid: said.grid, values: place === undefined ? null : maps?.[place] ?? null };
  }

  /** A method's label; with the variant too where two are looked at. */
  const nameOf = (side, other) => {
    const both = other && other.variant !== side.variant;
    return labels.get(side.name) + (both ? `, ${data.variants[side.variant]}` : '');
  };

  /** Shows the image of the state, from its start. */
  async function show({ focus = false } = {}) {
    const turn = ++opening;
    const { image } = state;
    let found = null;
    if (data.hasSample.has(image)) {
      try {
        found = await chunk(`sample-${image}`);
      } catch (error) {
        actions.trouble(error);
      }
      if (data.folder === null && data.hasPicture.has(image)) data.pictureChunk ??= await chunk('pictures');
    }
    // While this image's data came, the reader may have walked on.
    if (turn !== opening || state.image !== image) return;
    sample = found;
    const hadFocus = spoken.contains(document.activeElement);
    fillBar();
    fillCaption();
    fillAbout();
    update();
    if (modal && !viewer.open) viewer.showModal();
    if (modal) viewer.scrollTop = 0;
    if (focus || hadFocus) words()[state.word]?.focus({ preventScroll: true });
  }

  function fillBar() {
    const images = actions.images();
    const place = images.indexOf(state.image);
    one('.image-id').textContent = clip(data.ids[state.image], 100);
    one('.place').textContent = place < 0 ? 'not among those that the filter leaves'
      : `${(place + 1).toLocaleString('en')} of ${images.length.toLocaleString('en')}`;
    for (const step of ['previous', 'next']) {
      const button = one(`[data-do="${step}"]`);
      button.hidden = images.length < 2 && place >= 0;
      // A disabled button would lose the focus at the end of the walk.
      button.setAttribute('aria-disabled', String(!actions.neighbour(step === 'next' ? 1 : -1, true)));
    }
  }

  function fillCaption() {
    own = telling(state.variant);
    choices = mapped(state.variant);
    state.word = Math.max(0, Math.min(state.word, own.words.length - 1));
    spoken.replaceChildren(...own.words.map((word, t) => {
      const button = element('button', clip(word, 40));
      button.type = 'button';
      button.dir = 'auto';
      const probability = own.probabilities[t];
      if (typeof probability === 'number') button.append(element('small', formatPercent(probability)));
      return button;
    }));
    const caption = data.captions[state.variant][state.image];
    const cut = caption === null ? 0 : data.lengths[state.variant][state.image] - own.words.length;
    one('.nothing').hidden = caption !== null && own.words.length > 0 && cut <= 0;
    one('.nothing').textContent = caption === null ? 'This image has no caption.'
      : own.words.length ? `… and ${cut.toLocaleString('en')} more words.` : 'The caption is empty.';
    fillMethods();
  }

  function fillMethods() {
    const named = ({ label, struck }) => clip(label, 60) + (struck ? ' (struck out)' : '');
    selectA.replaceChildren();
    for (const method of choices) option(method.name, named(method), selectA);
    const nothing = selectB.options[0];
    selectB.replaceChildren(nothing);
    data.variants.forEach((variantName, variant) => {
      const methods = choices.length ? mapped(variant) : [];
      if (!methods.length) return;
      const group = document.createElement('optgroup');
      group.label = variant === state.variant ? 'Of this caption' : `Of ${clip(variantName, 40)}`;
      for (const method of methods) option(`${variant} ${method.name}`, named(method), group);
      selectB.append(group);
    });
    viewer.classList.toggle('without-maps', !choices.length);
  }

  /** Draws all that depends on the word and the methods. */
  function update() {
    const method = methodA();
    const a = method && { name: method.name, variant: state.variant };
    const b = a && sideB();
    selectA.value = a?.name ?? '';
    selectB.value = b ? `${b.variant} ${b.name}` : '';
    words().forEach((button, t) => {
      button.tabIndex = t === state.word ? 0 : -1;
      if (t === state.word) button.setAttribute('aria-current', 'true');
      else button.removeAttribute('aria-current');
    });
    fillRemarks([a, b]);
    fillFrames(a, b);
    fillWord(a, b);
    fillTiles(a);
  }

  function fillRemarks(sides) {
    const remarks = sides.flatMap((side, i) => {
      const { note = null, struck = null } = data.methods.find(({ name }) => name === side?.name) ?? {};
      const name = `Map ${'AB'[i]}, ${labels.get(side?.name)}`;
      return [struck && `${name}, is struck out: ${struck}`, note && `${name}: ${note}`].filter(Boolean);
    });
    one('.remarks').replaceChildren(...remarks.map((text) => element('p', `${clip(text)}.`)));
  }

  function fillFrames(a, b) {
    const source = pictureSource(data, state.image);
    const [mapA, mapB] = [a, b].map((side) => side && mapOf(side));
    const alike = mapA?.values && mapB?.values && String(mapA.grid) === String(mapB.grid);
    fillFrame('a', source, mapA, a && (b ? `A: ${nameOf(a, b)}` : nameOf(a)));
    fillFrame('b', source, mapB, b && `B: ${nameOf(b, a)}`);
    const difference = alike && { grid: mapA.grid, values: mapDifference(mapA.values, mapB.values) };
    fillFrame('difference', source, b && { values: null, ...difference }, 'A − B');
    one('.frames').classList.toggle('several', Boolean(b));
    one('.legend').hidden = !a;
    one('.legend span').textContent = b
      ? 'In A and B bright: strong, teal: speaks against the word. In A − B warm: more in A, teal: more in B.'
      : 'bright: strong, teal: speaks against the word';
    one('.resolution').hidden = !a || !data.resolution;
    one('.resolution').textContent = clip(data.resolution ?? '');
    fillLacking(source, a);
  }

  function fillFrame(side, source, map, label) {
    const figure = one(`[data-side="${side}"]`);
    const [frame, canvas] = ['.frame', 'canvas'].map((name) => figure.querySelector(name));
    figure.hidden = !map && (side !== 'a' || !source);
    if (figure.hidden) return;
    showPictureIn(frame, source, `Picture of ${clip(data.ids[state.image], 60)}`);
    frame.classList.toggle('bare', !source);
    frame.classList.toggle('mapped', Boolean(map?.values));
    canvas.hidden = !map?.values;
    if (map?.values) {
      palette ??= decodeBytes(data.colours);
      drawMap(canvas, map.values, map.grid, palette);
      canvas.setAttribute('aria-label', `${label}, for “${clip(own.words[state.word] ?? '', 40)}”`);
      if (!source) frame.style.aspectRatio = `${map.grid[1]} / ${map.grid[0]}`;
    }
    const missing = side === 'difference' ? ' (nothing to compare)' : ' (no map of this word)';
    const told = map?.values ? peakOf(map.values, side) : map ? missing : '';
    figure.querySelector('figcaption').textContent = (label ?? '') + told;
  }

  /** Each map is drawn to its own scale, so that one which is nearly even is bright too: this tells them apart. */
  function peakOf(values, side) {
    const positive = values.filter((value) => value > 0);
    if (side === 'difference' || !positive.length) return '';
    const share = Math.max(...positive) / positive.reduce((sum, value) => sum + value, 0);
    return `. Its strongest cell holds ${formatPercent(share)} of it; if even, each would hold ${formatPercent(1 / values.length)}.`;
  }

  function showPictureIn(frame, source, alt) {
    let picture = frame.querySelector('img');
    if (!source) {
      picture?.remove();
      return;
    }
    if (!picture) {
      picture = document.createElement('img');
      frame.prepend(picture);
      frame.style.aspectRatio = '';
    }
    if (picture.getAttribute('src') !== source) picture.src = source;
    picture.alt = alt;
  }

  /** Says in words what this image does not have, and what would bring it. */
  function fillLacking(source, a) {
    const others = data.variants.map((_, variant) => variant).filter((variant) => mapped(variant).length);
    const button = one('[data-do="mapped"]');
    const reasons = [];
    if (!source) reasons.push('This page holds no picture of this image.');
    if (!a) {
      reasons.push(`This page holds no map of this ${others.length ? 'caption' : 'image'}.`);
    }
    one('.lacking').hidden = !reasons.length;
    one('.lacking span').textContent = reasons.join(' ');
    button.hidden = Boolean(a) || !others.length;
    button.textContent = `Show ${data.variants[others[0]] ?? ''}, which has maps`;
    button.value = others[0] ?? '';
    one('.more').hidden = !data.more || (Boolean(source) && data.hasSample.has(state.image));
    one('.more code').textContent = data.more ?? '';
  }

  function fillWord(a, b) {
    const t = state.word;
    one('.word').hidden = !own.words.length;
    one('.word-now bdi').textContent = clip(own.words[t] ?? '', 60);
    const probability = own.probabilities[t];
    one('.word-now span').textContent = [
      own.classes?.[t] ?? '', typeof probability === 'number' ? `probability ${formatPercent(probability)}` : '',
    ].filter(Boolean).join(' · ');
    const sides = [[a, b], [b, a]].map(([side, other]) => side && {
      values: telling(side.variant).measures?.[side.name] ?? {}, place: mapOf(side).place, name: nameOf(side, other),
    });
    const table = one('.measures');
    const rows = data.measures.filter(({ name }) => sides.some((side) => side && Object.hasOwn(side.values, name)));
    const valued = sides.map((side) => rows.map(({ name }) => side?.values[name]?.[side.place] ?? null));
    table.hidden = !rows.length;
    one('.unmeasured').hidden = !rows.length || valued.flat().some((value) => value !== null);
    [...table.querySelectorAll('thead th')].slice(1).forEach((cell, i) => {
      cell.hidden = !sides[i];
      cell.replaceChildren('AB'[i], element('small', clip(sides[i]?.name ?? '', 60)));
    });
    table.tBodies[0].replaceChildren(...rows.map(({ label, range, higher }, i) => {
      const row = element('tr');
      row.append(element('th', label));
      row.firstChild.scope = 'row';
      row.firstChild.append(element('small', `${range}, ${direction(higher)}`));
      sides.forEach((side, which) => { if (side) row.append(element('td', formatNumber(valued[which][i]))); });
      return row;
    }));
  }

  /** One small map per word; they change with the method, and else only the mark moves. */
  function fillTiles(a) {
    const list = one('.all-words ol');
    const source = pictureSource(data, state.image);
    const maps = a && decodeMaps(own.maps[a.name], own.words.length, own.grid);
    one('.all-words').hidden = !maps;
    one('.all-words h4 span').textContent = a ? nameOf(a) : '';
    const key = [state.image, state.variant, a?.name].join(' ');
    if (list.dataset.key !== key) {
      list.dataset.key = key;
      list.replaceChildren(...(maps ?? []).map((values, t) => {
        const tile = stamp(viewer, 'tile', 'li');
        showPictureIn(tile.querySelector('.tile-map'), source, '');
        if (!source) tile.querySelector('.tile-map').style.aspectRatio = `${own.grid[1]} / ${own.grid[0]}`;
        drawMap(tile.querySelector('canvas'), values, own.grid, palette);
        tile.querySelector('bdi').textContent = clip(own.words[t], 24);
        return tile;
      }));
    }
    [...list.children].forEach((tile, t) => {
      if (t === state.word) tile.firstChild.setAttribute('aria-current', 'true');
      else tile.firstChild.removeAttribute('aria-current');
    });
  }

  function fillAbout() {
    const { image, variant } = state;
    const shown = data.captions[variant][image];
    one('.versions').hidden = data.variants.length < 2 && one('.nothing').hidden;
    one('.versions ul').replaceChildren(...data.variants.map((name, other) => {
      const line = stamp(viewer, 'version', 'li');
      const [button, text] = [line.querySelector('button'), line.querySelector('p')];
      const caption = data.captions[other][image];
      button.textContent = clip(name, 60);
      button.value = other;
      button.setAttribute('aria-pressed', String(other === variant));
      line.querySelector('.note').textContent = other === variant ? 'shown'
        : caption !== null && caption === shown ? 'the same' : '';
      if (caption === null) text.append(element('em', 'no caption'));
      else showDiff(text, caption, other === variant ? null : shown ?? '', 'ins');
      return line;
    }));
    one('.alternatives').hidden = !own.alternatives.length;
    one('.alternatives ol').replaceChildren(...own.alternatives.map(({ caption, log_prob: nats, finished }) => {
      const line = element('li');
      const end = finished ? '' : ', unfinished';
      line.append(element('span'), element('small', `log-probability ${formatNumber(nats, 2)} nats${end}`));
      line.firstChild.dir = 'auto';
      showDiff(line.firstChild, caption, shown ?? '', 'ins');
      return line;
    }));
    const references = data.references[image];
    one('.references').hidden = !references.length;
    one('.references ul').replaceChildren(...references.map((text) => {
      const line = element('li', clip(text));
      line.dir = 'auto';
      return line;
    }));
    fillScores();
  }

  function fillScores() {
    const table = one('.metrics table');
    one('.metrics').hidden = !data.metrics.length;
    [...table.tHead.rows[0].cells].slice(1).forEach((cell) => cell.remove());
    for (const name of data.variants) {
      const cell = element('th', clip(name, 40));
      cell.scope = 'col';
      table.tHead.rows[0].append(cell);
    }
    table.tBodies[0].replaceChildren(...data.metrics.map(({ name, range, higher, digits }, metric) => {
      const row = element('tr');
      row.append(element('th', name));
      row.firstChild.scope = 'row';
      row.firstChild.append(element('small', `${range}, ${direction(higher)}`));
      for (const scores of data.scores) row.append(element('td', formatNumber(scores[metric][state.image], digits)));
      return row;
    }));
  }

  function setWord(word, focus = false) {
    const place = Math.max(0, Math.min(word, own.words.length - 1));
    if (place !== state.word) {
      state.word = place;
      update();
      actions.remember();
    }
    if (focus) words()[place]?.focus({ preventScroll: true });
  }

  function setMethods(changes) {
    Object.assign(state, changes);
    if (state.with !== null) lastB = { with: state.with, of: state.of };
    update();
    actions.remember();
  }

  function cycleA() {
    if (choices.length) setMethods({ method: choices[(choices.indexOf(methodA()) + 1) % choices.length].name });
  }

  function toggleB() {
    if (sideB()) {
      setMethods({ with: null, of: null });
      return;
    }
    const others = choices.filter((method) => method !== methodA() && !method.struck);
    const first = others.find(({ name }) => name === PREFERRED_B) ?? others[0];
    const again = lastB && mapped(lastB.of ?? state.variant).some(({ name }) => name === lastB.with);
    if (again) setMethods(lastB);
    else if (first) setMethods({ with: first.name, of: null });
  }

  function listen() {
    // Only a pointer that moves moves the gaze: not one that rests where the next image's words appear.
    for (const place of [spoken, one('.all-words ol')]) {
      for (const kind of ['pointermove', 'focusin', 'click']) {
        place.addEventListener(kind, (event) => {
          const button = event.target.closest('button');
          if (button) setWord([...place.querySelectorAll('button')].indexOf(button));
        });
      }
    }
    selectA.addEventListener('change', () => setMethods({ method: selectA.value }));
    selectB.addEventListener('change', () => {
      const [variant, ...name] = selectB.value.split(' ');
      const of = Number(variant) === state.variant ? null : Number(variant);
      setMethods(selectB.value ? { with: name.join(' '), of } : { with: null, of: null });
    });
    const slide = () => viewer.style.setProperty('--opacity', one('[name="opacity"]').value / 100);
    const smooth = () => viewer.classList.toggle('smooth', one('[name="smooth"]').checked);
    one('[name="opacity"]').addEventListener('input', slide);
    one('[name="smooth"]').addEventListener('change', smooth);
    // A reload may restore what was set.
    slide();
    smooth();
    for (const [name, by] of [['previous', -1], ['next', 1]]) {
      one(`[data-do="${name}"]`).addEventListener('click', () => actions.neighbour(by));
    }
    for (const place of [one('[data-do="mapped"]'), one('.versions ul')]) {
      place.addEventListener('click', (event) => {
        const button = event.target.closest('button');
        if (button) actions.change({ variant: Number(button.value) });
      });
    }
    if (modal) {
      viewer.addEventListener('close', actions.closed);
      one('[data-do="close"]').addEventListener('click', () => viewer.close());
      viewer.addEventListener('click', (event) => { if (event.target === viewer) viewer.close(); });
    }
  }

  function drawLegend() {
    palette ??= decodeBytes(data.colours);
    drawMap(one('.legend canvas'), Int8Array.from({ length: 255 }, (_, i) => i - 127), [1, 255], palette);
  }

  listen();
  drawLegend();
  return { show, update, setWord, cycleA, toggleB, isOpen, modal, words, close: () => viewer.close() };
}
