"""Installs names one after the other with the pip of the image, and tells what came of each."""

import os
import subprocess
import sys

for number, wanted in enumerate(sys.argv[1:]):
    target = f"/site/{number}"
    # As impatient as can be: what is refused is refused at once, and silence need not be sat out.
    words = ["install", "--no-cache-dir", "--no-deps", "--retries", "0", "--timeout", "3", "--target", target]
    ended = subprocess.run([sys.executable, "-m", "pip", *words, wanted], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    there = sorted(name for name in os.listdir(target) if "dist-info" in name) if os.path.isdir(target) else []
    print(f"<{wanted}> {ended.returncode} {' '.join(there)}", flush=True)
    print(ended.stdout.decode(), flush=True)
