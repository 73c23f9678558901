// The page of a coordinator. Everything that it shows comes from /api/events, and goes into the page
// as text, never as markup: uids, reasons and errors were written by others.
'use strict';

const $ = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
const SILENT_AFTER = 15_000; // the coordinator gives a sign every five seconds
const AGAIN_AFTER = 3_000;

const TONES = {
  moving: 'Moving', idle: 'Nothing is due', paused: 'Paused', held: 'Waits for an operator',
  throttled: 'Waiting', trouble: 'Not moving', unknown: 'Unknown',
};
const ROLES = {
  starting: 'Starting', standing_by: 'Standing by', leading: 'Leading', resting: 'Between two cycles',
};
const STATES = {
  accepted: 'accepted', accepted_with_failures: 'accepted, files failed', running: 'running',
  published: 'published, in the queue', waiting: 'to be published', to_do: 'to do or being done',
  retrying: 'to be tried again',
};

// ---- Making things --------------------------------------------------------------------------------

/** An element with attributes and children; texts become text nodes. */
function el(name, attributes = {}, ...children) {
  const it = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) it.setAttribute(key, value);
  }
  it.append(...children.filter((child) => child !== undefined && child !== null));
  return it;
}

function svg(name, attributes) {
  const it = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
  return it;
}

const shown = new Map();
/** Draws what has changed, so that a selection or the focus is lost only where it has to be. */
function draw(id, value, make) {
  const key = JSON.stringify(value);
  if (shown.get(id) === key) return;
  shown.set(id, key);
  $(id).replaceChildren(...[make(value)].flat());
}

function say(it, text) {
  if (it.textContent !== text) it.textContent = text;
}

// ---- Words for numbers ----------------------------------------------------------------------------

const grouped = new Intl.NumberFormat('en');
const number = (value) => grouped.format(value);
const many = (count, one, more = `${one}s`) => `${number(count)} ${count === 1 ? one : more}`;
const fraction = (value) => (value >= 100 ? number(Math.round(value)) : String(Math.round(value * 10) / 10));

function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

function duration(seconds) {
  const parts = [['d', 86_400], ['h', 3_600], ['min', 60], ['s', 1]];
  let left = Math.max(0, Math.round(seconds));
  const told = [];
  for (const [unit, size] of parts) {
    const count = Math.floor(left / size);
    left -= count * size;
    if (count > 0) told.push(`${count} ${unit}`);
    else if (told.length > 0) break;
    if (told.length === 2) break;
  }
  return told.join(' ') || '0 s';
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];
/** `2024-12-02T00:00:00Z` as a person writes it; the seconds only where there are any. */
function date(text) {
  const parts = /^(\d+)-(\d\d)-(\d\d)T(\d\d:\d\d)(:\d\d)?/.exec(text);
  if (!parts) return text;
  const [, year, month, day, minutes, seconds = ''] = parts;
  return `${Number(day)} ${MONTHS[month - 1]} ${year} ${minutes}${seconds === ':00' ? '' : seconds}`;
}
/** The same without a midnight, which is what a day's window ends at. */
const day = (text) => date(text).replace(/ 00:00$/, '');
const time = (text) => el('time', { datetime: text, title: text }, date(text));

let clock = 0; // the coordinator's, less ours, in milliseconds
const now = () => Date.now() + clock;
/** An age that grows by itself. */
function age(text, ago = ' ago') {
  const it = el('time', { datetime: text, title: text, 'data-age': ago });
  tellAge(it);
  return it;
}
function tellAge(it) {
  say(it, duration((now() - Date.parse(it.getAttribute('datetime'))) / 1000) + it.dataset.age);
}

