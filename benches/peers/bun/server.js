// Bun as a peer of scripts/compare: `/echo`, and channels on `/ws`, each in Bun's own way (its pub/sub).
//
//   bun server.js [--port N]   listens on 127.0.0.1; without a port, on a free one
//   bun server.js --version    says what is compared
//
// SIGUSR2 collects garbage, so that memory can be read without it.

const { port } = (() => {
  const [option, value, ...rest] = process.argv.slice(2);
  if (option === "--version" && value === undefined) {
    console.log(`Bun ${Bun.version}`);
    process.exit(0);
  }
  const number = option === undefined ? 0 : Number(value);
  const known = option === undefined || option === "--port";
  if (!known || !Number.isInteger(number) || number < 0 || number > 65535 || rest.length > 0) {
    console.error("usage: server.js [--port 0..65535] | --version");
    process.exit(2);
  }
  return { port: number };
})();

// What a connection is for; one object for all of them.
const ECHO = { path: "/echo" };
const CHANNELS = { path: "/ws" };

let offset = 0;

// What ringwire sends its subscribers, so that as many bytes are on the wire.
function envelope(channel, data) {
  offset += 1;
  const [name, value] = [JSON.stringify(channel), JSON.stringify(data)];
  const timestamp = Date.now() / 1000;
  return `{"type":"message","channel":${name},"from":null,"data":${value},"offset":${offset},"timestamp":${timestamp}}`;
}

function command(ws, message) {
  const { type, channel, data, id } = JSON.parse(message);
  if (type === "subscribe") {
    ws.subscribe(channel);
    ws.send(JSON.stringify({ type: "subscribed", channel, id, offset, epoch: 1 }));
  } else if (type === "publish") {
    server.publish(channel, envelope(channel, data));
  } else {
    ws.close(1008, "subscribe or publish");
  }
}

const server = Bun.serve({
  hostname: "127.0.0.1",
  port,
  // Without this, errors are rendered for developers.
  development: false,
  fetch(request, server) {
    const echo = request.url.endsWith("/echo");
    if (!echo && !request.url.endsWith("/ws")) {
      return new Response("try /echo or /ws\n", { status: 404 });
    }
    if (server.upgrade(request, { data: echo ? ECHO : CHANNELS })) {
      return undefined;
    }
    return new Response("this is for WebSockets\n", { status: 400 });
  },
  websocket: {
    perMessageDeflate: false,
    message(ws, message) {
      if (ws.data === ECHO) {
        ws.send(message);
      } else {
        command(ws, message);
      }
    },
  },
});

process.on("SIGUSR2", () => Bun.gc(true));
console.log(`listening on ws://127.0.0.1:${server.port}/echo`);
