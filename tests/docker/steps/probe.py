"""Asks the daemon for what a build is not given, over the mounted socket and over the port of exec."""

import http.client
import json
import os
import sys
import urllib.parse

from agent import ask, plain, tell

HOST = sys.argv[1]
SOCKET = os.environ["SSH_AUTH_SOCK"]
WISH = json.dumps({"repositories": [f"https://{HOST}/evil/secret"], "write": True, "tokens": True, "seconds": 9})
QUESTION = json.dumps({"url": f"https://{HOST}/acme/private/simple/", "username": "oauth2accesstoken"})
PROBES = {
    "stop": ("POST", "/v1/stop", ""),
    "reload": ("POST", "/v1/reload", ""),
    "status": ("GET", "/v1/status", ""),
    "listeners": ("POST", "/v1/listeners", WISH),
    "credential": ("POST", "/v1/credential", QUESTION),
    "metrics": ("GET", "/metrics", ""),
    "metadata": ("GET", "/computeMetadata/v1/instance/service-accounts/default/token", ""),
    "twice": ("POST", "//v1/stop", ""),
    "climb": ("POST", "/registry/../v1/stop", ""),
    "granted": ("GET", f"/registry/{HOST}/acme/private/simple/acme-hello/", ""),
    "project": ("GET", f"/registry/{HOST}/evil/private/simple/", ""),
    "prefix": ("GET", f"/registry/{HOST}/acme/private-too/simple/", ""),
    "stranger": ("GET", "/registry/evilpkg.dev/acme/private/simple/", ""),
    "lookalike": ("GET", "/registry/us-python.pkg.dev.evilpkg.dev/acme/private/simple/", ""),
    "up": ("GET", f"/registry/{HOST}/acme/private/../../evil/private/simple/", ""),
    "up-encoded": ("GET", f"/registry/{HOST}/acme/private/%2e%2e/%2e%2e/evil/private/simple/", ""),
    "slash": ("GET", f"/registry/{HOST}/acme%2fprivate/simple/", ""),
    "slash-behind": ("GET", f"/registry/{HOST}/acme/private%2f..%2f..%2fevil/simple/", ""),
    "absolute": ("GET", f"https://{HOST}/evil/private/simple/", ""),
    "absolute-registry": ("GET", f"http://evilpkg.dev/registry/{HOST}/evil/private/simple/", ""),
    "upload": ("POST", f"/registry/{HOST}/acme/private/", "x"),
    "put": ("PUT", f"/registry/{HOST}/acme/private/x.whl", "x"),
    "delete": ("DELETE", f"/registry/{HOST}/acme/private/simple/acme-hello/", ""),
}


def over_the_port(method, target, body):
    port = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"]).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, target, skip_accept_encoding=True)
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body.encode())
    answer = connection.getresponse()
    return b"HTTP/1.1 %d\r\n\r\n" % answer.status + answer.read()


for name, (method, target, body) in PROBES.items():
    tell(f"agent {name}", ask(SOCKET, plain(method, target, body.encode())))
    tell(f"port {name}", over_the_port(method, target, body))