/** A sentence with its `commands` and times marked. */
function marked(text) {
  const pattern = /`([^`]+)`|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)/g;
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(pattern)) {
    parts.push(text.slice(at, found.index), found[1] ? el('code', {}, found[1]) : time(found[2]));
    at = found.index + found[0].length;
  }
  parts.push(text.slice(at));
  return parts.filter((part) => part !== '');
}

// ---- The status -----------------------------------------------------------------------------------

let status;

function show(told) {
  status = told;
  clock = Date.parse(told.at) - Date.now();
  say($('job'), `· job ${told.job}`);
  say($('role'), roleOf(told));
  showVerdict(told);
  showActions(told);
  const { watermark, lag_seconds: lag, backlog: left, errors: failed, lease, paused, throttled } = told;
  draw('figures', { watermark, lag, left, failed, lease: lease !== null, paused, throttled }, (known) => figuresOf(known).map(figure));
  const inTheWay = [...told.troubles, ...told.dropped.map(droppedPass)];
  $('troubles').hidden = inTheWay.length === 0;
  draw('troubles-list', inTheWay, (troubles) =>
    troubles.flatMap(({ what, text }) => [el('dt', {}, what), el('dd', {}, ...marked(text))]));
  showWindows(told);
  draw('throughput', told.throughput, throughput);
  say($('workers-count'), told.workers ? String(told.workers.length) : '');
  draw('workers', [told.workers, told.backlog.broker, rowsOf(told)], workers);
  draw('backlog', told.backlog, backlog);
  draw('errors', told.errors, errors);
  draw('audit', told.audit, audit);
}

/** A pass over a committed window that could not be planned. */
function droppedPass({ end, reason }) {
  return { what: 'dropped pass', text: `The last pass over the window that ends at ${end} was dropped: ${reason}` };
}

function roleOf({ process, lease }) {
  if (process.role === 'standing_by' && lease) return `Standing by · ${lease.holder} leads`;
  return lease && process.role === 'leading' ? `Leading · epoch ${lease.epoch}` : ROLES[process.role];
}

function showVerdict({ explanation, tone, process }) {
  $('verdict').dataset.tone = tone;
  say($('tone'), TONES[tone]);
  // The first sentence says what is so, the others what to do.
  const end = explanation.search(/\. (?=[A-Z`])/);
  const [first, rest] = end < 0 ? [explanation, ''] : [explanation.slice(0, end), explanation.slice(end + 2)];
  draw('sentence', first, (text) => marked(`${text}.`));
  const blocked = process.ready || tone === 'trouble' ? '' : `${process.told}.`;
  const more = [rest && `${rest}.`, blocked].filter(Boolean).join(' ');
  $('rest').hidden = more === '';
  draw('rest', more, marked);
  document.title = `${TONES[tone]} · DES Fleet`;
}

function figuresOf({ watermark, lag, left, failed, lease, paused, throttled }) {
  const files = failed.reduce((sum, { files }) => sum + files, 0);
  const lagText = lag === 0 ? 'none' : duration(lag);
  return [
    watermark && ['Watermark', day(watermark.archived_until), 'everything before is settled'],
    watermark && ['Lag', lagText, `target ${day(watermark.target)}`],
    left.pending_files !== null && ['Files due', number(left.pending_files), 'as last counted'],
    left.seconds !== null && left.pending_files > 0 && ['Time left', duration(left.seconds), 'at the pace of 10 minutes'],
    ['Failed files', number(files), files ? 'not archived, with a reason' : 'none in what is committed'],
    paused && ['Paused for', age(paused.since, ''), paused.until ? `until ${date(paused.until)}` : 'until resumed'],
    throttled && !paused && ['Throttled for', age(throttled.since, ''), throttled.kind.replaceAll('_', ' ')],
    !lease && ['Lease', 'nobody leads', ''],
  ].filter(Boolean);
}

function figure([label, value, note]) {
  return el('div', {}, el('dt', {}, label), el('dd', {}, value, note ? el('small', {}, note) : undefined));
}

// ---- Windows and their partitions -----------------------------------------------------------------

function showWindows(told) {
  const list = $('windows');
  say($('windows-count'), told.open_windows ? String(told.open_windows) : '');
  const keyOf = ({ end, revision }) => `window-${end}-${revision}`;
  const keys = new Set(told.windows.map(keyOf));
  // Who is gone goes first, so that the others' places are those of the list.
  for (const it of [...list.children]) {
    if (keys.has(it.id)) continue;
    shown.delete(`${it.id}-head`);
    shown.delete(`${it.id}-told`);
    it.remove();
  }
  told.windows.forEach((window, at) => {
    const key = keyOf(window);
    let it = $(key);
    if (!it) {
      it = el('article', { id: key, class: 'window' },
        el('header', { id: `${key}-head` }), el('div', { id: `${key}-told` }), el('div', { class: 'cells' }));
      roving(it.querySelector('.cells'));
    }
    // What is moved loses the focus: what stands in its place stays.
    if (list.children[at] !== it) list.insertBefore(it, list.children[at] ?? null);
    showWindow(it, key, window);
  });
  const left = told.open_windows - told.windows.length;
  $('windows-none').hidden = told.windows.length > 0 && left <= 0;
  say($('windows-none'), none(told, left));
  legend(told.windows);
}

