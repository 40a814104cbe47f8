"""Talks to a ringwire server through Python's `websockets`.

usage: RINGWIRE_URL=ws://127.0.0.1:9000/ws python websockets_client.py

RINGWIRE_PID, if set, is the server's process: the last test ends it with SIGTERM. Prints each test
and `N passed, N failed`; exits with 1 when one failed. Channels carry a random suffix, so the server
may be one that others use.
"""

import json
import os
import signal
import socket
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.sync.client import connect

from harness import PATIENCE_S, PID, URL, channel, equal, main, test

MESSAGE_BYTES = 1 << 20
SUBPROTOCOL = "ringwire.json.v1"


class Client:
    """One connection that speaks JSON."""

    def __init__(self, **options):
        options.setdefault("compression", None)
        opening = connect(URL, proxy=None, open_timeout=PATIENCE_S, close_timeout=PATIENCE_S, max_size=None, **options)
        self.ws = opening.__enter__()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ws.close()

    def send(self, **frame):
        self.ws.send(json.dumps(frame))

    def receive(self):
        """The next frame, which must be text."""
        text = self.ws.recv(timeout=PATIENCE_S)
        assert isinstance(text, str), f"expected a text message, got {text!r}"
        return json.loads(text)

    def ask(self, **frame):
        self.send(**frame)
        return self.receive()

    def subscribe(self, channel):
        answer = self.ask(type="subscribe", channel=channel)
        equal((answer["type"], answer["channel"]), ("subscribed", channel))
        return answer

    def is_alive(self):
        equal(self.ask(type="ping"), {"type": "pong"})

    def closed(self):
        """Reads on until the server has closed; the close code and the reason."""
        try:
            while True:
                self.ws.recv(timeout=PATIENCE_S)
        except ConnectionClosed as closed:
            frame = closed.rcvd
            return (frame.code, frame.reason) if frame else (1006, "")


@test
def connects_without_a_subprotocol():
    with Client() as client:
        equal(client.ws.subprotocol, None)
        client.is_alive()


@test
def connects_with_the_subprotocol_and_a_compression_offer():
    with Client(subprotocols=["unheard-of.v9", SUBPROTOCOL], compression="deflate") as client:
        equal(client.ws.subprotocol, SUBPROTOCOL)
        client.is_alive()


@test
def connect_says_who_we_are():
    with Client() as client:
        answer = client.ask(type="connect", id="me")
        equal((answer["type"], answer["id"], answer["user_id"]), ("connect", "me", None))
        assert isinstance(answer["connection_id"], str) and answer["connection_id"]
        assert isinstance(answer["ping_interval_ms"], int)


@test
def two_clients_talk():
    name = channel("talk")
    with Client() as one, Client() as two:
        first, second = one.subscribe(name), two.subscribe(name)
        equal((first["offset"], second["offset"]), (0, 0))
        equal(first["epoch"], second["epoch"])
        for number, sender in enumerate([one, two, one], start=1):
            data = {"text": f"grüße {number}", "n": [number, None, True]}
            sender.send(type="publish", channel=name, data=data)
            for receiver in (one, two):
                message = receiver.receive()
                assert isinstance(message.pop("timestamp"), (int, float))
                equal(message, {"type": "message", "channel": name, "from": None, "data": data, "offset": number})


@test
def message_is_another_word_for_publish():
    name = channel("word")
    with Client() as client:
        client.subscribe(name)
        equal(client.ask(type="message", channel=name, data="x")["data"], "x")


@test
def ids_come_back_as_they_were():
    name = channel("ids")
    with Client() as client:
        for given in ["a", "", "ünï", 0, 7, -3, 9007199254740993]:
            equal(client.ask(type="subscribe", channel=name, id=given)["id"], given)
            answer = client.ask(type="publish", channel=name, data=1, id=given, echo=False)
            equal((answer["type"], answer["id"], answer["data"]["published"]), ("response", given, True))
        assert "id" not in client.ask(type="subscribe", channel=name, id=None)


@test
def echo_false_sends_no_copy_to_the_publisher():
    name = channel("echo")
    with Client() as one, Client() as two:
        one.subscribe(name), two.subscribe(name)
        answer = one.ask(type="publish", channel=name, data="quiet", id=1, echo=False)
        equal(answer, {"type": "response", "id": 1, "data": {"published": True, "offset": 1}})
        one.is_alive()
        equal((two.receive()["data"]), "quiet")


