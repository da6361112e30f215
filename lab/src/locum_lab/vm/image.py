"""The guests' disk image, built once and cached.

The cache has three kinds of directories, each named for a digest of what it was made from: ``base-…`` (a Debian as a
directory, with its kernel), ``wheels-…`` (the Python packages that Locum needs) and ``image-…`` (a disk). A directory
appears under its name only when it is complete, so that a build that was interrupted leaves nothing that is used.

Building needs root, for ``chroot`` and mounts; the mounts are in a mount namespace of the build's own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

import locum
from locum.errors import LocumError, PermissionRequired
from locum_lab import cache as kept
from locum_lab.vm import recipe

#: Program → Debian package.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
}

#: Size of a guest's disk in bytes. It is sparse: it occupies what is written.
_DISK_SIZE = 4 << 30
#: How many layers of each kind the cache keeps, the most recently used ones.
_KEPT = {"image": 8, "base": 2, "wheels": 2}

#: Documentation, and drivers of devices that no guest has: a third of a Debian.
_EXCLUDED = (
    *("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"),
    *(f"/lib/modules/*/kernel/{part}/*" for part in ("drivers/gpu", "drivers/media", "drivers/staging", "sound")),
)

# Arguments: base directory, work directory, wheels, checkout's copy, script. An overlay keeps the base unchanged; where
# the kernel refuses it (a cache on an overlay), a copy does.
_INSTALL = """
set -eu
base=$1 work=$2 wheels=$3
mkdir -p "$work/upper" "$work/overlay" "$work/root"
if ! mount -t overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/overlay" overlay "$work/root" 2>/dev/null
then
    cp -a "$base/." "$work/root"
fi
root=$work/root
cp -a "$work/checkout" "$root$4"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$wheels" "$root/mnt"
mount -t tmpfs tmpfs "$root/tmp"
cp "$work/install.sh" "$root/tmp/install.sh"
chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \\
    PIP_NO_INDEX=1 PIP_FIND_LINKS=/mnt PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 \\
    sh -eu /tmp/install.sh