function none({ windows, troubles }, left) {
  if (left > 0 && windows.length > 0) return `And ${many(left, 'more window')} that ${left === 1 ? 'is' : 'are'} not committed.`;
  if (troubles.some(({ what }) => what === 'ledger')) return 'Unknown while the ledger does not answer.';
  return 'No window is being worked on.';
}

function showWindow(it, key, window) {
  const { partitions: count, each_partition: each, ...facts } = window;
  draw(`${key}-head`, [facts, count], () => windowHead(window));
  draw(`${key}-told`, [facts.why_held, facts.troubled, facts.held], () => windowTrouble(window));
  const cells = it.querySelector('.cells');
  cells.classList.toggle('many', each.length > 150);
  cells.setAttribute('role', 'group');
  cells.setAttribute('aria-label', `Partitions of the window that ends at ${date(window.end)}; arrow keys move`);
  while (cells.children.length > each.length) cells.lastChild.remove();
  each.forEach((partition, at) => {
    let cell = cells.children[at];
    if (!cell) {
      cell = el('button', { type: 'button', class: 'cell', tabindex: at === 0 ? '0' : '-1' });
      cells.append(cell);
    }
    showCell(cell, partition);
  });
  if (!cells.querySelector('[tabindex="0"]')) cells.firstChild?.setAttribute('tabindex', '0');
}

function showCell(cell, partition) {
  const key = JSON.stringify(partition);
  if (cell.known === key) return;
  cell.known = key;
  cell.dataset.state = partition.state;
  cell.dataset.part = String(partition.part === true);
  const read = partition.state === 'running' && partition.rows > 0 ? partition.rows_read / partition.rows : 0;
  cell.style.setProperty('--read', `${Math.min(100, Math.round(read * 100))}%`);
  cell.told = cellText(partition);
  cell.setAttribute('aria-label', cell.told.replaceAll('\n', ', '));
  if (tipOf === cell) showTip(cell);
}

function cellText(it) {
  const lines = [`Partition ${it.partition}: ${STATES[it.state] ?? it.state}`];
  lines.push(it.rows_read === undefined ? many(it.rows, 'file') : `${number(it.rows_read)} of ${many(it.rows, 'file')} read`);
  if (it.worker) lines.push(`by ${it.worker}`);
  if (it.files_failed) lines.push(`${many(it.files_failed, 'file')} failed`);
  if (it.part) lines.push('a part of one that was split');
  if (it.setbacks) lines.push(`came back ${many(it.setbacks, 'time')}; ${many(it.attempts ?? 0, 'attempt')} and ${many(it.interruptions ?? 0, 'interruption')} counted`);
  if (it.not_before) lines.push(`again from ${date(it.not_before)} on`);
  if (it.trouble) lines.push(it.trouble);
  return lines.join('\n');
}

function windowHead({ start, end, revision, requested, held, files, files_failed: failed, partitions }) {
  const state = requested ? 'requested' : held ? 'held' : 'open';
  const counts = requested
    ? 'asked for and not begun'
    : `${many(files, 'file')}, ${number(partitions.accepted)} of ${many(partitions.all, 'partition')} accepted`;
  return [
    el('h3', {}, date(start), ' to ', date(end), revision ? `, revision ${revision}` : ''),
    el('span', { class: 'badge', 'data-state': state }, state),
    el('p', {}, counts + (failed ? `, ${many(failed, 'file')} failed` : '')),
  ];
}

function windowTrouble({ held, why_held: why, troubled, files_failed: failed }) {
  if (held) return [el('p', { class: 'trouble', 'data-kind': 'held' }, ...marked(why ?? `${failed} files failed`))];
  if (!troubled) return [];
  const { partition, setbacks, class: kind, detail } = troubled;
  return [el('p', { class: 'trouble' }, `Partition ${partition} came back ${many(setbacks, 'time')}. ${kind}: ${detail}`)];
}

