"""Talks to a ringwire server in MessagePack, through Python's `msgpack` and `websockets`, beside clients
that speak JSON.

usage: RINGWIRE_URL=ws://127.0.0.1:9000/ws python msgpack_client.py

The server must keep a history of every channel, have presence with events in them, believe X-User-ID from
here, and let users send to everyone. RINGWIRE_PID, if set, is its process: the last test ends it with
SIGTERM. Prints each test and `N passed, N failed`; exits with 1 when one failed. Channels carry a random
suffix, so the server may be one that others use.
"""

import datetime
import json
import math
import os
import secrets
import signal
import time

import msgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from harness import PATIENCE_S, PID, URL, channel, equal, main, test

MSGPACK = "ringwire.msgpack.v1"
JSON = "ringwire.json.v1"


class Client:
    """One connection; what it is sent must come in its own form."""

    protocol = None

    def __init__(self, user=None):
        headers = {"X-User-ID": user} if user else None
        opening = connect(
            URL,
            proxy=None,
            compression=None,
            open_timeout=PATIENCE_S,
            close_timeout=PATIENCE_S,
            max_size=None,
            additional_headers=headers,
            subprotocols=[self.protocol],
        )
        self.ws = opening.__enter__()
        equal(self.ws.subprotocol, self.protocol)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ws.close()

    def send(self, **frame):
        self.ws.send(self.pack(frame))

    def receive(self):
        return self.unpack(self.ws.recv(timeout=PATIENCE_S))

    def ask(self, **frame):
        self.send(**frame)
        return self.receive()

    def subscribe(self, channel, **fields):
        answer = self.ask(type="subscribe", channel=channel, **fields)
        equal((answer["type"], answer["channel"]), ("subscribed", channel))
        return answer

    def published(self, channel, data, **fields):
        """Publishes, and returns the offset that the server answers with."""
        answer = self.ask(type="publish", channel=channel, data=data, id="p", echo=False, **fields)
        equal((answer["type"], answer.get("id")), ("response", "p"))
        return answer["data"]["offset"]

    def kept(self, channel):
        answer = self.ask(type="history", channel=channel, id="h")
        equal((answer["type"], answer["id"]), ("response", "h"))
        return answer["data"]["messages"]

    def messages(self, count):
        """The next messages, which may come one by one or several at a time."""
        messages = []
        while len(messages) < count:
            frame = self.receive()
            assert frame["type"] in ("message", "messages"), frame
            messages += frame["messages"] if frame["type"] == "messages" else [frame]
        equal(len(messages), count)
        return messages

    def is_alive(self):
        equal(self.ask(type="ping"), {"type": "pong"})


class Json(Client):
    protocol = JSON

    def pack(self, frame):
        return json.dumps(frame)

    def unpack(self, message):
        assert isinstance(message, str), f"expected a text message, got {message!r}"
        return json.loads(message)


class Packed(Client):
    protocol = MSGPACK

    def pack(self, frame):
        return msgpack.packb(frame)

    def unpack(self, message):
        assert isinstance(message, bytes), f"expected a binary message, got {message!r}"
        return msgpack.unpackb(message, strict_map_key=False)


# What is said in MessagePack, and what JSON makes of it.
FROM_MSGPACK = [
    (None, None),
    ([True, False, 0, 127, 128, -1, -129, 2**64 - 1, -(2**63)],) * 2,
    ([1.5, 1e300, 0.1],) * 2,
    ("grüße 🦦",) * 2,
    ({"a": [1, {"b": None}]},) * 2,
    (list(range(1000)),) * 2,
    (b"\x00\xff", {"$base64": "AP8="}),
    ({"picture": b""}, {"picture": {"$base64": ""}}),
    ({1: "one", -1: "minus"}, {"1": "one", "-1": "minus"}),
    (msgpack.ExtType(5, b"xy"), {"$ext": [5, "eHk="]}),
    (msgpack.Timestamp(1, 0), {"$ext": [-1, "AAAAAQ=="]}),
    ([math.inf, math.nan], [None, None]),
]
# What is said in JSON, and what MessagePack makes of it.
FROM_JSON = [
    (None, None),
    ([True, 0, -1, 2**53, 2**64 - 1, -(2**63), 1.5],) * 2,
    ("grüße 🦦",) * 2,
    ({"a": [1, {"b": None}], "c": {}},) * 2,
    ({str(n): [n] for n in range(1000)},) * 2,
    ({"$base64": "AP8="}, b"\x00\xff"),
    ({"$base64": "AP8"}, {"$base64": "AP8"}),
    ({"$base64": "AP8=", "name": "x"}, {"$base64": "AP8=", "name": "x"}),
    ({"$ext": [5, "eHk="]}, msgpack.ExtType(5, b"xy")),
    ([{"$ext": [-1, "AAAAAQ=="]}], [msgpack.Timestamp(1, 0)]),
    (2**70, float(2**70)),
]


