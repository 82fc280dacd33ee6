"""Digests are those of the bytes, and what is remembered of a file holds only while nobody has touched it."""

import hashlib
import os
from pathlib import Path

import pytest

from small4.checkpoint.digests import KnownDigests, file_digests


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def known(tmp_path: Path) -> KnownDigests:
    """A memory that takes small and new files too."""
    return KnownDigests(tmp_path / "memory", min_bytes=0, min_age_seconds=0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"as saved")
    return path


def remember_wrongly(known: KnownDigests, file: Path) -> None:
    """So that a digest that was not read anew is told from one that was."""
    file_digests([file], known)
    (entry,) = known.directory.iterdir()
    entry.write_text(entry.read_text().replace(sha256(file.read_bytes()), "remembered"))


def test_digests_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    contents = [bytes([n]) * (n * 300_001) for n in range(9)]
    files = [tmp_path / str(n) for n in range(9)]
    for path, content in zip(files, contents, strict=True):
        path.write_bytes(content)
    assert file_digests(files) == [sha256(content) for content in contents]


def test_a_file_that_was_read_is_not_read_again(known: KnownDigests, file: Path) -> None:
    remember_wrongly(known, file)
    assert file_digests([file], known) == ["remembered"]
    assert file_digests([file]) == [sha256(b"as saved")]


def rewrite_with_old_times(file: Path) -> None:
    status = file.stat()
    file.write_bytes(b"AS SAVED")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_with_old_times(file: Path) -> None:
    status, other = file.stat(), file.with_name("other")
    other.write_bytes(b"AS SAVED")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)


@pytest.mark.parametrize("change", [rewrite_with_old_times, replace_with_old_times])
def test_a_file_that_was_changed_is_read_again_even_if_its_size_and_time_are_as_before(
    known: KnownDigests, file: Path, change
) -> None:
    remember_wrongly(known, file)
    change(file)
    assert file_digests([file], known) == [sha256(b"AS SAVED")]


def test_the_same_file_elsewhere_is_another_file(known: KnownDigests, file: Path) -> None:
    remember_wrongly(known, file)
    moved = file.rename(file.with_name("moved"))
    assert file_digests([moved], known) == [sha256(b"as saved")]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"identity": 1}', "\udcff"])
def test_a_damaged_memory_is_no_memory(known: KnownDigests, file: Path, content: str) -> None:
    remember_wrongly(known, file)
    (entry,) = known.directory.iterdir()
    entry.write_bytes(content.encode(errors="surrogateescape"))
    assert file_digests([file], known) == [sha256(b"as saved")]


def test_a_file_that_may_still_be_written_to_is_not_remembered(tmp_path: Path, file: Path) -> None:
    known = KnownDigests(tmp_path / "memory", min_bytes=0)
    file_digests([file], known)
    assert not known.directory.exists()


def test_a_small_file_is_read_every_time(tmp_path: Path, file: Path) -> None:
    known = KnownDigests(tmp_path / "memory", min_age_seconds=0.0)
    file_digests([file], known)
    assert not known.directory.exists()


def test_a_memory_that_cannot_be_written_is_done_without(tmp_path: Path, file: Path) -> None:
    (tmp_path / "no directory").touch()
    known = KnownDigests(tmp_path / "no directory" / "memory", min_bytes=0, min_age_seconds=0.0)
    assert file_digests([file], known) == [sha256(b"as saved")]


def test_the_memory_is_the_users_alone(known: KnownDigests, file: Path) -> None:
    file_digests([file], known)
    assert known.directory.stat().st_mode & 0o077 == 0
