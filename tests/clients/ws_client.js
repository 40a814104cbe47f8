// Talks to a ringwire server through npm's `ws`.
//
// usage: RINGWIRE_URL=ws://127.0.0.1:9000/ws node ws_client.js
//
// RINGWIRE_PID, if set, is the server's process: the last test ends it with SIGTERM. Prints each
// test and `N passed, N failed`; exits with 1 when one failed. Channels carry a random suffix, so
// the server may be one that others use.
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const WebSocket = require('ws');

const { Connection, channel, main, patiently, url } = require('./harness.js');

const MESSAGE_BYTES = 1 << 20;
const SUBPROTOCOL = 'ringwire.json.v1';

// One connection that speaks JSON.
class Client extends Connection {
  static open(...protocols) {
    return new Client().open(protocols);
  }
  send(frame) {
    this.ws.send(JSON.stringify(frame));
  }
  async receive() {
    const [data, binary] = await this.next();
    return binary ? { binary: data } : JSON.parse(data);
  }
  ask(frame) {
    this.send(frame);
    return this.receive();
  }
  async subscribe(channel) {
    const answer = await this.ask({ type: 'subscribe', channel });
    assert.deepEqual([answer.type, answer.channel], ['subscribed', channel]);
    return answer;
  }
  async isAlive() {
    assert.deepEqual(await this.ask({ type: 'ping' }), { type: 'pong' });
  }
}

