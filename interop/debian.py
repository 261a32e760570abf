"""Programs of Debian packages that interop/run unpacked, or those of the machine where it
has them."""

import os
import shutil

ROOT = os.environ.get("CARILLON_DEBIAN_ROOT", "")  # of what was unpacked


def command(name: str) -> str:
    """The path of a program."""
    path = shutil.which(name, path=os.pathsep.join(f"{ROOT}{folder}" for folder in ("/usr/sbin", "/usr/bin"))) or shutil.which(name)
    assert path, f"there is no {name}: interop/run unpacks it"
    return path


def environment(**more: str) -> dict:
    """The environment that these programs need."""
    libraries = [f"{ROOT}/usr/lib/{folder}" for folder in os.listdir(f"{ROOT}/usr/lib") if folder.endswith("-linux-gnu")]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(libraries), **more}
