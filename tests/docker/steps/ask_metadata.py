"""Asks Google's metadata server for the machine's token, as any package's code can."""

import urllib.request

url = "http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token"
request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
try:
    print("<token>", urllib.request.urlopen(request, timeout=10).read().decode(), flush=True)
except OSError as error:
    print("<token> none:", error, flush=True)
