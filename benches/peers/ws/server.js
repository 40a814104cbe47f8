// npm's ws as a peer of scripts/compare: `/echo`, and channels on `/ws`, as its documentation broadcasts.
//
//   node server.js [--port N]   listens on 127.0.0.1; without a port, on a free one
//   node server.js --version    says what is compared
//
// SIGUSR2 collects garbage, so that memory can be read without it (`node --expose-gc`).
"use strict";

const { WebSocket, WebSocketServer } = require("ws");

const port = (() => {
  const [option, value, ...rest] = process.argv.slice(2);
  if (option === "--version" && value === undefined) {
    // Node.js 26.12 masks by itself; before that, ws does it with bufferutil, where that can be loaded.
    require("bufferutil");
    const { version } = require("ws/package.json");
    const native = require("bufferutil/package.json").version;
    console.log(`ws ${version} (bufferutil ${native}), Node.js ${process.versions.node}`);
    process.exit(0);
  }
  const number = option === undefined ? 0 : Number(value);
  const known = option === undefined || option === "--port";
  if (!known || !Number.isInteger(number) || number < 0 || number > 65535 || rest.length > 0) {
    console.error("usage: server.js [--port 0..65535] | --version");
    process.exit(2);
  }
  return number;
})();

// The subscribers of each channel.
const channels = new Map();
let offset = 0;

// What ringwire sends its subscribers, so that as many bytes are on the wire.
function envelope(channel, data) {
  offset += 1;
  const [name, value] = [JSON.stringify(channel), JSON.stringify(data)];
  const timestamp = Date.now() / 1000;
  return `{"type":"message","channel":${name},"from":null,"data":${value},"offset":${offset},"timestamp":${timestamp}}`;
}

function subscribe(ws, channel) {
  let subscribers = channels.get(channel);
  if (subscribers === undefined) {
    subscribers = new Set();
    channels.set(channel, subscribers);
  }
  subscribers.add(ws);
  ws.on("close", () => subscribers.delete(ws));
}

function publish(channel, data) {
  // Encoded once: a string would be turned into bytes for each subscriber again.
  const message = Buffer.from(envelope(channel, data));
  for (const subscriber of channels.get(channel) ?? []) {
    if (subscriber.readyState === WebSocket.OPEN) {
      subscriber.send(message, { binary: false });
    }
  }
}

function command(ws, message) {
  const { type, channel, data, id } = JSON.parse(message);
  if (type === "subscribe") {
    subscribe(ws, channel);
    ws.send(JSON.stringify({ type: "subscribed", channel, id, offset, epoch: 1 }));
  } else if (type === "publish") {
    publish(channel, data);
  } else {
    ws.close(1008, "subscribe or publish");
  }
}

// One function for all connections, so that none keeps one of its own.
function echo(data, isBinary) {
  this.send(data, { binary: isBinary });
}

function channelMessage(data) {
  command(this, data);
}

// A client that ends with a reset is no reason to end the server.
function ignore() {}

const server = new WebSocketServer({
  host: "127.0.0.1",
  port,
  perMessageDeflate: false,
  // Nothing here walks all clients.
  clientTracking: false,
  verifyClient: ({ req }, done) => done(req.url === "/echo" || req.url === "/ws", 404),
});

server.on("connection", (ws, request) => {
  ws.on("error", ignore);
  ws.on("message", request.url === "/echo" ? echo : channelMessage);
});

server.on("listening", () => {
  console.log(`listening on ws://127.0.0.1:${server.address().port}/echo`);
});

process.on("SIGUSR2", () => globalThis.gc());
