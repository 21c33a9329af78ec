"""A metadata server at Google's address, in a network of its own. Says `ready`; notes who asks for a token."""

import http.server
import os
import sys
import threading


class Metadata(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"computeMetadata/\n"
        if self.path.split("?")[0].endswith("/token"):
            body = b"not-a-token-but-what-a-machine-would-give"
            with open(sys.argv[1], "a") as log:
                log.write(self.client_address[0] + "\n")
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


# Once the address is there.
sys.stdin.readline()
server = http.server.ThreadingHTTPServer(("169.254.169.254", 80), Metadata)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
# Until whoever wants it has gone.
sys.stdin.read()
os._exit(0)