function legend(windows) {
  const counts = new Map();
  for (const { each_partition: each } of windows) {
    for (const { state } of each) counts.set(state, (counts.get(state) ?? 0) + 1);
  }
  $('legend').hidden = counts.size === 0;
  draw('legend', Object.keys(STATES).filter((state) => counts.has(state)).map((state) => [state, counts.get(state)]),
    (known) => known.map(([state, count]) => el('li', {},
      el('span', { class: 'cell', 'data-state': state, 'aria-hidden': 'true' }), `${number(count)} ${STATES[state]}`)));
}

/** One stop of the tab key for all squares of a window; arrow keys move between them. */
function roving(cells) {
  cells.addEventListener('keydown', (event) => {
    const all = [...cells.children];
    const at = all.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: inRow(all), ArrowUp: -inRow(all) }[event.key];
    const to = event.key === 'Home' ? 0 : event.key === 'End' ? all.length - 1 : at + step;
    if (at < 0 || !all[to]) return;
    event.preventDefault();
    all[to].focus();
  });
  cells.addEventListener('focusin', ({ target }) => {
    for (const cell of cells.querySelectorAll('[tabindex="0"]')) cell.setAttribute('tabindex', '-1');
    target.setAttribute('tabindex', '0');
    showTip(target);
  });
  cells.addEventListener('focusout', hideTip);
  cells.addEventListener('pointerover', ({ target }) => target.matches('.cell') && showTip(target));
  cells.addEventListener('pointerleave', hideTip);
}

function inRow(all) {
  const below = all.findIndex((cell) => cell.offsetTop > all[0].offsetTop);
  return below < 0 ? all.length : below;
}

let tipOf;
function showTip(cell) {
  tipOf = cell;
  const tip = $('tip');
  say(tip, cell.told);
  tip.hidden = false;
  const [of, own] = [cell.getBoundingClientRect(), tip.getBoundingClientRect()];
  const left = Math.min(of.left, document.documentElement.clientWidth - own.width - 12);
  const above = of.bottom + own.height + 12 > window.innerHeight && of.top > own.height + 12;
  const top = above ? of.top - own.height - 8 : of.bottom + 8;
  tip.style.left = `${Math.max(12, left) + window.scrollX}px`;
  tip.style.top = `${top + window.scrollY}px`;
}
function hideTip() {
  tipOf = undefined;
  $('tip').hidden = true;
}

// ---- The other cards ------------------------------------------------------------------------------

function throughput(told) {
  if (!told) return el('p', { class: 'none' }, 'The coordinator that leads counts this.');
  const { since, files, minute } = told;
  if (files.length === 0) return el('p', { class: 'none' }, 'Nothing was accepted since this process began to lead.');
  const most = Math.max(...files);
  const total = files.reduce((sum, it) => sum + it, 0);
  const text = `${many(total, 'file')} accepted within the last hour, at most ${number(most)} in a minute`;
  const plot = svg('svg', { viewBox: '0 0 600 100', preserveAspectRatio: 'none', role: 'img', 'aria-label': text });
  for (const y of [1, 50]) plot.append(svg('line', { x1: 0, x2: 600, y1: y, y2: y }));
  files.forEach((count, at) => {
    if (count === 0) return;
    const height = Math.max(1.5, (count / Math.max(most, 1)) * 98);
    const bar = svg('rect', { x: at * 10 + 1, y: 100 - height, width: 8, height, class: at === 59 ? 'now' : '' });
    const title = svg('title', {});
    const begin = new Date(Date.parse(minute) - (files.length - 1 - at) * 60_000).toISOString();
    title.textContent = `${begin.slice(11, 16)}: ${many(count, 'file')}`;
    bar.append(title);
    plot.append(bar);
  });
  return [
    el('div', { class: 'plot' }, el('span', {}, number(most)), plot, el('span', { class: 'least' }, '0'),
      el('p', { class: 'times' }, el('span', {}, '60 minutes ago'), el('span', {}, 'now'))),
    el('p', { class: 'note' }, `${text}. Counted since `, time(since), '.'),
  ];
}

const rowsOf = ({ windows }) => Object.fromEntries(windows.flatMap(({ end, revision, each_partition: each }) =>
  each.filter(({ state }) => state === 'running').map((it) => [`${end} ${revision} ${it.partition}`, it.rows])));

