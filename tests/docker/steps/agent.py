"""A stranger's end of the agent carrier, written from its description alone: what a setup.py in a build could do."""

import os
import socket
import struct
import sys

KEY = struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + bytes.fromhex(
    "efcd71b1fbb6218f42f3820553287c7d3087676950bd2d22bef1ed0bdbc3b036"
)
OPEN, FINISH, CLOSE = 1, 2, 4
OK, UNKNOWN, FULL = 0, 1, 2


class Agent:
    """One connection to a mounted socket."""

    def __init__(self, path):
        self.line = socket.socket(socket.AF_UNIX)
        self.line.settimeout(30)
        self.line.connect(path)

    def receive(self, length):
        data = b""
        while len(data) < length:
            some = self.line.recv(length - len(data))
            if not some:
                raise EOFError("the agent hung up")
            data += some
        return data

    def exchange(self, stream, flags=OPEN, data=b"", offset=0, acknowledged=0, wait=1000, want=65536):
        """One exchange: the status, whether it is the end, and the bytes."""
        frame = b"valetkey" + struct.pack(">BBHI", 1, flags, wait, want)
        frame += stream + struct.pack(">QQ", offset, acknowledged) + data
        body = b"\x0d" + struct.pack(">I", len(KEY)) + KEY + struct.pack(">I", len(frame)) + frame + bytes(4)
        self.line.sendall(struct.pack(">I", len(body)) + body)
        reply = self.receive(struct.unpack(">I", self.receive(4))[0])
        if reply[0] != 14:
            return None, True, b""
        # A string which holds two strings: the name of the algorithm, and our frame.
        name = struct.unpack(">I", reply[5:9])[0]
        frame = reply[9 + name + 4:]
        assert frame[:9] == b"valetkey\x01", frame[:16]
        return frame[9], bool(frame[10] & 1), frame[28:]


def ask(path, request):
    """An HTTP request, as these bytes; the whole answer."""
    agent, stream, answer, sent = Agent(path), os.urandom(16), b"", 0
    for _ in range(200):
        status, end, some = agent.exchange(stream, OPEN if not sent else 0, request[sent:], sent, len(answer))
        sent = len(request)
        if status != OK:
            return b"status %d" % status
        answer += some
        if end:
            agent.exchange(stream, CLOSE, b"", sent, len(answer))
            return answer
    return answer


def plain(method, target, body=b""):
    """A request after which the other side closes."""
    head = f"{method} {target} HTTP/1.1\r\nhost: daemon\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def tell(name, answer):
    """For the one who reads the log: a line with the status, and one with the body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1].decode() if head.startswith(b"HTTP/") else head.decode()
    text = body.decode(errors="replace").replace("\r", "").replace("\n", " ")
    print(f"<{name}> {status} {text[:600]}", flush=True)