umount "$root/tmp" "$root/mnt" "$root/proc"
umount --recursive --lazy "$root/dev"
mke2fs -q -t ext4 -d "$root" "$work/disk.img" "$5"
"""


class Image(msgspec.Struct, frozen=True):
    """A disk without a boot loader, and the kernel and initial RAM disk that QEMU starts it with: three files."""

    directory: str

    @property
    def disk(self) -> Path:
        """The disk, which guests never write to."""
        return Path(self.directory) / "disk.img"

    @property
    def kernel(self) -> Path:
        """The kernel of the Debian on the disk."""
        return Path(self.directory) / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """Its initial RAM disk."""
        return Path(self.directory) / "initrd.img"


def default_cache() -> Path:
    """Where images are kept: LOCUM_LAB_CACHE, or ``locum-lab`` below XDG_CACHE_HOME (by default ~/.cache)."""
    if chosen := os.environ.get("LOCUM_LAB_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "locum-lab"


def missing_packages() -> tuple[str, ...]:
    """The Debian packages that must be installed before a guest can run, sorted."""
    return tuple(sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None}))


def check_programs() -> None:
    """Raise LocumError that says what to install when a program is missing."""
    if packages := missing_packages():
        raise LocumError(
            f"guests need programs that are not installed; install them with: "
            f"apt install --no-install-recommends {' '.join(packages)}"
        )


def checkout() -> Path:
    """The checkout of Locum that this process runs from."""
    return Path(locum.__path__[0]).parents[1]


def get(
    *, cache: Path | None = None, packages: Sequence[str] = recipe.PACKAGES, say: Callable[[str], None] | None = None
) -> Image:
    """The image with the Locum of this checkout; builds what the cache does not have.

    ``packages``: Debian packages. ``say`` is told about steps that take long. Raises LocumError when a program is
    missing or a step fails, PermissionRequired for a build without root.
    """
    check_programs()
    builder = _Builder(cache or default_cache(), tuple(packages), say or (lambda _: None))
    with kept.locked(builder.cache):
        return builder.image()


class _Builder:
    def __init__(self, cache: Path, packages: tuple[str, ...], say: Callable[[str], None]) -> None:
        self.cache = cache.resolve()
        self._packages = packages
        self._say = say
        self._checkout = checkout()

    def image(self) -> Image:
        base_name = recipe.base_key(self._packages)
        wanted = _python_packages(self._checkout)
        commands = recipe.install_script((self._checkout / "README.md").read_text())
        directory = self.cache / f"image-{recipe.locum_key(base_name, self._checkout, _INSTALL, commands, *wanted)}"
        if not directory.is_dir():
            if os.geteuid() != 0:
                raise PermissionRequired("building the guests' image needs root (chroot and mounts); run this as root")
            base = self._base(base_name)
            wheels = self._wheels(wanted)
            with kept.new(directory) as work:
                self._say("installing Locum in the image")
                self._install(base, wheels, work, commands)
            remove_old(self.cache)
        os.utime(directory)
        return Image(str(directory))

    def _base(self, name: str) -> Path:
        directory = self.cache / f"base-{name}"
        if not directory.is_dir():
            with kept.new(directory) as work:
                self._say(f"building a Debian {recipe.SUITE} for the guests; this takes some minutes, once")
                setup = work / "setup.sh"
                setup.write_text(recipe.setup_script())
                setup.chmod(0o755)
                excluded = (f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED)
                _run(
                    [
                        *("mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--format=directory"),
                        *("--include=" + ",".join(self._packages), "--dpkgopt=force-unsafe-io", *excluded),
                        *(f'--customize-hook={setup} "$1"', recipe.SUITE, str(work / "root")),
                    ]
                )
        os.utime(directory)
        return directory

    def _wheels(self, wanted: Sequence[str]) -> Path:
        """The Python packages for the guests' Python, fetched here, where the package index is known and reachable."""
        directory = self.cache / f"wheels-{recipe.digest(wanted)}"
        if not directory.is_dir():
            with kept.new(directory) as work:
                self._say("fetching Python packages for the guests")
                platforms = (f"--platform={name}_x86_64" for name in ("manylinux_2_28", "manylinux2014"))
                _run(
                    [
                        *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(work)),
                        *("--only-binary=:all:", "--implementation=cp", "--python-version=3.11", *platforms),
                        *wanted,
                    ]
                )
        os.utime(directory)
        return directory

    def _install(self, base: Path, wheels: Path, work: Path, commands: str) -> None:
        for file in recipe.sources(self._checkout):
            target = work / "checkout" / file.relative_to(self._checkout)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        (work / "install.sh").write_text(commands)
        _run(
            [
                *("unshare", "--mount", "sh", "-c", _INSTALL, "sh"),
                *(str(base / "root"), str(work), str(wheels), recipe.CHECKOUT, f"{_DISK_SIZE >> 20}M"),
            ]
        )
        boot = base / "root" / "boot"
        shutil.copyfile(next(boot.glob("vmlinuz-*")), work / "vmlinuz")
        shutil.copyfile(next(boot.glob("initrd.img-*")), work / "initrd.img")
        for name in ("root", "upper", "overlay", "checkout"):
            shutil.rmtree(work / name)
        (work / "install.sh").unlink()


def remove_old(cache: Path) -> None:
    """Remove layers that were not used for long, and what builds left that were killed. The caller holds the lock."""
    for kind, number in _KEPT.items():
        layers = sorted(cache.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in layers[number:]:
            shutil.rmtree(path, ignore_errors=True)
    # Saved states are made in the directory of their image.
    for pattern in (f"{kept.UNFINISHED}*", f"image-*/{kept.UNFINISHED}*"):
        for path in cache.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _python_packages(checkout: Path) -> list[str]:
    """What pip needs to install Locum: its requirements and those of its build."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())
    return sorted({*project["project"]["dependencies"], *project["build-system"]["requires"], "wheel"})


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise LocumError(f"building the guests' image failed: {argv[0]} ended with status {done.returncode}:\n{last}")
