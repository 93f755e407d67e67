"""Set up Foveal in this folder and run it: ``python run.py demo``.

    python run.py demo [options]   made-up scans through the whole chain, and a report
    python run.py test [options]   the tests; options go to pytest, e.g. -k name
    python run.py lint             format, lint and types

The first call makes the virtual environment ``.venv`` and installs the versions that
constraints.txt names; later calls skip this until pyproject.toml or constraints.txt
changes. Only Python's standard library is needed; the exit status is the command's.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")
PROGRAM = SCRIPTS / ("foveal.exe" if os.name == "nt" else "foveal")
STAMP = VENV / "foveal-installed.txt"

COMMANDS = {
    "demo": [[PROGRAM, "demo"]],
    # A file stays in one process, as its tests share what they made.
    "test": [[PYTHON, "-m", "pytest", "-n", "logical", "--dist", "loadfile"]],
    "lint": [
        [PYTHON, "-m", "ruff", "format", "--check", "."],
        [PYTHON, "-m", "ruff", "check", "."],
        [PYTHON, "-m", "mypy"],
    ],
}

CUDA_HINT = (
    "On Linux the usual torch package may bring some GB of CUDA libraries. For the\n"
    "small CPU build, stop, install torch==2.13.0 for CPU into .venv as pytorch.org\n"
    "says, and start again."
)


def main(arguments: list) -> int:
    """Install what the command needs, run it, and return its exit status."""
    if sys.version_info < (3, 11):  # noqa: UP036 - an older one must be told why
        print("Foveal needs Python 3.11 or newer; this is", sys.version.split()[0])
        return 1
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    name, options = arguments[0], arguments[1:]
    # One environment serves all; the demo does without the tools of the developers.
    status = install("." if name == "demo" else ".[test]")
    if status:
        return status
    return max(
        subprocess.call([*command, *options], cwd=ROOT) for command in COMMANDS[name]
    )


def install(package: str) -> int:
    """Bring ``.venv`` up to date unless its stamp says that it is; 0 if all is well."""
    wanted = f"{package} {digest()}"
    if wanted in installed():
        return 0
    if not has_pip():
        print("making the virtual environment .venv", flush=True)
        status = subprocess.call([sys.executable, "-m", "venv", VENV])
        if status:
            return status
    if sys.platform == "linux" and not any(
        VENV.glob("lib/python*/site-packages/torch")
    ):
        print(CUDA_HINT, flush=True)
    print("installing; the first time this takes some minutes", flush=True)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "-c", "constraints.txt"]
    # torch first and alone: the largest download fails early, and by its own name.
    for what in (["torch"], ["--editable", package]):
        status = subprocess.call([*pip, *what], cwd=ROOT)
        if status:
            return status
    # The package with its tests also serves the demo.
    served = [wanted, f". {digest()}"]
    STAMP.write_text("\n".join(served) + "\n", encoding="utf-8")
    return 0


def digest() -> str:
    """Short hash of everything that decides what gets installed."""
    parts = [
        (ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def installed() -> list:
    """Lines of the stamp that the last complete installation left."""
    return STAMP.read_text(encoding="utf-8").splitlines() if STAMP.exists() else []


def has_pip() -> bool:
    """Whether ``.venv`` is there and whole enough to install into."""
    probe = [PYTHON, "-c", "import pip"]
    return PYTHON.exists() and subprocess.call(probe, stderr=subprocess.DEVNULL) == 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
