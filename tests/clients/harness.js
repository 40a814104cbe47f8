// What the Node.js clients share: where the server is, a connection, and how tests are run.
'use strict';

const { randomBytes } = require('node:crypto');
const { once } = require('node:events');
const WebSocket = require('ws');

const url = process.argv[2] ?? process.env.RINGWIRE_URL;
const pid = process.env.RINGWIRE_PID;
// How long anything may take before the test gives up. Nothing is measured with it.
const PATIENCE_MS = 20_000;

// A promise that fails when nothing happens.
function patiently(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came in ${PATIENCE_MS} ms: ${what}`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// One connection, and the messages that came on it: pairs of data and whether it was binary.
class Connection {
  async open(protocols, options = {}) {
    this.ws = new WebSocket(url, protocols, { perMessageDeflate: false, ...options });
    this.queue = [];
    this.waiting = [];
    this.end = new Promise((resolve) => {
      this.ws.on('close', (code, reason) => resolve([code, reason.toString()]));
    });
    this.ws.on('message', (...message) => {
      const waiting = this.waiting.shift();
      if (waiting) waiting(message);
      else this.queue.push(message);
    });
    await patiently(once(this.ws, 'open'), 'the handshake');
    // What goes wrong later shows as a close code.
    this.ws.on('error', () => {});
    return this;
  }
  next() {
    const next = this.queue.length
      ? Promise.resolve(this.queue.shift())
      : new Promise((resolve) => this.waiting.push(resolve));
    return patiently(next, 'a frame');
  }
  // The close code and the reason that the server gave.
  closed() {
    return patiently(this.end, 'the end of the connection');
  }
}

// A channel that nobody else uses.
const channel = (name) => `node-${name}-${randomBytes(6).toString('hex')}`;

// Runs every test, and `shutdown` (with the server's process) last if there is a process to end.
async function main(tests, shutdown) {
  if (!url) {
    console.error('where is the server? Set RINGWIRE_URL, for example to ws://127.0.0.1:9000/ws');
    process.exit(1);
  }
  if (pid) tests['server shutdown is told'] = () => shutdown(Number(pid));
  let failed = 0;
  for (const [name, run] of Object.entries(tests)) {
    try {
      await run();
      console.log(`ok      ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${name}\n${error.stack}`);
    }
  }
  console.log(`${Object.keys(tests).length - failed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

module.exports = { Connection, channel, main, patiently, url };
