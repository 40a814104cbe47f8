// The demo page in a real browser: two people talk, nothing that one writes runs at the other, and a
// restarted server is found again.
//
// usage: RINGWIRE_BINARY=target/release/ringwire node demo_page.js
//
// RINGWIRE_CHROMIUM     the browser; default /usr/bin/chromium
// RINGWIRE_SCREENSHOTS  folder for pictures of the page; default: the folder target/ of this checkout
//
// Starts and ends servers by itself. Prints each test and `N passed, N failed`; exits with 1 when one
// failed.
'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const { chromium } = require('playwright-core');

const binary = process.env.RINGWIRE_BINARY;
const browserPath = process.env.RINGWIRE_CHROMIUM || '/usr/bin/chromium';
const pictures = process.env.RINGWIRE_SCREENSHOTS || path.join(__dirname, '../../target');
// How long anything may take before the test gives up. Nothing is measured with it.
const PATIENCE_MS = 30_000;

// The variables of whoever runs the tests are not the server's.
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('RINGWIRE_')));

class Server {
  // A server on a port of 127.0.0.1; 0: any.
  static async start(port = 0) {
    const server = new Server();
    server.process = spawn(binary, ['serve', '--listen', `127.0.0.1:${port}`, '--shards', '2'], {
      env: environment,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    server.ended = once(server.process, 'exit');
    for await (const line of readline.createInterface({ input: server.process.stdout })) {
      const found = line.match(/^listening on ws:\/\/[^/]*:(\d+)\//);
      if (found) {
        server.port = Number(found[1]);
        server.page = `http://127.0.0.1:${server.port}/`;
        server.process.stdout.resume();
        return server;
      }
    }
    throw new Error('the server ended without saying where it listens');
  }
  async end(signal = 'SIGTERM') {
    this.process.kill(signal);
    await this.ended;
  }
}

// Whatever a page complains about, apart from connections that a test breaks on purpose.
function complaintsOf(page) {
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(`error: ${error.message}`));
  page.on('dialog', (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on('console', (message) => {
    const text = message.text();
    if (message.type() === 'error' && !/^WebSocket connection to .* failed/.test(text)) complaints.push(`console: ${text}`);
  });
  page.on('request', (request) => {
    const { protocol, pathname } = new URL(request.url());
    if (!(protocol === 'data:' || pathname === '/')) complaints.push(`request: ${request.url()}`);
  });
  return complaints;
}

let browser;
const contexts = [];

// Somebody's tab. Each has storage of its own, as tabs of different people have.
async function visit(server, { name, channel, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 760 }, ...options });
  contexts.push(context);
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.complaints = complaintsOf(page);
  await page.goto(server.page + (channel === undefined ? '' : `#${encodeURIComponent(channel)}`));
  await joined(page);
  if (name) await rename(page, name);
  return page;
}
const state = (page, wanted) => page.waitForSelector(`#pill[data-state=${wanted}]`);
const joined = (page) => page.waitForFunction(() => document.getElementById('facts').textContent.startsWith('Joined'));
async function rename(page, name) {
  // On a phone the field is folded away.
  const fold = page.locator('#more');
  const folded = await fold.isVisible();
  if (folded) await fold.click();
  await page.fill('#name', name);
  await page.press('#name', 'Enter');
}
async function say(page, text) {
  await page.fill('#text', text);
  await page.press('#text', 'Enter');
}
const texts = (page) => page.locator('.log:not([hidden]) .msg:not(.pending) .text').allTextContents();
// The page shows a message of this text, confirmed by the server.
const heard = (page, text) =>
  page.waitForFunction(
    (wanted) => [...document.querySelectorAll('.log:not([hidden]) .msg:not(.pending) .text')].some((node) => node.textContent === wanted),
    text,
  );

const tests = {
  async 'two people talk'(server) {
    const ada = await visit(server, { name: 'Ada' });
    assert.equal(new URL(ada.url()).hash, '#lobby', 'a newcomer is somewhere');
    assert.ok(await ada.getByText('#lobby is quiet').isVisible());
    const grace = await visit(server, { name: 'Grace', channel: 'lobby' });
    await say(ada, 'Hello, is anybody here?');
    await heard(grace, 'Hello, is anybody here?');
    await say(grace, 'Two tabs,\none channel. 🦦');
    for (const page of [ada, grace]) {
      await heard(page, 'Two tabs,\none channel. 🦦');
      assert.deepEqual(await texts(page), ['Hello, is anybody here?', 'Two tabs,\none channel. 🦦']);
    }
    assert.deepEqual(await grace.locator('.msg:not(.mine) .meta bdi').allTextContents(), ['Ada']);
    assert.equal(await ada.locator('.msg.mine').count(), 1, 'her own message is once there');
    assert.match(await ada.textContent('#facts'), /offset 2$/);
    return [ada, grace];
  },

  async 'what others write never runs'(server) {
    const attacks = [
      '<script>window.attacked = 1</script>',
      '<img src=x onerror="window.attacked = 2">',
      '"><svg onload=window.attacked=3>',
      '<iframe srcdoc="<script>parent.attacked=4</script>"></iframe>',
      'javascript:window.attacked=5',
      '{{constructor.constructor("window.attacked=6")()}}',
    ];
    const mallory = await visit(server, { name: '<img src=x onerror=window.attacked=7>', channel: 'attack' });
    const victim = await visit(server, { name: 'Victim', channel: 'attack' });
    for (const attack of attacks) {
      await say(mallory, attack);
      await heard(victim, attack);
    }
    // Also past the page, as any client can: shapes of data that the page itself never sends.
    await mallory.evaluate(
      (list) =>
        new Promise((resolve, reject) => {
          const socket = new WebSocket(`ws://${location.host}/ws`);
          socket.onerror = reject;
          socket.onopen = () => {
            for (const data of list) socket.send(JSON.stringify({ type: 'publish', channel: 'attack', data }));
            socket.send(JSON.stringify({ type: 'publish', channel: 'attack', data: 'all sent', id: 1 }));
          };
          socket.onmessage = () => resolve(socket.close());
        }),
      [
        attacks[0],
        { name: attacks[1], text: attacks[1], id: 'x' },
        { name: { toString: attacks[0] }, text: attacks[2] },
        { html: attacks[1], __proto__: null },
        [attacks[1]],
        null,
        7,
        { text: '\u202eevil\u0000', name: '\u202e\u0007' },
      ],
    );
    await heard(victim, 'all sent');
    assert.equal((await texts(victim)).length, attacks.length + 9);
    // Time for an image to fail to load, if there were one.
    await victim.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 100))));
    for (const page of [victim, mallory]) {
      assert.equal(await page.evaluate(() => window.attacked), undefined);
      assert.equal(await page.locator('main :is(script, img, iframe, a, style)').count(), 0);
    }
    return [victim, mallory];
  },

  async 'the policy forbids what the page does not need'(server) {
    const page = await visit(server);
    const violations = await page.evaluate(async () => {
      const seen = [];
      document.addEventListener('securitypolicyviolation', (event) => seen.push(event.effectiveDirective));
      try {
        const script = document.createElement('script');
        script.text = 'window.attacked = 1';
        document.head.append(script);
      } catch {
        seen.push('trusted types');
      }
      const image = new Image();
      image.src = 'http://127.0.0.1:9/x.png';
      await fetch('http://127.0.0.1:9/').catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 100));
      return seen;
    });
    for (const directive of ['connect-src', 'img-src']) assert.ok(violations.includes(directive), `${directive}: ${violations}`);
    assert.ok(violations.length >= 3, `the script: ${violations}`);
    assert.equal(await page.evaluate(() => window.attacked), undefined);
    return [];
  },

  async 'channels are kept apart'(server) {
    const ada = await visit(server, { name: 'Ada', channel: 'one' });
    const grace = await visit(server, { name: 'Grace', channel: 'a/b c#ü' });
    assert.equal(await grace.textContent('#title'), '#a/b c#ü');
    await ada.fill('#join-name', '#a/b c#ü');
    await ada.press('#join-name', 'Enter');
    await joined(ada);
    await ada.click('[data-channel=one]');
    await say(grace, 'unread');
    await ada.waitForSelector('[data-channel="a/b c#ü"] i:text("1")');
    assert.match(await ada.title(), /^\(1\) #one/);
    assert.deepEqual(await texts(ada), []);
    await ada.keyboard.press('Alt+ArrowDown');
    assert.deepEqual(await texts(ada), ['unread']);
    assert.equal(await ada.locator('.chan i').count(), 0);
    await ada.click('#leave');
    assert.equal(await ada.textContent('#title'), '#one');
    await ada.click('#leave');
    assert.ok(await ada.getByText('You are in no channel').isVisible());
    await ada.getByRole('button', { name: 'Join #lobby' }).click();
    await joined(ada);
    return [ada, grace];
  },

  async 'the log is bounded and stays at its end'(server) {
    const reader = await visit(server, { channel: 'flood' });
    await reader.evaluate(
      () =>
        new Promise((resolve) => {
          const socket = new WebSocket(`ws://${location.host}/ws`);
          socket.onopen = () => {
            for (let i = 1; i <= 1500; i += 1) socket.send(JSON.stringify({ type: 'publish', channel: 'flood', data: `message ${i}` }));
            socket.send(JSON.stringify({ type: 'publish', channel: 'flood', data: 'x'.repeat(500_000), id: 1 }));
          };
          socket.onmessage = () => resolve(socket.close());
        }),
    );
    await reader.waitForFunction(() => document.getElementById('facts').textContent.endsWith('offset 1501'));
    const shown = await texts(reader);
    assert.equal(shown.length, 500);
    assert.equal(shown[498], 'message 1500');
    assert.match(shown[499], /^x{8000}… \(492000 more characters\)$/);
    await reader.waitForFunction(() => {
      const log = document.querySelector('.log:not([hidden])');
      return log.scrollHeight - log.scrollTop - log.clientHeight < 2;
    });
    // Who reads back is left in peace.
    await reader.locator('.log:not([hidden])').evaluate((log) => { log.scrollTop = 0; });
    await reader.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
    const other = await visit(server, { channel: 'flood' });
    await say(other, 'one more');
    await reader.waitForSelector('#latest:visible');
    assert.ok(await reader.locator('.log:not([hidden])').evaluate((log) => log.scrollTop < log.scrollHeight / 2));
    await reader.click('#latest');
    assert.ok(await reader.getByText('one more').isVisible());
    return [reader, other];
  },

  async 'a restarted server is found again'() {
    let server = await Server.start();
    const ada = await visit(server, { name: 'Ada', channel: 'restart' });
    const grace = await visit(server, { name: 'Grace', channel: 'restart' });
    await say(ada, 'before');
    await heard(grace, 'before');
    for (const page of [ada, grace]) {
      // Every reason that the page shows: the next attempt fails in another way than the first.
      await page.evaluate(() => {
        window.shown = [];
        const look = () => window.shown.push(`${document.getElementById('pill').textContent} | ${document.getElementById('why').textContent}`);
        new MutationObserver(look).observe(document.getElementById('why'), { childList: true });
      });
    }
    await server.end();
    for (const page of [ada, grace]) {
      await state(page, 'waiting');
      const shown = await page.evaluate(() => window.shown);
      assert.match(shown[0], /^Reconnecting in \d+ s \| .*server shutting down, code 1001/);
      assert.ok(await page.locator('#send').isDisabled());
    }
    // What is written meanwhile stays in the field.
    await ada.fill('#text', 'written meanwhile');
    await ada.press('#text', 'Enter');
    assert.equal(await ada.inputValue('#text'), 'written meanwhile');
    server = await Server.start(server.port);
    for (const page of [ada, grace]) {
      await state(page, 'open');
      await joined(page);
    }
    await ada.press('#text', 'Enter');
    await heard(grace, 'written meanwhile');
    assert.equal(await grace.locator('.log:not([hidden]) .note.gap').count(), 1, 'it says that messages may be missing');
    // The same after a crash, and by hand.
    await server.end('SIGKILL');
    await state(grace, 'waiting');
    assert.match(await grace.textContent('#why'), /code 1006/);
    server = await Server.start(server.port);
    if (await grace.locator('#retry').isVisible()) await grace.click('#retry', { timeout: 1000 }).catch(() => {});
    await joined(grace);
    await joined(ada);
    await say(grace, 'after');
    await heard(ada, 'after');
    await server.end();
    return [ada, grace];
  },

  async 'a close that forbids reconnecting is respected'(server) {
    const context = await browser.newContext();
    contexts.push(context);
    const page = await context.newPage();
    page.complaints = complaintsOf(page);
    let connections = 0;
    await page.routeWebSocket(/\/ws$/, (route) => {
      connections += 1;
      if (connections === 1) {
        route.close({ code: 4001, reason: 'token expired' });
      } else if (connections === 2) {
        route.send(JSON.stringify({ type: 'disconnect', code: 4010, reason: 'slow consumer', reconnect: true, after_ms: 60_000 }));
        route.close({ code: 4010, reason: 'slow consumer' });
      } else {
        route.connectToServer();
      }
    });
    await page.goto(server.page);
    await state(page, 'closed');
    assert.equal(await page.textContent('#pill'), 'Closed (4001)');
    assert.match(await page.textContent('#why'), /token expired, code 4001/);
    await page.click('#retry');
    await state(page, 'waiting');
    const [, seconds] = (await page.textContent('#pill')).match(/^Reconnecting in (\d+) s$/);
    assert.ok(Number(seconds) >= 59 && Number(seconds) <= 62, `after_ms is respected: ${seconds} s`);
    assert.equal(connections, 2);
    await page.click('#retry');
    await joined(page);
    return [page];
  },

  async 'gaps, repeats and late messages are seen'(server) {
    const context = await browser.newContext();
    contexts.push(context);
    const page = await context.newPage();
    page.complaints = complaintsOf(page);
    let route;
    await page.routeWebSocket(/\/ws$/, (opened) => {
      route = opened;
      opened.onMessage((text) => {
        const { type, channel, id } = JSON.parse(text);
        if (type === 'subscribe') opened.send(JSON.stringify({ type: 'subscribed', channel, id, offset: 10, epoch: 1 }));
      });
    });
    await page.goto(`${server.page}#c`);
    await joined(page);
    const message = (offset) => route.send(JSON.stringify({ type: 'message', channel: 'c', from: null, data: `m${offset}`, offset, timestamp: 1.7e9 }));
    [11, 12, 12, 16, 14, 11].forEach(message);
    route.send('no JSON');
    route.send('{"type":"from the future"}');
    await heard(page, 'm14');
    const lines = await page.locator('.log:not([hidden]) li').evaluateAll((list) => list.map((li) => (li.querySelector('.text') ?? li).textContent));
    assert.deepEqual(lines, ['m11', 'm12', '1 message missing (offset 13)', 'm14', '1 message missing (offset 15)', 'm16']);
    return [page];
  },

  async 'keyboard and screen reader find everything'(server) {
    const page = await visit(server, { channel: 'access' });
    await page.keyboard.press('Tab');
    const names = new Set();
    for (let i = 0; i < 12; i += 1) {
      names.add(await page.evaluate(() => document.activeElement.labels?.[0]?.textContent ?? document.activeElement.textContent));
      await page.keyboard.press('Tab');
    }
    for (const name of ['Join a channel', 'Your name', 'Leave', 'Message']) assert.ok(names.has(name), `${name} in ${[...names]}`);
    assert.equal(await page.getByRole('log').getAttribute('aria-label'), 'Messages in access');
    assert.equal(await page.getByRole('status').textContent(), 'Connected');
    assert.equal(await page.locator('input:not([id]), textarea:not([id])').count(), 0);
    return [page];
  },

  async 'it fits a screen and a phone, by day and by night'(server) {
    const phone = { viewport: { width: 390, height: 760 }, isMobile: true, hasTouch: true };
    const ada = await visit(server, { name: 'Ada', channel: 'pictures', colorScheme: 'light' });
    const grace = await visit(server, { name: 'Grace', channel: 'pictures', colorScheme: 'dark', ...phone });
    const talk = [
      [ada, 'Good morning! Anyone here yet?'],
      [grace, 'Morning. Two tabs, one channel.'],
      [grace, 'Every message has an offset: look at its tooltip.'],
      [ada, '<script>alert(1)</script> <img src=x onerror=alert(2)>'],
      [grace, 'Nice try, that is only text here.\nAnd a long line, which has to wrap because it does not fit into a bubble, neither on a phone nor on a wide screen.'],
      [ada, 'See you.'],
    ];
    for (const [page, text] of talk) {
      await say(page, text);
      await heard(ada, text);
      await heard(grace, text);
    }
    await ada.fill('#join-name', 'team/engine-room');
    await ada.press('#join-name', 'Enter');
    await joined(ada);
    await say(grace, 'Still there?');
    await ada.waitForSelector('[data-channel=pictures] i:visible');
    await ada.click('[data-channel=pictures]');
    fs.mkdirSync(pictures, { recursive: true });
    for (const [page, size] of [[ada, 'desktop'], [grace, 'phone']]) {
      for (const colorScheme of ['light', 'dark']) {
        await page.emulateMedia({ colorScheme });
        const { width, scroll, background } = await page.evaluate(() => ({
          width: innerWidth,
          scroll: document.documentElement.scrollWidth,
          background: getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number),
        }));
        assert.ok(scroll <= width, `${size}: ${scroll} px in a window of ${width}`);
        assert.equal(background[0] < 64, colorScheme === 'dark');
        await page.screenshot({ path: path.join(pictures, `demo-${size}-${colorScheme}.png`) });
      }
    }
    return [ada, grace];
  },
};

async function main() {
  if (!binary || !fs.existsSync(binary)) {
    console.error('which server? Set RINGWIRE_BINARY, for example to target/release/ringwire');
    process.exit(1);
  }
  if (!fs.existsSync(browserPath)) {
    console.error(`no browser at ${browserPath}: install Debian's chromium, or set RINGWIRE_CHROMIUM`);
    process.exit(1);
  }
  const home = fs.mkdtempSync(path.join(os.tmpdir(), 'ringwire-browser-'));
  browser = await chromium.launch({
    executablePath: browserPath,
    // Settings and caches of whoever runs this stay untouched.
    env: { ...environment, HOME: home, XDG_CONFIG_HOME: home, XDG_CACHE_HOME: home },
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  const server = await Server.start();
  let failed = 0;
  for (const [name, run] of Object.entries(tests)) {
    try {
      for (const page of await run(server)) assert.deepEqual(page.complaints, []);
      console.log(`ok      ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${name}\n${error.stack}`);
    }
    for (const context of contexts.splice(0)) await context.close();
  }
  await browser.close();
  await server.end();
  fs.rmSync(home, { recursive: true, force: true });
  console.log(`${Object.keys(tests).length - failed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
