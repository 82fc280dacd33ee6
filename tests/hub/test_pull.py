"""Pulling from a hub that runs on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from small4.errors import CheckpointNotFoundError, DownloadError, UnsafeFileError
from small4.hub.fetch import PullProgress, RemoteFile
from small4.hub.pull import PulledModel, choose_files, pull, readable_bytes
from tests.hub.fake_hub import COMMIT, FakeHub, serving

REPO = "mistralai/Tiny-4"


def weights(seed: int) -> bytes:
    values = np.random.default_rng(seed).standard_normal((160, 512), dtype=np.float32)
    return save({f"layers.{seed}.attention.wo.weight": values})


def release() -> dict[str, bytes]:
    """A repository as the release is: both sets of shards, both configs, other things beside them."""
    files = {
        ".gitattributes": b"*.safetensors filter=lfs\n",
        "README.md": b"# tiny\n",
        "params.json": json.dumps({"dim": 512}).encode(),
        "config.json": json.dumps({"model_type": "mistral3"}).encode(),
        "tekken.json": json.dumps({"vocab": ["x"] * 2000}).encode(),
        "images/cat.png": b"not a cat",
        "pytorch_model.bin": b"\x80\x04 never fetched",
    }
    for k in (1, 2):
        files[f"consolidated-0000{k}-of-00002.safetensors"] = weights(k)
        files[f"model-0000{k}-of-00002.safetensors"] = weights(10 + k)
    return files


NATIVE = (
    "consolidated-00001-of-00002.safetensors",
    "consolidated-00002-of-00002.safetensors",
    "params.json",
    "tekken.json",
)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    os.environ["NO_PROXY"] = "127.0.0.1"
    with serving(FakeHub(REPO, release())) as running:
        yield running


def pull_tiny(hub: FakeHub, cache: Path, **options: object) -> PulledModel:
    return pull(REPO, cache_dir=cache, endpoint=hub.endpoint, retry_seconds=(0.0, 0.0), **options)  # type: ignore[arg-type]


def test_a_pull_brings_one_set_of_weights_with_config_and_tokenizer(hub: FakeHub, tmp_path: Path) -> None:
    model = pull_tiny(hub, tmp_path)
    assert sorted(model.files) == sorted(path.name for path in model.path.iterdir()) == sorted(NATIVE)
    for name in NATIVE:
        assert (model.path / name).read_bytes() == hub.files[name]
    assert load_file(model.path / NATIVE[0])["layers.1.attention.wo.weight"].shape == (160, 512)
    assert model.bytes == model.bytes_fetched == sum(len(hub.files[name]) for name in NATIVE)
    assert model.revision == COMMIT
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_second_pull_moves_no_bytes(hub: FakeHub, tmp_path: Path) -> None:
    first = pull_tiny(hub, tmp_path)
    sent = hub.sent_bytes
    second = pull_tiny(hub, tmp_path)
    assert hub.sent_bytes == sent
    assert second.bytes_fetched == 0
    assert second.path == first.path


def test_the_other_layout_comes_on_demand_and_stays_the_choice_where_it_is_cached(hub: FakeHub, tmp_path: Path) -> None:
    model = pull_tiny(hub, tmp_path, layout="hf")
    assert {"config.json", "tekken.json", "model-00001-of-00002.safetensors"} < set(model.files)
    assert "params.json" not in model.files
    sent = hub.sent_bytes
    assert pull_tiny(hub, tmp_path).files == model.files
    assert hub.sent_bytes == sent


def test_what_the_hubs_own_client_cached_is_not_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(REPO, NATIVE[0], revision=COMMIT, cache_dir=tmp_path, endpoint=hub.endpoint)
    sent = hub.sent_bytes
    model = pull_tiny(hub, tmp_path)
    assert hub.sent_bytes - sent == len(hub.files[NATIVE[1]]) + len(hub.files["tekken.json"])
    assert model.bytes - model.bytes_fetched == len(hub.files[NATIVE[0]])


def test_a_dropped_connection_is_resumed_within_the_same_pull(hub: FakeHub, tmp_path: Path) -> None:
    hub.drops, hub.drop_after = 1, 100_000
    model = pull_tiny(hub, tmp_path)
    assert (model.path / NATIVE[0]).read_bytes() == hub.files[NATIVE[0]]
    assert hub.sent_bytes == sum(len(hub.files[name]) for name in NATIVE if name != "params.json")
    assert "bytes=100000-" in hub.ranges


def test_an_interrupted_pull_is_continued_by_the_next_one(hub: FakeHub, tmp_path: Path) -> None:
    del hub.files["consolidated-00002-of-00002.safetensors"]
    hub.files["consolidated.safetensors"] = hub.files.pop("consolidated-00001-of-00002.safetensors")
    whole = len(hub.files["consolidated.safetensors"])
    hub.drops, hub.drop_after = 10, 70_000
    with pytest.raises(DownloadError, match="goes on where it stopped"):
        pull(REPO, cache_dir=tmp_path, endpoint=hub.endpoint, retry_seconds=())
    kept = sum(path.stat().st_size for path in tmp_path.rglob("*.incomplete"))
    assert kept >= 70_000
    hub.drops, sent = 0, hub.sent_bytes
    seen: list[PullProgress] = []
    model = pull_tiny(hub, tmp_path, on_progress=seen.append)
    assert (model.path / "consolidated.safetensors").read_bytes() == hub.files["consolidated.safetensors"]
    assert hub.sent_bytes - sent <= whole + len(hub.files["tekken.json"]) - 70_000
    # The small file may have been on its way when the large one broke off; then it comes a second time.
    assert hub.sent_bytes <= whole + 2 * len(hub.files["tekken.json"])
    assert model.bytes_fetched <= model.bytes - 70_000
    assert seen[-1].bytes_done == seen[-1].bytes_total


def test_a_server_that_is_busy_for_a_moment_is_asked_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.cdn_failures = 2
    assert sorted(pull_tiny(hub, tmp_path).files) == sorted(NATIVE)


def test_a_server_that_ignores_ranges_still_gives_a_whole_file(hub: FakeHub, tmp_path: Path) -> None:
    hub.drops, hub.drop_after, hub.ignores_ranges = 1, 100_000, True
    model = pull_tiny(hub, tmp_path)
    for name in NATIVE:
        assert (model.path / name).read_bytes() == hub.files[name]


def test_changed_bytes_are_deleted_and_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.corrupted = {NATIVE[1]}
    with pytest.raises(DownloadError, match=r"consolidated-00002.*digest"):
        pull_tiny(hub, tmp_path)
    assert not (tmp_path / "models--mistralai--Tiny-4" / "blobs" / hub.digest(NATIVE[1])).exists()
    hub.corrupted = set()
    model = pull_tiny(hub, tmp_path)
    assert (model.path / NATIVE[1]).read_bytes() == hub.files[NATIVE[1]]


def test_a_server_that_contradicts_its_own_listing_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.other_etag = {NATIVE[0]}
    with pytest.raises(DownloadError, match="digest 0000"):
        pull_tiny(hub, tmp_path)


@pytest.mark.parametrize("lie", [-1000, 1000])
def test_a_file_of_another_size_than_listed_is_refused(hub: FakeHub, tmp_path: Path, lie: int) -> None:
    hub.listed_bytes = {NATIVE[0]: len(hub.files[NATIVE[0]]) + lie}
    with pytest.raises(DownloadError):
        pull_tiny(hub, tmp_path)


def test_too_little_disk_space_is_said_with_both_numbers_before_a_byte_moves(hub: FakeHub, tmp_path: Path) -> None:
    hub.listed_bytes = {NATIVE[0]: 10**18}
    with pytest.raises(DownloadError, match=r"needs 1000000\.0 TB.*[0-9] [kMGT]B free"):
        pull_tiny(hub, tmp_path)
    assert hub.sent_bytes == 0


@pytest.mark.parametrize(
    ("status", "code", "way_out"),
    [
        (401, "", "hf auth login"),
        (403, "GatedRepo", "accept its terms"),
        (404, "RepoNotFound", "check the name"),
        (429, "", "slow down"),
        (500, "", "again later"),
    ],
)
def test_a_refusal_says_the_way_out(hub: FakeHub, tmp_path: Path, status: int, code: str, way_out: str) -> None:
    hub.status, hub.error_code = status, code
    with pytest.raises(DownloadError, match=way_out) as caught:
        pull_tiny(hub, tmp_path)
    assert "127.0.0.1" not in str(caught.value)


def test_an_unknown_revision_is_named(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no revision 'v9'"):
        pull_tiny(hub, tmp_path, revision="v9")


@pytest.mark.parametrize("revision", ["../../x", "a b", "/etc"])
def test_a_revision_that_is_no_name_is_refused(hub: FakeHub, tmp_path: Path, revision: str) -> None:
    with pytest.raises(DownloadError, match="cannot be a revision"):
        pull_tiny(hub, tmp_path, revision=revision)


def test_a_commit_can_be_pulled_by_its_name(hub: FakeHub, tmp_path: Path) -> None:
    assert pull_tiny(hub, tmp_path, revision=COMMIT).revision == COMMIT


def test_digests_that_would_leave_the_cache_are_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.commit = "../../../outside"
    with pytest.raises(DownloadError, match="no digest"):
        pull_tiny(hub, tmp_path, revision="main")
    assert not (tmp_path.parent / "outside").exists()


def test_an_unreachable_hub_is_said_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        pull(REPO, cache_dir=tmp_path, endpoint="http://127.0.0.1:9")


def test_a_complete_cache_serves_while_the_hub_cannot_be_reached(hub: FakeHub, tmp_path: Path) -> None:
    model = pull_tiny(hub, tmp_path)
    again = pull(REPO, cache_dir=tmp_path, endpoint="http://127.0.0.1:9")
    assert again.path == model.path
    assert sorted(again.files) == sorted(model.files)
    assert again.is_offline
    assert not model.is_offline


def test_a_dry_run_tells_what_a_pull_would_move_and_writes_nothing(hub: FakeHub, tmp_path: Path) -> None:
    plan = pull_tiny(hub, tmp_path, dry_run=True)
    assert sorted(plan.files) == sorted(NATIVE)
    assert plan.bytes_fetched == plan.bytes == sum(len(hub.files[name]) for name in NATIVE)
    assert hub.sent_bytes == 0
    assert not list(tmp_path.iterdir())


def test_progress_is_one_rising_total_in_each_phase(hub: FakeHub, tmp_path: Path) -> None:
    seen: list[PullProgress] = []
    model = pull_tiny(hub, tmp_path, on_progress=seen.append)
    assert list(dict.fromkeys(report.phase for report in seen)) == ["downloading", "verifying"]
    for phase in ("downloading", "verifying"):
        reports = [report for report in seen if report.phase == phase]
        done = [report.bytes_done for report in reports]
        assert done == sorted(done)
        assert done[-1] == reports[-1].bytes_total == model.bytes
        assert reports[-1].files_done == reports[-1].num_files == 4


def test_a_token_goes_to_the_hub_and_not_to_its_store(hub: FakeHub, tmp_path: Path) -> None:
    code = "from small4.hub.pull import pull; from pathlib import Path; import sys; " + (
        "print(pull(sys.argv[1], cache_dir=Path(sys.argv[2]), endpoint=sys.argv[3]).bytes)"
    )
    env = {**os.environ, "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    arguments = [sys.executable, "-c", code, REPO, str(tmp_path / "cache"), hub.endpoint]
    subprocess.run(arguments, env=env, check=True, capture_output=True)
    assert set(hub.tokens_at_hub) == {"Bearer hf_secret"}
    assert hub.sent_bytes > 0
    assert hub.tokens_at_cdn == []


def test_offline_mode_takes_the_cache_or_says_what_is_missing(hub: FakeHub, tmp_path: Path) -> None:
    code = "\n".join(
        [
            "import sys; from small4.hub.pull import pull; from small4.errors import DownloadError",
            "try: print(pull(sys.argv[1], endpoint=sys.argv[2]).path)",
            "except DownloadError as error: print(error)",
        ]
    )
    env = {**os.environ, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    env.pop("HF_HUB_CACHE", None)

    def run(offline: str) -> str:
        arguments = [sys.executable, "-c", code, REPO, hub.endpoint]
        done = subprocess.run(arguments, env={**env, "HF_HUB_OFFLINE": offline}, check=True, capture_output=True)
        return done.stdout.decode().strip()

    assert "HF_HUB_OFFLINE forbids" in run("1")
    snapshot = run("0")
    assert snapshot.startswith(str(tmp_path / "hub"))
    asked = len(hub.requests)
    assert run("1") == snapshot
    assert len(hub.requests) == asked


def files_named(*names: str) -> list[RemoteFile]:
    return [RemoteFile(name, 1, "0" * 40) for name in names]


def test_a_repository_of_pickles_is_refused() -> None:
    with pytest.raises(UnsafeFileError, match=r"pytorch_model\.bin"):
        choose_files(files_named("config.json", "pytorch_model.bin"))


def test_a_set_with_a_missing_shard_is_no_checkpoint() -> None:
    shards = files_named(
        "params.json", "consolidated-00001-of-00003.safetensors", "consolidated-00003-of-00003.safetensors"
    )
    with pytest.raises(DownloadError, match="no complete checkpoint"):
        choose_files(shards)
    whole = [*shards, *files_named("config.json", "model.safetensors")]
    assert {file.name for file in choose_files(whole)} == {"config.json", "model.safetensors"}


def test_an_unknown_short_name_lists_the_known_ones() -> None:
    with pytest.raises(CheckpointNotFoundError, match="small4:nvfp4"):
        pull("small5")


def test_a_malformed_repository_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="organisation/name"):
        pull("a/b/c", cache_dir=tmp_path, endpoint="http://127.0.0.1:9")


def test_byte_counts_are_readable() -> None:
    assert [readable_bytes(n) for n in (7, 1500, 120_927_211_096)] == ["7 B", "1.5 kB", "120.9 GB"]
