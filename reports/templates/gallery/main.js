// Start: the state, its place in the address, and the keyboard.

document.documentElement.classList.add('scripted');

/** The state of a page that was opened without any. */
function startState(data) {
  const sort = data.sort ?? 'index';
  return {
    image: null, word: 0, method: null, with: null, of: null, variant: data.start, base: data.base,
    sort, down: worstDown(data, sort), query: '', only: new Set(), least: null, most: null, current: null,
  };
}

/** Whether the worst comes first when a metric is sorted downwards: where lower is better. */
function worstDown(data, sort) {
  return data.metrics.find(({ name }) => name === sort)?.higher === false;
}

/** The state that an address names, or null if it is a plain anchor. Whatever it does not name is as at the start. */
function readAddress(data, orders, hash) {
  if (!hash.includes('=')) return null;
  const given = new URLSearchParams(hash.slice(1));
  const state = startState(data);
  const whole = (name) => (/^\d{1,6}$/.test(given.get(name) ?? '') ? Number(given.get(name)) : null);
  const variant = (name) => {
    const index = data.variants.indexOf(given.get(name));
    return index < 0 && whole(name) < data.variants.length ? whole(name) ?? -1 : index;
  };
  if (given.has('id')) state.image = data.ids.indexOf(given.get('id'));
  state.word = whole('word') ?? 0;
  state.method = given.get('method');
  state.with = given.get('with');
  if (given.has('of') && variant('of') >= 0) state.of = variant('of');
  if (given.has('variant') && variant('variant') >= 0) state.variant = variant('variant');
  if (given.has('base')) state.base = variant('base') >= 0 ? variant('base') : null;
  if (orders.has(given.get('sort'))) {
    state.sort = given.get('sort');
    state.down = given.has('down') ? given.get('down') === '1' : worstDown(data, state.sort);
  }
  state.query = given.get('q') ?? '';
  state.only = new Set((given.get('only') ?? '').split(',').filter(Boolean));
  [state.least, state.most] = [whole('least'), whole('most')];
  return state;
}

/** What the address says of a state: only what differs from the start. */
function addressOf(data, state) {
  const start = startState(data);
  // Of variants of one name all but the first are known by their number.
  const name = (variant) => {
    const text = data.variants[variant];
    return data.variants.indexOf(text) === variant ? text : variant;
  };
  const parts = new URLSearchParams();
  if (state.image !== null) {
    parts.set('id', data.ids[state.image]);
    parts.set('word', state.word);
    if (state.method !== null) parts.set('method', state.method);
    if (state.with !== null) parts.set('with', state.with);
    if (state.of !== null) parts.set('of', name(state.of));
  }
  if (state.variant !== start.variant) parts.set('variant', name(state.variant));
  if (state.base !== start.base) parts.set('base', state.base === null ? '' : name(state.base));
  if (state.sort !== start.sort || state.down !== start.down) {
    parts.set('sort', state.sort);
    parts.set('down', state.down ? 1 : 0);
  }
  if (state.query) parts.set('q', state.query);
  if (state.only.size) parts.set('only', [...state.only].join());
  for (const length of ['least', 'most']) if (state[length] !== null) parts.set(length, state[length]);
  const text = parts.toString().replaceAll('+', '%20');
  return text ? `#${text}` : '';
}

