"""The build backend that the stand-in serves: PEP 517 with nothing but the standard library.

A source tree that names it in build-system.requires can be built only by a front end that reached the private index.
"""

import base64
import hashlib
import io
import os
import re
import tarfile
import zipfile


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name, version = _project()
    info = f"{name}-{version}.dist-info"
    files = {path: _read(path) for path in _modules()}
    files[f"{info}/METADATA"] = _metadata(name, version)
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: acme-build-backend\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    filename = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, filename), "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return filename


def build_sdist(sdist_directory, config_settings=None):
    name, version = _project()
    base = f"{name}-{version}"
    with tarfile.open(os.path.join(sdist_directory, f"{base}.tar.gz"), "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for path in ["pyproject.toml", *_modules()]:
            archive.add(path, f"{base}/{path}")
        content = _metadata(name, version)
        entry = tarfile.TarInfo(f"{base}/PKG-INFO")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return f"{base}.tar.gz"


def _project():
    """Name and version by pattern, because tomllib is younger than the oldest Python the tests meet."""
    text = _read("pyproject.toml").decode()
    section = re.search(r"^\[project\]\s*$(.*?)(?=^\[|\Z)", text, re.M | re.S).group(1)
    name, version = (re.search(rf'^{key}\s*=\s*["\']([^"\']+)["\']', section, re.M).group(1) for key in ("name", "version"))
    return re.sub(r"[-_.]+", "_", name).lower(), version


def _metadata(name, version):
    return f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n".encode()


def _modules():
    """Every module at the root of the tree, and every package in it."""
    found = sorted(path for path in os.listdir(".") if path.endswith(".py"))
    for directory in sorted(os.listdir(".")):
        if os.path.isfile(os.path.join(directory, "__init__.py")):
            found += sorted(f"{directory}/{path}" for path in os.listdir(directory) if path.endswith(".py"))
    return found


def _read(path):
    with open(path, "rb") as file:
        return file.read()
