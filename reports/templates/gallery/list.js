// The list: controls, and a table that holds only the rows that can be seen.

/** Height of a row in rem; with a base the base's caption needs room too. All rows are alike, so places are sums. */
const ROW_REM = { plain: 4.25, compared: 5.75 };
const ROWS_BEYOND = 6;
const ROWS_PRINTED = 100;

/** A copy of what a <template> of the page holds; `inner` names an element in it. */
function stamp(root, name, inner) {
  return root.querySelector(`[data-template="${name}"]`).content.querySelector(inner).cloneNode(true);
}

function element(kind, text = '', className = '') {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = className;
  return made;
}

function option(value, label, parent) {
  const made = element('option', clip(label, 80));
  made.value = value;
  parent.append(made);
  return made;
}

/** Words that differ are <ins> or <del>: underlined or struck through, so that colour is not needed. */
function showDiff(target, text, other, mark) {
  target.replaceChildren();
  if (other === null) {
    target.textContent = clip(text);
    return;
  }
  for (const { word, same } of wordDiff(clip(text), clip(other))) {
    target.append(same ? word : element(mark, word), ' ');
  }
}

/** Where the picture of an image is, or null. A page's own data is not trusted to name any other place. */
function pictureSource(data, image) {
  if (data.folder !== null) return data.hasPicture.has(image) ? `${data.folder}${Number(image)}.jpg` : null;
  const source = data.pictureChunk?.[image];
  return typeof source === 'string' && source.startsWith('data:image/jpeg;base64,') ? source : null;
}

/** The ways to sort, by their name in the address: "CIDEr" its value, "change CIDEr" its change, and so on. */
function sortOrders(data) {
  const orders = new Map(['caption', 'length', 'id', 'random', 'index'].map((by) => [by, { by, metric: -1 }]));
  data.metrics.forEach(({ name }, metric) => {
    orders.set(`difference ${name}`, { by: 'difference', metric });
    orders.set(`change ${name}`, { by: 'change', metric });
    orders.set(name, { by: 'score', metric });
  });
  return orders;
}

