# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Access denied, servers and networks that fail, disks that are full: each first shown, then a retry or a clear error.

Whatever happens, a codebook that is not whole is never used: after each fault the next good download is whole.
"""

import hashlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


pytest_plugins = ["hub_fixtures"]
pytestmark = pytest.mark.hub
TENSORS = "codebook.safetensors"


@pytest.fixture
def pushed(hub, warm, token, repo):
    """A good codebook on the Hub: (repository, what `push` said)."""
    done = warm.call("push", repo, token=token)
    hub.requests.clear()
    return repo, done


def sha256(hub, repo):
    return hashlib.sha256(hub.store.repositories["model", repo].file("main", TENSORS).data).hexdigest()


def finished_files(cache):
    """What lies in a cache and could be taken for a codebook's tensors."""
    return [path for path in Path(cache).rglob(TENSORS) if path.is_file()]


# ---- access


def test_private_without_a_token_and_with_a_stranger_s(hub, warm, pushed, tmp_path):
    repo, sent = pushed
    hub.store.repositories["model", repo].private = True
    assert warm.call("plain_info", repo) == {"status": 401}
    found = warm.call("pull", repo, str(tmp_path))
    assert "(401)" in found["error"]
    assert "hf auth login" in found["error"]
    found = warm.call("pull", repo, str(tmp_path), token=hub.store.add_user("stranger"))
    assert "(404)" in found["error"]
    assert "a token that may read it" in found["error"]
    reader = hub.store.add_user("reader", organizations=["org"], write=False)
    assert warm.call("pull", repo, str(tmp_path), token=reader)["fingerprint"] == sent["fingerprint"]


def test_a_revoked_token(hub, warm, pushed, tmp_path):
    repo, _ = pushed
    hub.store.repositories["model", repo].private = True
    lost = hub.store.add_user("lost", organizations=["org"])
    assert "commit" in warm.call("pull", repo, str(tmp_path), token=lost)
    hub.store.revoke(lost)
    assert warm.call("plain_info", repo, token=lost) == {"status": 401}
    found = warm.call("pull", repo, str(tmp_path), token=lost)  # a branch may have moved: the cache is no answer
    assert "refused the token (401)" in found["error"]
    assert "refused the token (401)" in warm.call("push", repo, token=lost)["error"]


def test_gated_repositories(hub, warm, pushed, tmp_path):
    repo, _ = pushed
    hub.store.repositories["model", repo].gated = True
    stranger = hub.store.add_user("stranger")
    assert warm.call("plain_info", repo, token=stranger) == {"status": 403}
    assert "ask for access" in warm.call("pull", repo, str(tmp_path), token=stranger)["error"]


def test_a_token_that_may_not_write(hub, warm, pushed):
    repo, sent = pushed
    for token in (hub.store.add_user("reader", organizations=["org"], write=False), hub.store.add_user("stranger")):
        found = warm.call("push", repo, seed=3, token=token)
        assert 403 in [status for _, path, status in hub.requests if "preupload" in path]
        assert "(403)" in found["error"]
        assert "create_pr=True" in found["error"]
    assert hub.store.repositories["model", repo].resolve("main") == sent["commit"]
    offered = warm.call("push", repo, seed=3, create_pr=True, token=token)  # the remedy works
    assert offered["pr"] == "refs/pr/1"


def test_what_does_not_exist(warm, pushed, tmp_path):
    repo, _ = pushed
    assert "no such repository" in warm.call("pull", "org/absent", str(tmp_path))["error"]
    assert "no revision 'absent'" in warm.call("pull", repo, str(tmp_path), revision="absent")["error"]
    assert "no revision '0000" in warm.call("pull", repo, str(tmp_path), revision="0" * 40)["error"]


# ---- servers