function startBrowser(root, data) {
  data.hasPicture = new Set(data.pictures);
  data.hasSample = new Set(data.shown);
  const orders = sortOrders(data);
  const state = startState(data);
  const everything = data.ids.map((_, image) => image);
  let list = null;
  let viewer = null;
  let writing;

  const images = () => list?.images() ?? everything;

  /** Browsers refuse an address that changes with every move of the pointer, so that the last one is written. */
  function remember() {
    clearTimeout(writing);
    writing = setTimeout(() => {
      try {
        history.replaceState(null, '', addressOf(data, state) || location.pathname + location.search);
      } catch {
        // A frame without an origin of its own, as in some build servers, may not change its address.
      }
    }, 250);
  }

  /** Takes over a state, or a part of one. Without a base nothing can be sorted by a difference from it. */
  function settle(changes) {
    Object.assign(state, changes);
    if (state.base === state.variant) state.base = null;
    const { metric, by } = orders.get(state.sort);
    if (state.base === null && (by === 'change' || by === 'difference')) {
      state.sort = data.metrics[metric].name;
      state.down = worstDown(data, state.sort);
    }
    list?.update();
  }

  function change(changes) {
    settle(changes);
    if (state.image !== null && viewer.isOpen()) {
      viewer.show();
      list?.walkTo(state.image, false);
    }
    remember();
  }

  function openImage(image, options = {}) {
    Object.assign(state, { image, word: options.word ?? 0 });
    list?.walkTo(image, false);
    remember();
    return viewer.show({ focus: options.focus ?? true });
  }

  /** Goes to an image before or behind the shown one; with `ask` only says whether there is one. */
  function neighbour(by, ask = false) {
    const shown = viewer.isOpen() || ask ? state.image : state.current;
    const place = images().indexOf(shown);
    const next = place < 0 ? images()[by > 0 ? 0 : -1] : images()[place + by];
    if (ask) return next !== undefined;
    if (next === undefined) return false;
    if (viewer.isOpen()) openImage(next, { focus: false });
    else list.walkTo(next, true);
    return true;
  }

  function closed() {
    const { image } = state;
    state.image = null;
    list.walkTo(image, document.activeElement !== list.search);
    remember();
  }

  /** Takes over what the address says; a plain anchor says nothing. */
  function restore(found) {
    const unknown = found.image === -1;
    trouble(unknown ? new Error('This page has no image with the id that the address names.') : null);
    settle({ ...found, image: unknown ? null : found.image });
    if (state.image === null && viewer.modal && viewer.isOpen()) viewer.close();
    if (state.image === null && !viewer.modal) state.image = images()[0] ?? null;
    if (state.image !== null) openImage(state.image, { word: state.word, focus: viewer.modal });
    root.scrollIntoView({ block: 'start' });
  }

  const actions = {
    change, remember, closed, neighbour, images, trouble, open: (image) => openImage(image),
    reset: () => change(startState(data)),
  };

  const help = root.querySelector('dialog.keys');
  for (const button of root.querySelectorAll('[data-do="keys"]')) {
    button.addEventListener('click', () => help.showModal());
  }
  help.querySelector('[data-do="close"]').addEventListener('click', () => help.close());

  function search() {
    if (viewer.modal && viewer.isOpen()) viewer.close();
    list?.search.focus();
    list?.search.select();
  }

  function onKey(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || help.open) return;
    if (event.target.closest?.('input:not([type="checkbox"]), select, textarea, [contenteditable]')) return;
    const everywhere = {
      j: () => neighbour(1), k: () => neighbour(-1), '/': list && search, '?': () => help.showModal(),
    };
    // Home and End belong to the page where the viewer stands in its flow.
    const inWords = viewer.modal || root.querySelector('.spoken').contains(event.target);
    const inViewer = {
      o: viewer.cycleA, d: viewer.toggleB,
      ArrowLeft: () => viewer.setWord(state.word - 1, true), ArrowRight: () => viewer.setWord(state.word + 1, true),
      ...(inWords && { Home: () => viewer.setWord(0, true), End: () => viewer.setWord(Infinity, true) }),
    };
    const action = everywhere[event.key] ?? (viewer.isOpen() && state.image !== null ? inViewer[event.key] : null);
    if (!action) return;
    event.preventDefault();
    action();
  }

  /** Links to an image keep the filter that is set: they open, and change nothing else. */
  function onLink(event) {
    const link = event.target.closest?.('a[href^="#id="]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    const named = new URLSearchParams(link.getAttribute('href').slice(1));
    const image = data.ids.indexOf(named.get('id'));
    if (image < 0) return;
    const variant = data.variants.indexOf(named.get('variant'));
    if (named.has('method')) state.method = named.get('method');
    if (named.has('with')) [state.with, state.of] = [named.get('with'), null];
    if (variant >= 0) change({ variant });
    openImage(image, { word: Number(named.get('word')) || 0 });
  }

  root.hidden = false;
  if (root.querySelector('.rows')) list = createList(root, data, state, actions);
  viewer = createViewer(root, data, state, actions);
  document.addEventListener('keydown', onKey);
  document.addEventListener('click', onLink);
  const follow = (hash) => {
    const found = readAddress(data, orders, hash);
    if (found) restore(found);
  };
  addEventListener('hashchange', (event) => {
    clearTimeout(writing); // what was about to be written is of the address before
    follow(new URL(event.newURL).hash); // unlike the present one, it can't have been written over meanwhile
  });
  list?.update();
  if (!viewer.modal && data.ids.length) {
    state.image = 0;
    viewer.show();
  }
  follow(location.hash);
  return list?.fetchPictures();
}

/** Says what went wrong above the list, or takes it away again. */
function trouble(error) {
  const place = document.getElementById('samples-trouble');
  place.hidden = !error;
  place.textContent = error?.message ?? '';
}

async function start() {
  const root = document.getElementById('samples');
  if (!root) return;
  try {
    await startBrowser(root, await chunk('gallery'));
  } catch (error) {
    // What stands in the page without a script is worth more than an empty list.
    document.documentElement.classList.remove('scripted');
    trouble(error);
  }
}

start();