function createList(root, data, state, actions) {
  const [scroller, table] = ['.rows', '.rows table'].map((name) => root.querySelector(name));
  const [head, body] = ['thead tr', 'tbody'].map((name) => table.querySelector(name));
  const control = (name) => root.querySelector(`.controls [name="${name}"], .filters [name="${name}"]`);
  const filters = [...root.querySelectorAll('.filters input[type="checkbox"]')];
  const orders = sortOrders(data);
  const spacers = [0, 1].map(() => element('tr'));
  const shown = new Map();
  let images = [];
  let printing = false;
  let drawn = '';

  /** The metric that decides what is better: the one sorted by, else that of the start. */
  function judge() {
    const { metric } = orders.get(state.sort);
    if (metric >= 0) return metric;
    return Math.max(data.metrics.findIndex(({ name }) => name === data.sort), data.metrics.length ? 0 : -1);
  }

  function fillControls() {
    root.querySelector('.noun').textContent = data.noun.charAt(0).toUpperCase() + data.noun.slice(1);
    data.variants.forEach((name, variant) => {
      option(variant, name, control('variant'));
      option(variant, name, control('base'));
    });
    control('variant').closest('label').hidden = data.variants.length < 2;
    control('base').closest('label').hidden = data.variants.length < 2;
    control('pictures').closest('label').hidden = !data.pictures.length;
    control('explained').closest('label').hidden = !data.explained.length;
    spacers.forEach((spacer) => {
      spacer.setAttribute('aria-hidden', 'true');
      spacer.append(element('td'));
    });
  }

  /** Names what the first and last rows of a sort are: "worst first" where one end is worse. */
  function fillSort() {
    const select = control('sort');
    select.replaceChildren();
    const group = (label, choices) => {
      if (!choices.length) return;
      const parent = document.createElement('optgroup');
      parent.label = label;
      for (const [name, down, text] of choices) option(`${down ? 1 : 0} ${name}`, text, parent);
      select.append(parent);
    };
    const metrics = data.metrics.filter(({ higher }) => higher !== null);
    group('Worst first', metrics.map(({ name, higher }) => [name, higher === false, `worst ${name}`]));
    group('Best first', metrics.map(({ name, higher }) => [name, higher !== false, `best ${name}`]));
    for (const { name, higher } of data.metrics) {
      if (higher === null) group(name, [[name, false, `lowest ${name}`], [name, true, `highest ${name}`]]);
    }
    if (state.base !== null) {
      const changes = (by, down, text) => data.metrics.map(({ name }) => [`${by} ${name}`, down, text(name)]);
      group('Largest difference', changes('difference', true, (name) => `largest difference in ${name}`));
      group('Fell most', changes('change', false, (name) => `${name} fell most`));
      group('Rose most', changes('change', true, (name) => `${name} rose most`));
    }
    group('Other', [
      ['random', false, 'random'], ['index', false, 'as in the data'], ['length', false, 'shortest'],
      ['length', true, 'longest'], ['caption', false, 'captions, A to Z'], ['caption', true, 'captions, Z to A'],
      ['id', false, 'ids, A to Z'], ['id', true, 'ids, Z to A'],
    ]);
    // Values are compared, never put into a selector: names of metrics are a stranger's.
    const value = `${state.down ? 1 : 0} ${state.sort}`;
    select.selectedIndex = [...select.options].findIndex((choice) => choice.value === value);
  }

  function showControls() {
    const typed = document.activeElement;
    for (const [name, value] of [['query', state.query], ['least', state.least ?? ''], ['most', state.most ?? '']]) {
      if (control(name) !== typed) control(name).value = value;
    }
    control('variant').value = state.variant;
    control('base').value = state.base ?? '';
    [...control('base').options].forEach((choice) => { choice.disabled = choice.value === String(state.variant); });
    for (const box of filters) box.checked = state.only.has(box.name);
    for (const label of root.querySelectorAll('.compared')) label.hidden = state.base === null;
    for (const label of root.querySelectorAll('.judge')) label.textContent = ` (${data.metrics[judge()]?.name ?? ''})`;
    for (const name of ['better', 'worse']) {
      if (judge() < 0 || data.metrics[judge()].higher === null) control(name).closest('label').hidden = true;
    }
    control('unknown').closest('label').hidden = !data.unknown[state.variant];
    fillSort();
  }

  /** Columns: name in the address, text, range and direction below it. */
  function fillHead() {
    const columns = [['caption', 'Caption', '']];
    for (const { name, range, higher } of data.metrics) {
      const better = { true: '↑ better', false: '↓ better' }[higher] ?? 'describes only';
      columns.push([name, name, `${range}\n${better}`]);
    }
    columns.push(['id', 'Id', '']);
    head.replaceChildren(element('th', 'Picture', 'image'));
    head.firstChild.scope = 'col';
    table.classList.toggle('without-pictures', !data.pictures.length);
    for (const [sort, title, note] of columns) {
      const cell = stamp(root, 'head', 'th');
      cell.querySelector('.name').textContent = title;
      cell.querySelector('small').textContent = note;
      cell.className = { caption: 'caption', id: 'id' }[sort] ?? 'score';
      cell.querySelector('button').addEventListener('click', () => {
        const again = state.sort === sort;
        const metric = data.metrics.find(({ name }) => name === sort);
        actions.change({ sort, down: again ? !state.down : metric?.higher === false });
      });
      head.append(cell);
    }
    table.setAttribute('aria-colcount', columns.length + 1);
  }

  function markHead() {
    const order = orders.get(state.sort);
    const names = [null, 'caption', ...data.metrics.map(({ name }) => name), 'id'];
    // A row has room for one score on a narrow screen: the one sorted by.
    const chosen = order.metric >= 0 ? order.metric : judge();
    table.style.setProperty('--chosen', chosen);
    [...head.children].forEach((cell, column) => {
      const sorted = names[column] === state.sort && column > 0;
      const related = order.metric >= 0 && !sorted && column === order.metric + 2;
      const way = state.down ? 'descending' : 'ascending';
      cell.classList.toggle('chosen', column === chosen + 2);
      if (!column) return;
      cell.setAttribute('aria-sort', sorted ? way : related ? 'other' : 'none');
      cell.querySelector('.arrow').textContent = sorted ? (state.down ? '▼' : '▲') : related ? '±' : '';
    });
    return chosen;
  }

  function scoreCell(image, metric, chosen) {
    const { name, digits, higher } = data.metrics[metric];
    const value = data.scores[state.variant][metric][image];
    const cell = element('td', formatNumber(value, digits), metric === chosen ? 'score chosen' : 'score');
    cell.dataset.metric = name;
    const before = state.base === null ? null : data.scores[state.base][metric][image];
    if (value !== null && before !== null) {
      const change = value - before;
      const better = higher === null || !change ? 0 : Math.sign(change) * (higher ? 1 : -1);
      const words = { 1: ' better', '-1': ' worse' }[better] ?? '';
      cell.append(element('small', formatChange(change, digits) + words, ['worse', '', 'better'][better + 1]));
    }
    return cell;
  }

  function makeRow(image, place, chosen) {
    const row = stamp(root, 'row', 'tr');
    const [caption, before] = [row.querySelector('button'), row.querySelector('.before')];
    const said = data.captions[state.variant][image];
    const other = state.base === null ? null : data.captions[state.base][image];
    row.dataset.image = image;
    row.setAttribute('aria-rowindex', place + 2);
    row.classList.toggle('current', image === state.current);
    if (said === null) caption.append(element('em', 'no caption'));
    else showDiff(caption, said, other, 'ins');
    if (state.base === null) before.remove();
    else if (other === said) before.textContent = 'the same';
    else if (other === null) before.append(element('em', 'no caption'));
    else showDiff(before, other, said ?? '', 'del');
    row.append(...data.metrics.map((_, metric) => scoreCell(image, metric, chosen)));
    const id = element('td', '', 'id');
    id.append(element('div', clip(data.ids[image], 60)));
    id.firstChild.dir = 'auto';
    row.append(id);
    showPicture(row, image);
    return row;
  }

  function showPicture(row, image) {
    const source = pictureSource(data, image);
    if (!source || row.firstChild.firstChild) return;
    const picture = document.createElement('img');
    picture.alt = '';
    picture.loading = 'lazy';
    picture.src = source;
    row.firstChild.append(picture);
  }

  function rowHeight() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    return Math.round(rem * (state.base === null ? ROW_REM.plain : ROW_REM.compared));
  }

  /** Puts those rows into the page that can be seen, and a few around them; rows that stay are not touched. */
  function draw() {
    const height = rowHeight();
    const first = printing ? 0 : Math.max(0, Math.floor(scroller.scrollTop / height) - ROWS_BEYOND);
    const fit = Math.ceil(scroller.clientHeight / height) + 2 * ROWS_BEYOND;
    const last = Math.min(images.length, printing ? ROWS_PRINTED : first + fit);
    if (drawn === `${first} ${last} ${height}`) return;
    drawn = `${first} ${last} ${height}`;
    table.style.setProperty('--row', `${height}px`);
    const wanted = new Set(images.slice(first, last));
    for (const [image, row] of shown) {
      if (!wanted.has(image)) {
        if (row.contains(document.activeElement)) scroller.focus({ preventScroll: true });
        row.remove();
        shown.delete(image);
      }
    }
    spacers[0].firstChild.style.height = `${first * height}px`;
    spacers[1].firstChild.style.height = `${printing ? 0 : (images.length - last) * height}px`;
    if (spacers[0].parentElement !== body) body.replaceChildren(...spacers);
    const chosen = Number(table.style.getPropertyValue('--chosen'));
    let after = spacers[0];
    for (let place = first; place < last; place++) {
      const image = images[place];
      if (!shown.has(image)) shown.set(image, makeRow(image, place, chosen));
      const row = shown.get(image);
      if (after.nextSibling !== row) after.after(row);
      after = row;
    }
  }

  /** Filters, sorts and shows everything anew. */
  function update() {
    const order = orders.get(state.sort);
    const passes = imageFilter(data, state, judge());
    images = sortedImages(sortKeys(data, state.variant, state.base, order), state.down).filter(passes);
    showControls();
    root.querySelector('.count').textContent =
      `${images.length.toLocaleString('en')} of ${data.ids.length.toLocaleString('en')} images`;
    root.querySelector('.none').hidden = images.length > 0;
    table.classList.toggle('with-base', state.base !== null);
    table.setAttribute('aria-rowcount', images.length + 1);
    markHead();
    const focused = body.contains(document.activeElement);
    for (const row of shown.values()) row.remove();
    shown.clear();
    drawn = '';
    scroller.scrollTop = 0;
    draw();
    if (focused) walkTo(state.current, true);
  }

  /** Marks an image's row, scrolls it into sight and, if asked, focuses it. */
  function walkTo(image, focus) {
    const place = images.indexOf(image);
    shown.get(state.current)?.classList.remove('current');
    state.current = image;
    if (place < 0) return;
    const [height, top] = [rowHeight(), place * rowHeight()];
    const room = scroller.clientHeight - head.offsetHeight;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + height > scroller.scrollTop + room) scroller.scrollTop = top + height - room;
    draw();
    shown.get(image).classList.add('current');
    if (!focus) return;
    scroller.scrollIntoView({ block: 'nearest' });
    shown.get(image).querySelector('button').focus({ preventScroll: true });
  }

  function listen() {
    scroller.addEventListener('scroll', draw, { passive: true });
    addEventListener('resize', draw);
    body.addEventListener('click', (event) => {
      const row = event.target.closest('tr[data-image]');
      // A click that ends the marking of text is not meant to open anything.
      const meant = event.target.closest('button') || getSelection().isCollapsed;
      if (row && meant) actions.open(Number(row.dataset.image));
    });
    const number = (text) => (text.trim() === '' ? null : Math.max(0, Number(text) || 0));
    let typing;
    for (const name of ['query', 'least', 'most']) {
      control(name).addEventListener('input', (event) => {
        clearTimeout(typing);
        const { value } = event.target;
        typing = setTimeout(() => actions.change({ [name]: name === 'query' ? value : number(value) }), 120);
      });
    }
    control('variant').addEventListener('change', (event) => {
      const variant = Number(event.target.value);
      actions.change({ variant, ...(state.base === variant ? { base: null } : {}) });
    });
    control('base').addEventListener('change', (event) => {
      actions.change({ base: event.target.value === '' ? null : Number(event.target.value) });
    });
    control('sort').addEventListener('change', (event) => {
      const { value } = event.target;
      actions.change({ sort: value.slice(2), down: value.startsWith('1') });
    });
    for (const box of filters) {
      box.addEventListener('change', () => {
        actions.change({ only: new Set(filters.filter((one) => one.checked).map((one) => one.name)) });
      });
    }
    const print = (on) => {
      printing = on;
      drawn = '';
      draw();
    };
    addEventListener('beforeprint', () => print(true));
    addEventListener('afterprint', () => print(false));
  }

  function listenExports() {
    const records = () => exportRecords(data, images, state.variant, state.base);
    const texts = { csv: () => toCsv(records()), json: () => `${JSON.stringify(records(), null, 1)}\n` };
    const types = { csv: 'text/csv', json: 'application/json' };
    for (const kind of ['csv', 'json']) {
      root.querySelector(`[data-do="copy-${kind}"]`).addEventListener('click', async (event) => {
        const button = event.currentTarget;
        const label = button.textContent;
        try {
          await navigator.clipboard.writeText(texts[kind]());
          button.textContent = 'Copied';
        } catch {
          button.textContent = 'The browser forbids it; download instead';
        }
        setTimeout(() => { button.textContent = label; }, 1500);
      });
      root.querySelector(`[data-do="download-${kind}"]`).addEventListener('click', () => {
        const link = document.createElement('a');
        // The mark tells spreadsheets that the text is UTF-8.
        const parts = [kind === 'csv' ? '\ufeff' : '', texts[kind]()];
        link.href = URL.createObjectURL(new Blob(parts, { type: types[kind] }));
        link.download = `samples.${kind}`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      });
    }
    root.querySelector('[data-do="reset"]').addEventListener('click', actions.reset);
  }

  /** Pictures are parsed after the first rows are painted: they are the larger part of a page. */
  async function fetchPictures() {
    if (data.folder === null && data.pictures.length) {
      await new Promise((done) => { setTimeout(done, 0); });
      data.pictureChunk = await chunk('pictures');
    }
    for (const [image, row] of shown) showPicture(row, image);
  }

  fillControls();
  fillHead();
  listen();
  listenExports();
  return { update, draw, walkTo, fetchPictures, orders, images: () => images, search: control('query') };
}