def test_slow_down_is_obeyed(hub, warm, pushed, tmp_path):
    repo, sent = pushed
    hub.fault(f"GET /api/models/{repo}", status=429, headers={"Retry-After": "1"})
    assert warm.call("plain_info", repo) == {"status": 429}
    again = hub.fault(f"GET /api/models/{repo}", status=429, headers={"Retry-After": "1"})
    start = time.monotonic()
    assert warm.call("pull", repo, str(tmp_path))["fingerprint"] == sent["fingerprint"]
    assert again.hits == 1
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("status", [500, 503, 504])
def test_a_server_that_recovers(hub, warm, pushed, tmp_path, status):
    repo, sent = pushed
    down = hub.fault(f"GET /api/models/{repo}", times=2, status=status)
    assert warm.call("pull", repo, str(tmp_path))["fingerprint"] == sent["fingerprint"]
    assert down.hits == 2


def test_a_server_that_stays_down(hub, warm, pushed, tmp_path):
    repo, sent = pushed
    warm.call("pull", repo, str(tmp_path / "cached"))
    down = hub.fault(f"GET /api/models/{repo}", times=99, status=503)
    assert warm.call("plain_info", repo) == {"status": 503}
    found = warm.call("pull", repo, str(tmp_path / "empty"))
    assert "answered with an error (503), also after 4 tries" in found["error"]
    assert down.hits == 5
    # With the codebook in the cache the same outage costs a warning.
    finished = warm.wait(warm.begin("pull", repo, str(tmp_path / "cached")))
    assert finished.result["fingerprint"] == sent["fingerprint"]
    assert f"using {repo} at the cached commit {sent['commit']}" in finished.stderr


def test_a_push_to_a_server_that_stays_down(hub, warm, pushed, token):
    repo, sent = pushed
    down = hub.fault(f"POST /api/models/{repo}/commit", times=99, status=500)
    assert "(500)" in warm.call("push", repo, seed=4, token=token)["error"]
    assert down.hits == 1  # a commit may have been made before the answer failed: it is not sent twice
    assert hub.store.repositories["model", repo].resolve("main") == sent["commit"]


# ---- connections


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_connection_cut_in_the_middle(hub, warm, pushed, tmp_path, reset):
    repo, sent = pushed
    cut = hub.fault("GET /lfs-download", cut_after=2000, reset=reset)
    assert warm.call("pull", repo, str(tmp_path))["fingerprint"] == sent["fingerprint"]
    assert cut.hits == 1


def test_a_connection_that_is_always_cut(hub, warm, pushed, tmp_path):
    repo, sent = pushed
    cut = hub.fault("GET /lfs-download", times=99, cut_after=2000, reset=True)
    assert warm.call("plain_download", repo, TENSORS, str(tmp_path / "plain"))["error"] == "ReadError"
    found = warm.call("pull", repo, str(tmp_path))
    assert "cannot be reached" in found["error"]
    assert cut.hits == 5
    assert not finished_files(tmp_path)
    assert "not whole" in warm.call("pull", repo, str(tmp_path), local_files_only=True)["error"]
    hub.faults.clear()
    assert warm.call("pull", repo, str(tmp_path))["fingerprint"] == sent["fingerprint"]


def test_a_process_killed_in_the_middle(hub, warm, pushed, tmp_path):
    repo, sent = pushed
    slow = hub.fault("GET /lfs-download", wait=1.5)
    started = warm.begin("pull", repo, str(tmp_path))
    while not slow.hits:
        time.sleep(0.01)
    os.kill(started[0], signal.SIGKILL)
    assert warm.wait(started).code == -9
    assert not finished_files(tmp_path)
    assert warm.call("pull", repo, str(tmp_path))["fingerprint"] == sent["fingerprint"]


def flipped(body):
    """The same number of bytes, one of them changed."""
    return body[:-1] + bytes([body[-1] ^ 1])


def test_damage_on_the_way_is_found(hub, warm, pushed, tmp_path):
    repo, sent = pushed
    good = sha256(hub, repo)
    hub.fault("GET /lfs-download", rewrite=flipped)
    assert warm.call("plain_download", repo, TENSORS, str(tmp_path / "plain"))["sha256"] not in (good, None)
    damage = hub.fault("GET /lfs-download", rewrite=flipped)
    assert warm.call("pull", repo, str(tmp_path))["fingerprint"] == sent["fingerprint"]
    assert damage.hits == 1


