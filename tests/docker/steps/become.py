"""Asks for a granted page as the users that a step of root's becomes."""

import os
import ssl
import subprocess
import sys
import urllib.request

SOMEBODY = 1234


def tell(name, url):
    try:
        context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
        answer = urllib.request.urlopen(url, context=context).status
    except OSError as error:
        answer = error
    print(f"<{name}> {answer}", flush=True)


url, *name = sys.argv[1:]
if name:
    tell(name[0], url)
    sys.exit()
tell("root", url)
# As gosu, su and npm do: another user, and then another program.
other = [sys.executable, __file__, url, "program"]
subprocess.run(other, user=SOMEBODY, group=SOMEBODY, extra_groups=[], check=True)
# As apt does: the same program, which nobody may look into from then on.
if os.fork() == 0:
    os.setgroups([])
    os.setgid(SOMEBODY)
    os.setuid(SOMEBODY)
    tell("dropped", url)
    sys.exit()
os.wait()