@test
def connect_says_who_we_are():
    with Packed(user="42") as client:
        answer = client.ask(type="connect", id="me")
        equal((answer["type"], answer["id"], answer["user_id"]), ("connect", "me", "42"))
        assert isinstance(answer["connection_id"], str) and answer["connection_id"]
        assert isinstance(answer["ping_interval_ms"], int)


@test
def ids_come_back_as_they_were():
    name = channel("ids")
    with Packed() as client:
        for given in ["a", "", "ünï", 0, 7, -3, 2**63, -(2**63), 2**64 - 1]:
            equal(client.subscribe(name, id=given)["id"], given)
            answer = client.ask(type="publish", channel=name, data=1, id=given, echo=False)
            equal((answer["type"], answer["id"], answer["data"]["published"]), ("response", given, True))
            equal(client.ask(type="dance", id=given)["id"], given)
        assert "id" not in client.ask(type="subscribe", channel=name, id=None)


@test
def errors_leave_the_connection_open():
    with Packed() as client:
        for message, code in [
            (b"", "invalid_msgpack"),
            (b'{"type":"ping"}', "invalid_msgpack"),
            (msgpack.packb({"type": "ping"})[:-1], "invalid_msgpack"),
            (msgpack.packb({"type": "ping"}) + b"\x00", "invalid_msgpack"),
            (b"\xdd\xff\xff\xff\xff", "invalid_msgpack"),
            (msgpack.packb([]), "invalid_message"),
            (msgpack.packb({}), "invalid_message"),
            (msgpack.packb({"type": "subscribe"}), "invalid_message"),
            (msgpack.packb({"type": "subscribe", "channel": b"bin"}), "invalid_message"),
            (msgpack.packb({"type": "publish", "channel": "c"}), "invalid_message"),
            (msgpack.packb({"type": "publish", "channel": "c", "data": {None: 1}}), "invalid_message"),
            (msgpack.packb({"type": "publish", "channel": "c", "data": {(1, 2): 1}}), "invalid_message"),
            (msgpack.packb({"type": "publish", "channel": "c", "data": 1, "key": ""}), "invalid_message"),
            (b"\x83\xa4type\xa7publish\xa7channel\xa1c\xa4data\xa1\xff", "invalid_message"),
            (msgpack.packb({"type": "ping", "id": 1.5}), "invalid_message"),
            (msgpack.packb({"type": "dance"}), "unknown_type"),
            (msgpack.packb({"type": "direct", "to": "42", "data": 1}), "forbidden"),
        ]:
            client.ws.send(message)
            answer = client.receive()
            equal((message, answer["type"], answer.get("code")), (message, "error", code))
            assert isinstance(answer["error"], str) and answer["error"]
        client.ws.send('{"type":"ping"}')
        equal(client.receive()["code"], "unsupported_data")
        client.is_alive()
    with Json() as client:
        client.ws.send(msgpack.packb({"type": "ping"}))
        equal(client.receive()["code"], "unsupported_data")


@test
def history_in_both_forms():
    for said, speaker, hearer in [(FROM_MSGPACK, Packed, Json), (FROM_JSON, Json, Packed)]:
        name = channel("history")
        with speaker() as speaks, hearer() as hears:
            for number, (data, _) in enumerate(said, start=1):
                equal(speaks.published(name, data, key=f"k{number}"), number)
            own, others = speaks.kept(name), hears.kept(name)
            for number, (data, mapped) in enumerate(said, start=1):
                for message, expected in [(own[number - 1], data), (others[number - 1], mapped)]:
                    assert isinstance(message.pop("timestamp"), float)
                    # A NaN is not equal to itself.
                    equal(repr(message.pop("data")), repr(expected))
                    equal(message, {"from": None, "offset": number, "key": f"k{number}"})