function workers([list, broker, rows]) {
  const listen = broker ? `The broker has ${many(broker.workers, 'worker')} listening.` : '';
  if (!list) return el('p', { class: 'none' }, `Workers are heard by the coordinator that leads. ${listen}`);
  if (list.length === 0) return el('p', { class: 'none' }, `None was heard of in the last 15 minutes. ${listen}`);
  const task = (it) => {
    const all = rows[`${it.window} ${it.revision} ${it.partition}`];
    const pace = it.rows_per_second === null ? '' : `, ${fraction(it.rows_per_second)} files/s, ${bytes(it.bytes_per_second)}/s`;
    const part = el('span', {});
    part.style.setProperty('--part', `${all ? Math.min(100, (it.rows / all) * 100) : 0}%`);
    return el('div', {},
      `Partition ${it.partition}, window to ${date(it.window)}: ${number(it.rows)}${all ? ` of ${number(all)}` : ''} files${pace}`,
      all ? el('span', { class: 'meter', 'aria-hidden': 'true' }, part) : undefined,
      it.reading ? el('p', { class: 'silent' }, `has been reading ${it.reading.location} for ${duration(it.reading.seconds)}`) : undefined);
  };
  return [
    el('ul', { class: 'plain', role: 'list' }, ...list.map((it) => el('li', {},
      el('div', { class: 'who' }, el('span', { class: 'mono' }, it.worker), el('span', { class: 'quiet' }, 'heard ', age(it.heard_at))),
      ...(it.tasks.length ? it.tasks.map(task) : [el('p', { class: 'quiet' }, 'idle')])))),
    el('p', { class: 'note' }, listen),
  ];
}

function backlog({ partitions_to_do: toDo, partitions_backing_off: backingOff, pending_files: due, broker }) {
  const row = (what, ledger, other) => el('tr', {}, el('th', { scope: 'row' }, what),
    el('td', { class: 'number' }, ledger), el('td', { class: 'number' }, other));
  const head = el('tr', {}, el('td', {}), el('th', { scope: 'col', class: 'number' }, 'Ledger'),
    el('th', { scope: 'col', class: 'number' }, 'Broker'));
  const of = (value) => (broker ? number(value(broker)) : 'no broker');
  return [
    el('table', {}, el('thead', {}, head), el('tbody', {},
      row('Partitions to do', number(toDo), broker ? `${many(broker.tasks, 'task')} wait` : 'no broker'),
      row('To be tried again later', number(backingOff), ''),
      row('Files due', due === null ? 'unknown here' : number(due), ''),
      row('Workers listening', '', of((it) => it.workers)),
      row('Dead letters', '', of((it) => it.dead_letters)))),
    el('p', { class: 'note' }, 'What is to do and does not wait in the queue is in the hands of workers, or is about to be published.'),
  ];
}

function errors(list) {
  if (list.length === 0) return el('p', { class: 'none' }, 'No file of a committed window failed.');
  const most = Math.max(...list.map(({ files }) => files));
  return el('ul', { class: 'plain', role: 'list' }, ...list.map(({ reason, files }) => {
    const part = el('span', {});
    part.style.setProperty('--part', `${(files / most) * 100}%`);
    return el('li', {}, el('div', { class: 'who' }, el('span', {}, reason), el('span', {}, many(files, 'file'))),
      el('span', { class: 'meter bad', 'aria-hidden': 'true' }, part));
  }));
}

function audit(list) {
  if (list.length === 0) return el('p', { class: 'none' }, 'Nobody did anything yet.');
  return el('ul', { class: 'plain', role: 'list' }, ...list.map(({ at, actor, action, from, to, reason }) => {
    const values = from && to ? `from ${from} to ${to}` : (to ?? from);
    return el('li', {}, el('div', { class: 'who' }, el('span', {}, el('strong', {}, action), ` by ${actor}`), el('span', { class: 'quiet' }, time(at))),
      values ? el('small', {}, ...marked(values)) : undefined,
      reason ? el('div', {}, reason) : undefined);
  }));
}

// ---- Acting ---------------------------------------------------------------------------------------

const ASKED = {
  pause: ['Pause', 'Nothing new is begun until somebody resumes. What workers hold is finished.'],
  resume: ['Resume', 'Work goes on within seconds.'],
  throttle: ['Throttle', 'In the place of what was said before. What is left empty is as configured; none: no limit. All empty: the throttle is taken back. A query that was said is kept.'],
  replay: ['Replay a window', 'A committed window is verified; what is damaged is restored, what is late is archived.'],
};
let asked;
let token = ''; // as long as the page is open

