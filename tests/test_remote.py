"""A folder at a URL: what is under a name is whole, whoever writes it, and however often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guidestar import config as configs
from guidestar.errors import ConfigError, StoreError
from guidestar.store import files
from guidestar.store.remote import Remote


@pytest.fixture(params=["memory", "file"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    return Remote(f"memory://{tmp_path.name}/" if request.param == "memory" else f"file://{tmp_path}/bucket")


def test_a_file_is_whole_or_absent(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*paths: str) -> None:
        raise OSError("the line is cut")

    assert not remote.has("part")
    with monkeypatch.context() as patch:
        patch.setattr(remote._place[0], "mv", cut)
        with pytest.raises(ConfigError, match=r"engine\.score\.folder: .* cannot be used: the line is cut"):
            remote.put("part", b"half")
    assert not remote.has("part"), "what was not finished has no name that anybody looks for"
    for _ in range(2):
        remote.put("part", b"whole")
        assert remote.get("part") == b"whole"
    remote.remove("part")
    assert not remote.has("part")


def test_a_folder_comes_back_as_it_was_or_not_at_all(remote: Remote, tmp_path: Path) -> None:
    (folder := tmp_path / "adapter" / "deep").mkdir(parents=True)
    (folder / "a.json").write_text("{}")
    (folder.parent / "b.safetensors").write_bytes(bytes(range(256)))
    digest = remote.put_folder(folder.parent)
    assert remote.put_folder(folder.parent) == digest
    assert files.sha256(remote.get_folder(digest, tmp_path / "back")) == digest
    data = remote.get(f"{digest}.zip")
    at = data.index(bytes(range(256)))
    for i, wrong in enumerate((b"no archive", data[:at] + b"\1" + data[at + 1 :])):
        remote.put(f"{digest}.zip", wrong)
        with pytest.raises(StoreError, match="is not what was written"):
            remote.get_folder(digest, tmp_path / f"back-{i}")


def test_where_no_worker_can_write_is_refused() -> None:
    given: dict[str, Any] = {"engine": {"score": {"use": "vllm", "folder": "s3://bucket/x"}}}
    with pytest.raises(ConfigError, match=r"engine\.score\.folder is set and engine\.score\.use is vllm"):
        configs.parse(given)
    given["engine"]["score"] = {"use": "ray", "folder": "memory://x"}
    with pytest.raises(ConfigError, match=r"engine\.score\.folder is in the memory of one process"):
        configs.parse(given)
    with pytest.raises(ConfigError, match="nonsense://x cannot be used"):
        Remote("nonsense://x").has("part")
