// Talks to a ringwire server in MessagePack, through npm's `@msgpack/msgpack` and `ws`, beside clients
// that speak JSON.
//
// usage: RINGWIRE_URL=ws://127.0.0.1:9000/ws node msgpack_client.js
//
// The server must keep a history of every channel, have presence with events in them, believe X-User-ID
// from here, and let users send to everyone. RINGWIRE_PID, if set, is its process: the last test ends it
// with SIGTERM. Prints each test and `N passed, N failed`; exits with 1 when one failed. Channels carry
// a random suffix, so the server may be one that others use.
'use strict';

const assert = require('node:assert/strict');
const { randomBytes } = require('node:crypto');
const { decode, encode, ExtData } = require('@msgpack/msgpack');

const { Connection, channel, main } = require('./harness.js');

const JSON_FORM = {
  protocol: 'ringwire.json.v1',
  pack: (frame) => JSON.stringify(frame),
  unpack(data, binary) {
    assert.ok(!binary, 'expected a text message');
    return JSON.parse(data);
  },
};
const MSGPACK_FORM = {
  protocol: 'ringwire.msgpack.v1',
  pack: (frame) => encode(frame),
  unpack(data, binary) {
    assert.ok(binary, 'expected a binary message');
    // Not from a Buffer, or binary data would be Buffers, too.
    return decode(new Uint8Array(data));
  },
};

// One connection; what it is sent must come in its own form.
class Client extends Connection {
  static async open(form, user) {
    const client = new Client();
    client.form = form;
    await client.open([form.protocol], { headers: user ? { 'X-User-ID': user } : {} });
    assert.equal(client.ws.protocol, form.protocol);
    return client;
  }
  send(frame) {
    this.ws.send(this.form.pack(frame));
  }
  async receive() {
    return this.form.unpack(...(await this.next()));
  }
  ask(frame) {
    this.send(frame);
    return this.receive();
  }
  async subscribe(channel, fields = {}) {
    const answer = await this.ask({ type: 'subscribe', channel, ...fields });
    assert.deepEqual([answer.type, answer.channel], ['subscribed', channel]);
    return answer;
  }
  async publish(channel, data, fields = {}) {
    const answer = await this.ask({ type: 'publish', channel, data, id: 'p', echo: false, ...fields });
    assert.deepEqual([answer.type, answer.id], ['response', 'p']);
    return answer.data.offset;
  }
  async kept(channel) {
    const answer = await this.ask({ type: 'history', channel, id: 'h' });
    assert.deepEqual([answer.type, answer.id], ['response', 'h']);
    return answer.data.messages;
  }
  async isAlive() {
    assert.deepEqual(await this.ask({ type: 'ping' }), { type: 'pong' });
  }
}

const same = (data) => [data, data];
// What is said in MessagePack, and what JSON makes of it.
const FROM_MSGPACK = [
  same(null),
  same([true, false, 0, 127, 128, -1, -129, Number.MAX_SAFE_INTEGER, 1.5, 1e300, 0.1]),
  same('grüße 🦦'),
  same({ a: [1, { b: null }] }),
  same(Array.from({ length: 1000 }, (_, n) => n)),
  [Uint8Array.of(0, 255), { $base64: 'AP8=' }],
  [{ picture: new Uint8Array() }, { picture: { $base64: '' } }],
  [new ExtData(5, Uint8Array.of(1)), { $ext: [5, 'AQ=='] }],
  [new Date(1000), { $ext: [-1, 'AAAAAQ=='] }],
];
// What is said in JSON, and what MessagePack makes of it.
const FROM_JSON = [
  same(null),
  same([true, 0, -1, Number.MAX_SAFE_INTEGER, 1.5]),
  same('grüße 🦦'),
  same({ a: [1, { b: null }], c: {} }),
  same(Object.fromEntries(Array.from({ length: 1000 }, (_, n) => [`n${n}`, [n]]))),
  [{ $base64: 'AP8=' }, Uint8Array.of(0, 255)],
  same({ $base64: 'AP8' }),
  same({ $base64: 'AP8=', name: 'x' }),
  [{ $ext: [5, 'AQ=='] }, new ExtData(5, Uint8Array.of(1))],
  [[{ $ext: [-1, 'AAAAAQ=='] }], [new Date(1000)]],
];