const tests = {
  async 'connects without a subprotocol'() {
    const client = await Client.open();
    assert.equal(client.ws.protocol, '');
    await client.isAlive();
  },

  async 'connects with the subprotocol and a compression offer'() {
    const client = await Client.open('unheard-of.v9', SUBPROTOCOL);
    assert.equal(client.ws.protocol, SUBPROTOCOL);
    await client.isAlive();
    const offers = new WebSocket(url, SUBPROTOCOL, { perMessageDeflate: true });
    await patiently(once(offers, 'open'), 'the handshake with an offer');
    assert.equal(offers.extensions, '');
    offers.terminate();
  },

  async 'connect says who we are'() {
    const client = await Client.open();
    const { connection_id, ping_interval_ms, ...answer } = await client.ask({ type: 'connect', id: 'me' });
    assert.deepEqual(answer, { type: 'connect', id: 'me', user_id: null });
    assert.ok(typeof connection_id === 'string' && connection_id);
    assert.ok(Number.isSafeInteger(ping_interval_ms));
  },

  async 'two clients talk'() {
    const name = channel('talk');
    const [one, two] = [await Client.open(), await Client.open()];
    const [first, second] = [await one.subscribe(name), await two.subscribe(name)];
    assert.deepEqual([first.offset, second.offset], [0, 0]);
    assert.equal(first.epoch, second.epoch);
    let offset = 0;
    for (const sender of [one, two, one]) {
      offset += 1;
      const data = { text: `grüße ${offset} 🦦`, n: [offset, null, true] };
      sender.send({ type: 'publish', channel: name, data });
      for (const receiver of [one, two]) {
        const { timestamp, ...message } = await receiver.receive();
        assert.equal(typeof timestamp, 'number');
        assert.deepEqual(message, { type: 'message', channel: name, from: null, data, offset });
      }
    }
  },

  async 'message is another word for publish'() {
    const name = channel('word');
    const client = await Client.open();
    await client.subscribe(name);
    assert.equal((await client.ask({ type: 'message', channel: name, data: 'x' })).data, 'x');
  },

  async 'ids come back as they were'() {
    const name = channel('ids');
    const client = await Client.open();
    for (const id of ['a', '', 'ünï', 0, 7, -3, Number.MAX_SAFE_INTEGER]) {
      assert.equal((await client.ask({ type: 'subscribe', channel: name, id })).id, id);
      const answer = await client.ask({ type: 'publish', channel: name, data: 1, id, echo: false });
      assert.deepEqual([answer.type, answer.id, answer.data.published], ['response', id, true]);
    }
    assert.ok(!('id' in (await client.ask({ type: 'subscribe', channel: name, id: null }))));
  },

  async 'echo: false sends no copy to the publisher'() {
    const name = channel('echo');
    const [one, two] = [await Client.open(), await Client.open()];
    await one.subscribe(name);
    await two.subscribe(name);
    const answer = await one.ask({ type: 'publish', channel: name, data: 'quiet', id: 1, echo: false });
    assert.deepEqual(answer, { type: 'response', id: 1, data: { published: true, offset: 1 } });
    await one.isAlive();
    assert.equal((await two.receive()).data, 'quiet');
  },

  async 'unsubscribed means silence'() {
    const name = channel('leave');
    const [one, two] = [await Client.open(), await Client.open()];
    await one.subscribe(name);
    await two.subscribe(name);
    const left = await one.ask({ type: 'unsubscribe', channel: name, id: 5 });
    assert.deepEqual(left, { type: 'unsubscribed', channel: name, id: 5 });
    two.send({ type: 'publish', channel: name, data: 'after' });
    assert.equal((await two.receive()).data, 'after');
    await one.isAlive();
    assert.equal((await one.ask({ type: 'unsubscribe', channel: name })).code, 'not_subscribed');
  },

  async 'errors leave the connection open'() {
    const client = await Client.open();
    for (const [text, code] of [
      ['', 'invalid_json'],
      ['{"type":"ping"', 'invalid_json'],
      ['{type:"ping"}', 'invalid_json'],
      ['"ping"', 'invalid_message'],
      ['{"type":7}', 'invalid_message'],
      ['{"type":"publish","data":1}', 'invalid_message'],
      ['{"type":"subscribe","channel":null}', 'invalid_message'],
      ['{"type":"ping","id":1.5}', 'invalid_message'],
      ['{"type":"Ping"}', 'unknown_type'],
      ['{"type":"presence","channel":"c","id":1}', 'not_available'],
      ['{"type":"auth","token":"t"}', 'not_available'],
      ['{"type":"broadcast","data":1,"id":1}', 'forbidden'],
    ]) {
      client.ws.send(text);
      const answer = await client.receive();
      assert.deepEqual([text, answer.type, answer.code], [text, 'error', code]);
      assert.ok(typeof answer.error === 'string' && answer.error);
    }
    assert.equal((await client.ask({ type: 'dance', id: 'step' })).id, 'step');
    await client.isAlive();
  },

  async 'binary is unsupported data'() {
    const client = await Client.open();
    client.ws.send(Buffer.from('{"type":"ping"}'));
    assert.equal((await client.receive()).code, 'unsupported_data');
    await client.isAlive();
  },

  async 'the largest message passes and a larger one closes with 1009'() {
    const name = channel('big');
    const client = await Client.open();
    await client.subscribe(name);
    const shell = JSON.stringify({ type: 'publish', channel: name, data: '' }).length;
    const data = 'x'.repeat(MESSAGE_BYTES - shell);
    assert.equal((await client.ask({ type: 'publish', channel: name, data })).data.length, data.length);
    client.send({ type: 'publish', channel: name, data: `${data}x` });
    assert.equal((await client.closed())[0], 1009);
  },

  async 'pings are answered with their payload'() {
    const client = await Client.open();
    for (const payload of [Buffer.alloc(0), Buffer.from('x'), Buffer.alloc(125, 7)]) {
      const pong = once(client.ws, 'pong');
      client.ws.ping(payload);
      assert.deepEqual((await patiently(pong, 'a pong'))[0], payload);
    }
    client.send({ type: 'pong' });
    await client.isAlive();
  },

  async 'fragments make one message'() {
    const name = channel('fragments');
    const client = await Client.open();
    await client.subscribe(name);
    const bytes = Buffer.from(JSON.stringify({ type: 'publish', channel: name, data: 'stück für stück' }));
    // Byte by byte, so that characters are cut in two, with a ping between two fragments.
    const pong = once(client.ws, 'pong');
    bytes.forEach((byte, i) => {
      client.ws.send(Buffer.of(byte), { binary: false, fin: false });
      if (i === 10) client.ws.ping('between');
    });
    client.ws.send(Buffer.alloc(0), { binary: false, fin: true });
    assert.equal((await patiently(pong, 'a pong')).toString(), 'between');
    assert.equal((await client.receive()).data, 'stück für stück');
  },

  async 'close codes are answered'() {
    for (const code of [1000, 1001, 3000, 4999]) {
      const client = await Client.open();
      client.ws.close(code, 'bye');
      assert.equal((await client.closed())[0], code);
    }
    const client = await Client.open();
    client.ws.close();
    assert.equal((await client.closed())[0], 1005);
  },

  async 'a lost connection takes its subscription along'() {
    const name = channel('lost');
    const stays = await Client.open();
    await stays.subscribe(name);
    for (let i = 0; i < 3; i += 1) {
      const goes = await Client.open();
      await goes.subscribe(name);
      goes.ws.terminate();
    }
    assert.equal((await stays.ask({ type: 'publish', channel: name, data: 1 })).offset, 1);
  },

  async 'an unknown path and a plain request get HTTP answers'() {
    const refused = new WebSocket(new URL('/nowhere', url));
    const [, response] = await patiently(once(refused, 'unexpected-response'), 'an answer');
    assert.equal(response.statusCode, 404);
    refused.on('error', () => {});
    refused.terminate();
    const origin = url.replace(/^ws/, 'http');
    for (const [path, status] of [['/healthz', 200], ['/ws', 426], ['/nowhere', 404]]) {
      assert.equal((await fetch(new URL(path, origin))).status, status, path);
    }
  },
};

async function shutdown(pid) {
  const clients = await Promise.all([Client.open(), Client.open(), Client.open()]);
  for (const client of clients) await client.isAlive();
  process.kill(pid, 'SIGTERM');
  for (const client of clients) assert.deepEqual(await client.closed(), [1001, 'server shutting down']);
}

main(tests, shutdown);
