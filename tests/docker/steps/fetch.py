"""A plain download in the middle of which something happens outside: signals are names of packages, asked for by one
side and published by the other."""

import hashlib
import os
import re
import sys
import time
import urllib.parse
import urllib.request

INDEX = sys.argv[1]


def get(package):
    return urllib.request.urlopen(f"{INDEX}{package}/", timeout=60)


def signal(package):
    try:
        get(package).read()
    except OSError:
        pass


def wait(package):
    # In haste where nobody is there to come back: the download itself says what is wrong.
    for _ in range(1 if "HASTE" in os.environ else 600):
        try:
            return get(package).read()
        except OSError:
            time.sleep(0.1)
    if "HASTE" not in os.environ:
        sys.exit(f"{package} never came")


page = get("acme-large")
link = re.search('href="([^"#]+)', page.read().decode()).group(1)
download = urllib.request.urlopen(urllib.parse.urljoin(page.geturl(), link), timeout=60)
digest, length = hashlib.sha256(), 0


def take():
    global length
    some = download.read(1 << 20)
    digest.update(some)
    length += len(some)
    return some


take()
signal("acme-middle")
wait("acme-onward")
try:
    while take():
        pass
except OSError as error:
    sys.exit(f"<broken> {error}")
# Python itself says nothing of an answer that is cut short.
if length != int(download.headers["content-length"]):
    sys.exit(f"<broken> {length} bytes of {download.headers['content-length']}")
print(f"<digest> {digest.hexdigest()}", flush=True)
