"""The `setup.py` of a stranger's package, which pip runs to build it: it asks for all that there is, and then looks as
harmless as any."""

import os
import runpy
import sys

from setuptools import setup

# pip runs it more than once.
if not os.path.exists("/tmp/asked"):
    open("/tmp/asked", "w").close()
    arguments, sys.argv = sys.argv, ["probe.py", os.environ["REGISTRY"]]
    sys.path.insert(0, "/steps")
    runpy.run_path("/steps/probe.py")
    sys.argv = arguments
setup(name="evil-package", version="1.0", py_modules=[])
