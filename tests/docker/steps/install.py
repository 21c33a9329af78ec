"""pip itself, and a signal when it is in the middle of a download: the name of a package that is asked for."""

import subprocess
import sys
import urllib.request

INDEX, *FLAGS = sys.argv[1:]
COMMAND = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--no-deps", "--target", "/installed"]

pip = subprocess.Popen([*COMMAND, "--index-url", INDEX, *FLAGS, "acme-large"], stdout=subprocess.PIPE)
for line in pip.stdout:
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
    if b"Downloading" in line:
        try:
            urllib.request.urlopen(f"{INDEX}acme-middle/", timeout=60).read()
        except OSError:
            pass
sys.exit(pip.wait())