@test
def who_is_there():
    name = channel("presence")
    with Packed(user="42") as one, Packed(user="42") as two, Json() as three, Packed() as asks:
        for client in (one, two, three):
            client.subscribe(name)
        # Others are counted a moment later.
        counts, deadline = {}, time.monotonic() + PATIENCE_S
        while counts.get("connections") != 3:
            assert time.monotonic() < deadline, counts
            counts = asks.ask(type="presence_stats", channel=name, id="stats")["data"]
        equal(counts, {"users": 1, "anonymous": 1, "connections": 3})
        members = [{"user_id": "42", "connections": 2}]
        answer = asks.ask(type="presence", channel=name, id="who")
        equal(answer, {"type": "response", "id": "who", "data": {**counts, "members": members, "next": None}})


@test
def two_forms_talk():
    for said, speaker, hearer in [(FROM_MSGPACK, Packed, Json), (FROM_JSON, Json, Packed)]:
        name = channel("talk")
        with speaker(user="7") as speaks, hearer() as hears:
            for client in (hears, speaks):
                client.subscribe(name)
            for client in (hears, speaks):
                equal(client.receive(), {"type": "join", "channel": name, "user_id": "7"})
            for number, (data, mapped) in enumerate(said, start=1):
                speaks.send(type="publish", channel=name, data=data)
                for client, expected in ((speaks, data), (hears, mapped)):
                    message = client.receive()
                    assert isinstance(message.pop("timestamp"), float)
                    equal(repr(message.pop("data")), repr(expected))
                    equal(message, {"type": "message", "channel": name, "from": "7", "offset": number})


@test
def batches_and_keys():
    name = channel("batch")
    with Packed() as plain, Packed() as batched, Json() as speaks:
        plain.subscribe(name)
        batched.subscribe(name, batch=True)
        for number in range(50):
            speaks.send(type="publish", channel=name, data=number, key=f"k{number % 2}")
        for client in (plain, batched):
            messages = client.messages(50)
            equal([message["data"] for message in messages], list(range(50)))
            equal([message["offset"] for message in messages], list(range(1, 51)))
            equal([message["key"] for message in messages], ["k0", "k1"] * 25)


@test
def what_was_missed_is_recovered():
    name = channel("recover")
    with Packed() as speaks:
        for number in range(1, 6):
            speaks.published(name, {"n": number, "raw": b"\x01"})
        for client, raw in ((Packed(), b"\x01"), (Json(), {"$base64": "AQ=="})):
            with client:
                epoch = client.ask(type="history", channel=name)["data"]["epoch"]
                answer = client.subscribe(name, recover={"offset": 2, "epoch": epoch})
                equal((answer["offset"], answer["recovered"]), (5, True))
                missed = [(message["offset"], message["data"]) for message in client.messages(3)]
                equal(missed, [(number, {"n": number, "raw": raw}) for number in range(3, 6)])


@test
def direct_messages_and_broadcasts():
    user = f"u-{secrets.token_hex(6)}"
    with Packed(user=user) as packed, Json(user=user) as text:
        for client in (packed, text):
            client.is_alive()
        packed.send(type="direct", to=user, data=b"psst", id=1)
        frames = [packed.receive(), packed.receive()]
        answer = next(frame for frame in frames if frame["type"] == "response")
        equal(answer, {"type": "response", "id": 1, "data": {"connections": 2}})
        heard = next(frame for frame in frames if frame["type"] == "direct")
        equal(heard, {"type": "direct", "from": user, "data": b"psst"})
        equal(text.receive(), {"type": "direct", "from": user, "data": {"$base64": "cHNzdA=="}})
        text.send(type="broadcast", data={"$base64": "cHNzdA=="})
        equal(packed.receive(), {"type": "broadcast", "from": user, "data": b"psst"})


@test
def timestamps_are_times():
    name = channel("time")
    with Packed() as client:
        client.published(name, 1)
        (message,) = client.kept(name)
        then = datetime.datetime.fromtimestamp(message["timestamp"], datetime.timezone.utc)
        now = datetime.datetime.now(datetime.timezone.utc)
        assert abs((now - then).total_seconds()) < 60, message


def server_shutdown_is_told_in_msgpack():
    clients = [Packed() for _ in range(3)]
    for client in clients:
        client.is_alive()
    os.kill(int(PID), signal.SIGTERM)
    for client in clients:
        frame = client.receive()
        equal((frame["type"], frame["code"], frame["reconnect"]), ("disconnect", 1001, True))
        try:
            client.ws.recv(timeout=PATIENCE_S)
            raise AssertionError("more after the disconnect frame")
        except ConnectionClosed as closed:
            equal(closed.rcvd.code, 1001)


if __name__ == "__main__":
    main(server_shutdown_is_told_in_msgpack)
