#!/usr/bin/env bash
# A connection that is reset in the middle of an answer is an error to Python over plain TCP, and no error over TLS: from
# 3.10 on its ssl module turns ECONNRESET into "unexpected end", which an SSLSocket hides by default. So urllib3 1.26
# (vendored in pip up to 25) and requests on top of it take half of a file for the whole one, though the length was
# promised and the connection was reset. A fatal alert is an error everywhere. Seen with Python 3.11.7, OpenSSL 3.0,
# urllib3 1.26.20: over TCP "ConnectionResetError", over TLS "4 bytes of 1000 and no error". Fails when that changes.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" --quiet --disable-pip-version-check install 'urllib3==1.26.20'
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -keyout "$place/key.pem" -out "$place/cert.pem" 2>"$place/openssl.log" || { cat "$place/openssl.log" >&2; exit 1; }
cat >"$place/try.py" <<'END'
import socket, ssl, struct, sys, threading, urllib3

def serve(listener, context):
    stream, _ = listener.accept()
    if context:
        stream = context.wrap_socket(stream, server_side=True)
    stream.recv(65536)
    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
    taken.wait()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()

def outcome(scheme):
    taken.clear()
    listener = socket.create_server(("127.0.0.1", 0))
    context = None
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("cert.pem", "key.pem")
    thread = threading.Thread(target=serve, args=(listener, context))
    thread.start()
    pool = urllib3.PoolManager(ca_certs="cert.pem")
    url = f"{scheme}://localhost:{listener.getsockname()[1]}/"
    answer = pool.request("GET", url, preload_content=False, retries=False)
    got = answer.read(4)
    taken.set()
    thread.join()
    try:
        while piece := answer.read(4096):
            got += piece
    except Exception as error:
        return f"{type(error.args[1]).__name__ if len(error.args) > 1 else type(error).__name__}"
    return f"{len(got)} bytes of {answer.headers['content-length']} and no error"

taken = threading.Event()
print(f"Python {sys.version.split()[0]}, {ssl.OPENSSL_VERSION}, urllib3 {urllib3.__version__}")
seen = {scheme: outcome(scheme) for scheme in ("http", "https")}
print(seen)
assert seen == {"http": "ConnectionResetError", "https": "4 bytes of 1000 and no error"}, seen
END
cd "$place" && venv/bin/python try.py