function showActions({ actions, paused }) {
  $('actions').hidden = actions.length === 0;
  $('pause').hidden = paused !== null;
  $('resume').hidden = paused === null;
}

function ask(what) {
  asked = what;
  const [title, text] = ASKED[what];
  say($('dialog-h'), title);
  say($('dialog-text'), text);
  say($('confirm'), title);
  $('form').reset();
  $('form').elements.token.value = token;
  $('dialog-error').hidden = true;
  for (const label of document.querySelectorAll('[data-for]')) label.hidden = label.dataset.for !== what;
  $('dialog').showModal();
  $('form').elements[what === 'replay' ? 'window' : 'reason'].focus();
}

async function act() {
  const { reason, until, window: end, token: given } = $('form').elements;
  const body = { reason: reason.value };
  if (asked === 'pause' && until.value) body.until = `${until.value}Z`;
  if (asked === 'replay') body.window = end.value.trim();
  for (const limit of document.querySelectorAll('[data-for=throttle] input')) {
    if (asked === 'throttle' && limit.value.trim()) body[limit.name] = limit.value.trim();
  }
  const answer = await fetch(`/api/${asked}${OF_JOB}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${given.value}` },
    body: JSON.stringify(body),
  });
  const told = await answer.json().catch(() => undefined);
  if (told === undefined) throw new Error(`The answer (${answer.status}) is not the coordinator's: something in between refused it.`);
  if (!answer.ok) throw new Error(told.error);
  token = given.value;
  return told;
}

async function submit(event) {
  event.preventDefault();
  $('confirm').disabled = true;
  $('dialog-error').hidden = true;
  try {
    const told = await act();
    $('dialog').close();
    say($('done'), told.done);
    $('done').hidden = false;
  } catch (error) {
    say($('dialog-error'), error.message);
    $('dialog-error').hidden = false;
  } finally {
    $('confirm').disabled = false;
  }
}

// ---- Live -----------------------------------------------------------------------------------------

// Which job, where the coordinator has several: each has this page, with ?job= in its address.
const JOB = new URLSearchParams(location.search).get('job');
const OF_JOB = JOB === null ? '' : `?job=${encodeURIComponent(JOB)}`;
let source;
let heard = Date.now();
let again;

function connect() {
  clearTimeout(again);
  source?.close();
  source = new EventSource(`/api/events${OF_JOB}`);
  source.addEventListener('status', ({ data }) => { live(); show(JSON.parse(data)); });
  source.addEventListener('starting', ({ data }) => { live(); say($('sentence'), data); shown.delete('sentence'); });
  source.addEventListener('alive', live);
  source.addEventListener('error', lost);
}

function live() {
  heard = Date.now();
  $('connection').dataset.state = 'live';
  say($('connection'), 'Live');
  $('lost').hidden = true;
  document.body.classList.remove('stale');
}

function lost() {
  $('connection').dataset.state = 'lost';
  say($('connection'), 'Connection lost');
  say($('lost'), `Connection lost. ${status ? `What you see is from ${date(status.at)} UTC. ` : ''}Trying again.`);
  $('lost').hidden = false;
  document.body.classList.add('stale');
  // A stream that was refused does not come back by itself.
  if (source?.readyState !== EventSource.CONNECTING) {
    clearTimeout(again);
    again = setTimeout(connect, AGAIN_AFTER);
  }
}

setInterval(() => {
  document.querySelectorAll('[data-age]').forEach(tellAge);
  if (status) say($('as-of'), `Last change ${date(status.at)}.`);
  if (source && Date.now() - heard > SILENT_AFTER) {
    source.close();
    heard = Date.now();
    lost();
  }
}, 1_000);

// A page that nobody sees asks for nothing.
document.addEventListener('visibilitychange', () => {
  if (document.hidden) {
    source?.close();
    source = undefined;
  } else if (!source) {
    heard = Date.now();
    connect();
  }
});
document.addEventListener('keydown', ({ key }) => key === 'Escape' && hideTip());
$('tip').addEventListener('pointerleave', hideTip);
for (const what of Object.keys(ASKED)) $(what).addEventListener('click', () => ask(what));
$('cancel').addEventListener('click', () => $('dialog').close());
$('form').addEventListener('submit', submit);
$('json').href += OF_JOB;
connect();
