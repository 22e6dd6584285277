"""A disk that loses power: a file system in a file, of which only what reached the device outlives the cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOOLS = ("mkfs.ext4", "losetup", "mount", "umount")
_PATIENCE = 30.0
_WRITES, _IN_FLIGHT = 4, 8
"""Columns of a block device's statistics in sysfs (Linux, Documentation/block/stat.rst)."""


class Disk:
    """An ext4 file system in the file `image`."""

    def __init__(self, image: Path) -> None:
        self.image = image
        self._device = ""

    @classmethod
    def made(cls, image: Path, mebibytes: int) -> Self:
        """Make a disk with an empty file system."""
        with image.open("wb") as file:
            file.truncate(mebibytes * 2**20)
        _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
        return cls(image)

    @contextmanager
    def mounted(self, place: Path) -> Iterator[Path]:
        """Have what it holds at `place`, which is made, within the `with`; skip the test where that is barred."""
        place.mkdir()
        try:
            self._device = _run("losetup", "--find", "--show", str(self.image))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"there are no loop devices here: {error.stderr.strip()}")
        try:
            _mount(self._device, place)
            try:
                yield place
            finally:
                _unmount(place)
        finally:
            _run("losetup", "--detach", self._device)

    def cut(self, image: Path) -> Disk:
        """Return what the disk would hold if the power went now, in a new file.

        Whoever writes must stand still. What they wrote and did not sync is still in memory, and so not in the image.
        The copy is taken between two writes of the kernel, so that it is what the device held at one moment.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            before = self._writes()
            shutil.copyfile(self.image, image)
            after = self._writes()
            if before == after and not after[1]:
                return Disk(image)
            assert time.monotonic() < deadline, "the device never stands still"

    def _writes(self) -> tuple[int, int]:
        """Return how many writes the device has done, and how many requests it works on."""
        columns = Path(f"/sys/block/{Path(self._device).name}/stat").read_text().split()
        return int(columns[_WRITES]), int(columns[_IN_FLIGHT])


@contextmanager
def small_disk(place: Path, mebibytes: int) -> Iterator[Path]:
    """Have a file system of so many mebibytes in memory at `place`, which is made, within the `with`."""
    place.mkdir()
    _mount("tmpfs", place, "-t", "tmpfs", "-o", f"size={mebibytes}m")
    try:
        yield place
    finally:
        _unmount(place)


def why_no_disks() -> str:
    """Return why disks cannot be made here; nothing if they can."""
    if sys.platform != "linux":
        return "only Linux has loop devices"
    if os.geteuid() != 0:
        return "only root may mount file systems"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


needs_disks = pytest.mark.skipif(bool(why_no_disks()), reason=why_no_disks() or "never")
"""Marks what mounts file systems of its own."""


def _mount(device: str, place: Path, *options: str) -> None:
    try:
        _run("mount", *options, device, str(place))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"file systems cannot be mounted here: {error.stderr.strip()}")


def _unmount(place: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            _run("umount", str(place))
            return
        except subprocess.CalledProcessError:
            # Processes that were killed let go of their files a moment later.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