def test_damage_at_every_try_is_an_error_and_stays_one(hub, warm, pushed, tmp_path):
    repo, sent = pushed
    hub.fault("GET /lfs-download", times=99, rewrite=flipped)
    assert "is not what the Hub announced" in warm.call("pull", repo, str(tmp_path))["error"]
    # The client has left the damaged file in its cache under the good name; it must not be taken for it later.
    assert finished_files(tmp_path)
    for options in ({"local_files_only": True}, {"local_files_only": True, "revision": sent["commit"]}):
        assert "not whole" in warm.call("pull", repo, str(tmp_path), **options)["error"]
    hub.faults.clear()
    pinned = warm.call("pull", repo, str(tmp_path), revision=sent["commit"])
    assert pinned["fingerprint"] == sent["fingerprint"]


def test_two_processes_at_once(hub, warm, pushed, tmp_path):
    repo, sent = pushed
    slow = hub.fault("GET /lfs-download", times=2, wait=0.5)
    started = [warm.begin("pull", repo, str(tmp_path)) for _ in range(2)]
    while len([path for path in hub.paths("GET") if path.startswith(f"/api/models/{repo}")]) < 2:
        time.sleep(0.01)
    assert not any((out / "code").exists() for _, out in started)  # both are in the middle of it
    assert [warm.wait(one).result["fingerprint"] for one in started] == [sent["fingerprint"]] * 2
    assert slow.hits >= 1


# ---- disks


def test_a_limit_on_file_sizes(warm, pushed, tmp_path):
    repo, sent = pushed
    found = warm.call("pull", repo, str(tmp_path), file_limit=4000)
    assert "cannot write" in found["error"]
    assert "larger than this process may write" in found["error"]
    assert not finished_files(tmp_path)
    assert warm.call("pull", repo, str(tmp_path))["fingerprint"] == sent["fingerprint"]


class Mount:
    """A small file system of its own for a cache; skips the test where that is not allowed."""

    def __init__(self, place: Path, size: str):
        self.place = place
        if (
            os.geteuid() != 0
            or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]).returncode
        ):
            pytest.skip("may not mount a file system here")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.place], check=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.place], check=True)


@pytest.fixture
def small_disk(tmp_path):
    mount = Mount(tmp_path, "60k")
    yield mount
    mount.close()


def test_a_full_disk(warm, pushed, small_disk):
    repo, sent = pushed
    filler = small_disk.place / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(100_000))
    assert filler.stat().st_size > 40_000
    filler.write_bytes(bytes(48_000))  # room for three pages: less than a codebook and its card need
    found = warm.call("pull", repo, str(small_disk.place))
    assert "the disk is full" in found["error"]
    assert str(small_disk.place) in found["error"]
    assert "not whole" in warm.call("pull", repo, str(small_disk.place), local_files_only=True)["error"]
    filler.unlink()
    assert warm.call("pull", repo, str(small_disk.place))["fingerprint"] == sent["fingerprint"]


def test_a_read_only_cache(warm, pushed, token, small_disk):
    repo, sent = pushed
    cache = small_disk.place
    warm.call("pull", repo, str(cache))
    small_disk.remount("ro")
    with pytest.raises(OSError, match="Read-only"):
        (cache / "new").mkdir()
    # What is in it can be used, by branch, by commit and offline.
    for options in ({}, {"revision": sent["commit"]}, {"local_files_only": True}):
        assert warm.call("pull", repo, str(cache), **options)["fingerprint"] == sent["fingerprint"]
    warm.call("push", repo, seed=5, token=token)
    found = warm.call("pull", repo, str(cache))
    assert "it is read-only" in found["error"]
    assert str(cache) in found["error"]


def test_a_cache_of_somebody_else(warm, pushed):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    repo, _ = pushed
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o555)
        with pytest.raises(PermissionError):
            (Path(place) / "new").mkdir()
        found = warm.call("pull", repo, place)
        os.chmod(place, 0o755)
    assert "may not write there" in found["error"]