@test
def unsubscribed_means_silence():
    name = channel("leave")
    with Client() as one, Client() as two:
        one.subscribe(name), two.subscribe(name)
        equal(one.ask(type="unsubscribe", channel=name, id=5), {"type": "unsubscribed", "channel": name, "id": 5})
        two.send(type="publish", channel=name, data="after")
        equal(two.receive()["data"], "after")
        one.is_alive()
        equal(one.ask(type="unsubscribe", channel=name, id=6)["code"], "not_subscribed")


@test
def errors_leave_the_connection_open():
    with Client() as client:
        for text, code in [
            ("", "invalid_json"),
            ("{", "invalid_json"),
            ('{"type":"ping"} x', "invalid_json"),
            ("[]", "invalid_message"),
            ("{}", "invalid_message"),
            ('{"type":"subscribe"}', "invalid_message"),
            ('{"type":"subscribe","channel":""}', "invalid_message"),
            ('{"type":"subscribe","channel":7}', "invalid_message"),
            ('{"type":"publish","channel":"c"}', "invalid_message"),
            ('{"type":"subscribe","channel":"%s"}' % ("c" * 256), "invalid_message"),
            ('{"type":"ping","id":[1]}', "invalid_message"),
            ('{"type":"dance"}', "unknown_type"),
            ('{"type":"presence","channel":"c","id":1}', "not_available"),
            ('{"type":"direct","to":"42","data":1}', "forbidden"),
            ('{"type":"history","channel":"c","since":5}', "invalid_message"),
        ]:
            client.ws.send(text)
            answer = client.receive()
            equal((text, answer["type"], answer.get("code")), (text, "error", code))
            assert isinstance(answer["error"], str) and answer["error"]
        equal(client.ask(type="dance", id="step")["id"], "step")
        client.is_alive()


@test
def binary_is_unsupported_data():
    with Client() as client:
        client.ws.send(b'{"type":"ping"}')
        equal(client.receive()["code"], "unsupported_data")
        client.is_alive()


@test
def the_largest_message_passes_and_a_larger_one_closes_with_1009():
    name = channel("big")
    with Client() as client:
        client.subscribe(name)
        shell = json.dumps({"type": "publish", "channel": name, "data": ""})
        data = "x" * (MESSAGE_BYTES - len(shell))
        client.send(type="publish", channel=name, data=data)
        equal(len(client.receive()["data"]), len(data))
        try:
            client.send(type="publish", channel=name, data=data + "x")
        except ConnectionClosed:
            pass  # closed before all of it was sent
        equal(client.closed()[0], 1009)


@test
def pings_are_answered_with_their_payload():
    with Client() as client:
        for payload in [b"", b"x", bytes(range(125))]:
            assert client.ws.ping(payload).wait(PATIENCE_S), f"no pong for {payload!r}"
        client.is_alive()
        client.send(type="pong")
        client.is_alive()


@test
def fragments_make_one_message():
    name = channel("fragments")
    with Client() as client:
        client.subscribe(name)
        text = json.dumps({"type": "publish", "channel": name, "data": "stück für stück"}, ensure_ascii=False)
        client.ws.send(iter(list(text)))
        equal(client.receive()["data"], "stück für stück")

        def with_a_ping_between():
            yield text[:9]
            client.ws.ping(b"between")
            yield ""
            yield text[9:]

        client.ws.send(with_a_ping_between())
        equal(client.receive()["offset"], 2)


@test
def close_codes_are_answered():
    for code in [1000, 1001, 3000, 4999]:
        client = Client()
        client.ws.close(code, "bye")
        equal((client.ws.state, client.ws.close_code), (State.CLOSED, code))
        equal(client.ws.protocol.close_rcvd.code, code)


@test
def a_lost_connection_takes_its_subscription_along():
    name = channel("lost")
    with Client() as stays:
        stays.subscribe(name)
        for _ in range(3):
            goes = Client()
            goes.subscribe(name)
            goes.ws.socket.shutdown(socket.SHUT_RDWR)
            goes.closed()
        stays.send(type="publish", channel=name, data=1)
        equal(stays.receive()["offset"], 1)


@test
def plain_requests_are_answered():
    parts = urlsplit(URL)
    for path, status in [("/healthz", b"200"), ("/nowhere", b"404"), ("/ws", b"426")]:
        with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S) as plain:
            plain.sendall(b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path.encode(), parts.netloc.encode()))
            answer = b""
            while chunk := plain.recv(65536):
                answer += chunk
        equal((path, answer.split(b" ", 2)[1]), (path, status))


def server_shutdown_closes_with_1001():
    clients = [Client() for _ in range(3)]
    for client in clients:
        client.is_alive()
    os.kill(int(PID), signal.SIGTERM)
    for client in clients:
        equal(client.closed(), (1001, "server shutting down"))


if __name__ == "__main__":
    main(server_shutdown_closes_with_1001)