const tests = {
  async 'connect says who we are'() {
    const client = await Client.open(MSGPACK_FORM, '42');
    const { connection_id, ping_interval_ms, ...answer } = await client.ask({ type: 'connect', id: 'me' });
    assert.deepEqual(answer, { type: 'connect', id: 'me', user_id: '42' });
    assert.ok(typeof connection_id === 'string' && connection_id);
    assert.ok(Number.isSafeInteger(ping_interval_ms));
  },

  async 'ids come back as they were'() {
    const name = channel('ids');
    const client = await Client.open(MSGPACK_FORM);
    for (const id of ['a', '', 'ünï', 0, 7, -3, Number.MAX_SAFE_INTEGER]) {
      assert.equal((await client.subscribe(name, { id })).id, id);
      const answer = await client.ask({ type: 'publish', channel: name, data: 1, id, echo: false });
      assert.deepEqual([answer.type, answer.id, answer.data.published], ['response', id, true]);
    }
    // What is undefined here is nil there.
    assert.ok(!('id' in (await client.subscribe(name, { id: undefined }))));
  },

  async 'errors leave the connection open'() {
    const client = await Client.open(MSGPACK_FORM);
    for (const [bytes, code] of [
      [Buffer.alloc(0), 'invalid_msgpack'],
      [Buffer.from('{"type":"ping"}'), 'invalid_msgpack'],
      [encode({ type: 'ping' }).subarray(0, -1), 'invalid_msgpack'],
      [encode('ping'), 'invalid_message'],
      [encode({ type: 7 }), 'invalid_message'],
      [encode({ type: 'publish', data: 1 }), 'invalid_message'],
      [encode({ type: 'subscribe', channel: null }), 'invalid_message'],
      [encode({ type: 'ping', id: 1.5 }), 'invalid_message'],
      [encode({ type: 'Ping' }), 'unknown_type'],
      [encode({ type: 'auth', token: 't' }), 'not_available'],
    ]) {
      client.ws.send(bytes);
      const answer = await client.receive();
      assert.deepEqual([answer.type, answer.code], ['error', code]);
      assert.ok(typeof answer.error === 'string' && answer.error);
    }
    client.ws.send('{"type":"ping"}');
    assert.equal((await client.receive()).code, 'unsupported_data');
    assert.equal((await client.ask({ type: 'dance', id: 'step' })).id, 'step');
    await client.isAlive();
  },

  async 'history in both forms'() {
    for (const [said, own, other] of [
      [FROM_MSGPACK, MSGPACK_FORM, JSON_FORM],
      [FROM_JSON, JSON_FORM, MSGPACK_FORM],
    ]) {
      const name = channel('history');
      const [speaks, hears] = [await Client.open(own), await Client.open(other)];
      for (const [data] of said) await speaks.publish(name, data, { key: 'k' });
      const [first, second] = [await speaks.kept(name), await hears.kept(name)];
      said.forEach(([data, mapped], at) => {
        for (const [entry, expected] of [[first[at], data], [second[at], mapped]]) {
          const { timestamp, ...message } = entry;
          assert.equal(typeof timestamp, 'number');
          assert.deepEqual(message, { from: null, data: expected, offset: at + 1, key: 'k' });
        }
      });
    }
  },

  async 'two forms talk'() {
    for (const [said, own, other] of [
      [FROM_MSGPACK, MSGPACK_FORM, JSON_FORM],
      [FROM_JSON, JSON_FORM, MSGPACK_FORM],
    ]) {
      const name = channel('talk');
      const [speaks, hears] = [await Client.open(own, '7'), await Client.open(other)];
      await hears.subscribe(name);
      await speaks.subscribe(name);
      for (const client of [hears, speaks]) {
        assert.deepEqual(await client.receive(), { type: 'join', channel: name, user_id: '7' });
      }
      let offset = 0;
      for (const [data, mapped] of said) {
        offset += 1;
        speaks.send({ type: 'publish', channel: name, data });
        for (const [client, expected] of [[speaks, data], [hears, mapped]]) {
          const { timestamp, ...message } = await client.receive();
          assert.equal(typeof timestamp, 'number');
          assert.deepEqual(message, { type: 'message', channel: name, from: '7', data: expected, offset });
        }
      }
    }
  },

  async 'batches and keys'() {
    const name = channel('batch');
    const [batched, speaks] = [await Client.open(MSGPACK_FORM), await Client.open(JSON_FORM)];
    await batched.subscribe(name, { batch: true });
    for (let n = 0; n < 50; n += 1) {
      speaks.send({ type: 'publish', channel: name, data: n, key: `k${n % 2}` });
    }
    const messages = [];
    while (messages.length < 50) {
      const frame = await batched.receive();
      assert.ok(['message', 'messages'].includes(frame.type), frame.type);
      messages.push(...(frame.type === 'messages' ? frame.messages : [frame]));
    }
    assert.deepEqual(messages.map(({ data }) => data), Array.from({ length: 50 }, (_, n) => n));
    assert.ok(messages.every(({ key, data }) => key === `k${data % 2}`));
  },

  async 'direct messages and broadcasts'() {
    const user = `u-${randomBytes(6).toString('hex')}`;
    const [packed, text] = [await Client.open(MSGPACK_FORM, user), await Client.open(JSON_FORM, user)];
    text.send({ type: 'direct', to: user, data: { $base64: 'AP8=' } });
    assert.deepEqual(await packed.receive(), { type: 'direct', from: user, data: Uint8Array.of(0, 255) });
    assert.deepEqual(await text.receive(), { type: 'direct', from: user, data: { $base64: 'AP8=' } });
    text.send({ type: 'broadcast', data: [1] });
    assert.deepEqual(await packed.receive(), { type: 'broadcast', from: user, data: [1] });
  },
};

async function shutdown(pid) {
  const clients = [await Client.open(MSGPACK_FORM), await Client.open(MSGPACK_FORM)];
  for (const client of clients) await client.isAlive();
  process.kill(pid, 'SIGTERM');
  for (const client of clients) {
    const { type, code, reconnect } = await client.receive();
    assert.deepEqual([type, code, reconnect], ['disconnect', 1001, true]);
    assert.equal((await client.closed())[0], 1001);
  }
}

main(tests, shutdown);
