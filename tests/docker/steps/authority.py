"""Tries to pass the run's authority off on another host, and to be intercepted where nothing is granted."""

import os
import socket
import ssl
import sys
import urllib.parse

HOST = sys.argv[1]
NAME, PORT = HOST.split(":")
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])


def connect(to):
    line = socket.create_connection((proxy.hostname, proxy.port), 30)
    line.sendall(f"CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += line.recv(1) or b"\r\n\r\n"
    return line, answer.split(b" ")[1].decode()


def handshake(line, name):
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    try:
        with context.wrap_socket(line, server_hostname=name) as secure:
            return "accepted " + str(secure.getpeercert()["subjectAltName"])
    except ssl.SSLError as error:
        return f"refused {error.__class__.__name__}: {error}"
    except OSError as error:
        return f"refused {error.__class__.__name__}"


line, status = connect(HOST)
print(f"<granted> {status} {handshake(line, NAME)}", flush=True)
for name in ["public.example", f"{NAME}.public.example", "127.0.0.1"]:
    line, status = connect(HOST)
    print(f"<{name}> {status} {handshake(line, name)}", flush=True)
for to in ["public.example:443", "evilpkg.dev:443", f"{NAME}.evilpkg.dev:{PORT}", f"{NAME}:443"]:
    line, status = connect(to)
    print(f"<connect {to.split(':')[0] if to != NAME + ':443' else 'port'}> {status}", flush=True)
