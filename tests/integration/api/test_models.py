"""Finding, pinning and fetching models, in a directory and on a hub, with the real client."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from apiq_core.errors import ApiQError, InfraError, UserError
from jobs import models
from jobs.fingerprint import BEGINNING_BYTES, WHOLE_BYTES, fingerprint
from jobs.settings import Settings
from tests.integration.api.hub_server import Hub
from tests.tiny_models import make_tiny

# no records and no store
pytestmark = pytest.mark.column("embedded")

NAME = "org/tiny"
HUB_AWAY = "hub_unreachable"


def put_local(settings: Settings, source: Path, name: str = NAME) -> Path:
    return Path(shutil.copytree(source, settings.models_dir / name))


def put_on_hub(hub: Hub, source: Path, name: str = NAME) -> Path:
    return Path(shutil.copytree(source, hub.root / "models" / name))


class TestLocal:
    def test_found_and_inspected(self, settings: Settings, tiny_model: Path) -> None:
        directory = put_local(settings, tiny_model)
        located = models.locate(NAME, None, settings)
        assert located.directory == directory
        assert located.revision.startswith("local:")
        assert models.inspect(located).block_count == 2
        with models.fetched(located, settings, lambda *_: None) as found:
            assert found == directory

    def test_local_goes_before_the_hub(
        self, settings: Settings, tiny_model: Path, hub: Hub
    ) -> None:
        put_local(settings, tiny_model)
        put_on_hub(hub, tiny_model)
        assert models.locate(NAME, None, settings).directory is not None
        assert hub.requests == []

    def test_a_changed_model_is_noticed(self, settings: Settings, tiny_model: Path) -> None:
        directory = put_local(settings, tiny_model)
        revision = models.locate(NAME, None, settings).revision
        assert models.locate(NAME, revision, settings).revision == revision
        weights = directory / "model.safetensors"
        weights.write_bytes(weights.read_bytes() + b" ")
        with pytest.raises(UserError) as caught:
            models.locate(NAME, revision, settings)
        assert caught.value.code == "model_changed"
        assert revision in caught.value.message

    def test_a_copy_has_the_same_revision(self, settings: Settings, tiny_model: Path) -> None:
        put_local(settings, tiny_model)
        revision = models.locate(NAME, None, settings).revision
        directory = put_local(settings, tiny_model, "elsewhere")
        for path in directory.iterdir():
            os.utime(path, ns=(1, 1))
        (directory / "README.md").write_text("beside the model")
        assert models.locate("elsewhere", None, settings).revision == revision

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
    def test_the_same_size_is_not_the_same_content(
        self, settings: Settings, tiny_model: Path, name: str
    ) -> None:
        file = put_local(settings, tiny_model) / name
        revision = models.locate(NAME, None, settings).revision
        content = bytearray(file.read_bytes())
        content[-2] ^= 1
        file.write_bytes(content)
        assert models.locate(NAME, None, settings).revision != revision

    @pytest.mark.parametrize("at", [0, BEGINNING_BYTES - 1, -1])
    def test_of_a_large_file_samples_are_read(self, tmp_path: Path, at: int) -> None:
        file = tmp_path / "model.safetensors"
        with file.open("wb") as out:
            out.truncate(WHOLE_BYTES + 1)  # sparse
        before = fingerprint(tmp_path)
        with file.open("r+b") as out:
            out.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
            out.write(b"x")
        assert fingerprint(tmp_path) != before

    def test_a_removed_model_is_not_looked_for_elsewhere(
        self, settings: Settings, tiny_model: Path, hub: Hub
    ) -> None:
        put_on_hub(hub, tiny_model)
        with pytest.raises(UserError) as caught:
            models.locate(NAME, "local:0123456789abcdef", settings)
        assert caught.value.code == "model_not_found"
        assert hub.requests == []

    @pytest.mark.parametrize("what", ["directory", "file"])
    def test_links_that_lead_outside(
        self, settings: Settings, tiny_model: Path, what: str, tmp_path: Path
    ) -> None:
        if what == "directory":
            (settings.models_dir / "org").mkdir(parents=True)
            (settings.models_dir / NAME).symlink_to(tiny_model)
        else:
            secret = tmp_path / "secret"
            secret.write_text("secret")
            (put_local(settings, tiny_model) / "tokenizer.json").unlink()
            (settings.models_dir / NAME / "tokenizer.json").symlink_to(secret)
        with pytest.raises(UserError) as caught:
            models.locate(NAME, None, settings)
        assert caught.value.code == "model_outside"

    @pytest.mark.parametrize("name", ["..", "../x", "a/../b", "/etc", "a/b/c", "a\n", "é", "", "."])
    def test_names_that_are_none(self, settings: Settings, name: str) -> None:
        with pytest.raises(UserError) as caught:
            models.locate(name, None, settings)
        assert caught.value.code == "illegal_model_id"
        assert "legal" in caught.value.message


class TestHub:
    def test_found_and_pinned(self, settings: Settings, tiny_model: Path, hub: Hub) -> None:
        put_on_hub(hub, tiny_model)
        located = models.locate(NAME, None, settings)
        assert (located.revision, located.directory) == (hub.commit, None)
        assert models.locate(NAME, "main", settings).revision == hub.commit

    def test_facts_come_from_headers_alone(
        self, settings: Settings, tiny_model: Path, hub: Hub, tmp_path: Path
    ) -> None:
        put_on_hub(hub, make_tiny(tmp_path / "larger", hidden=256, intermediate=512))
        located = models.locate(NAME, None, settings)
        facts = models.inspect(located)
        assert (facts.block_count, facts.model_type) == (2, "llama")
        local = put_local(settings, tmp_path / "larger", "same")
        assert facts == models.inspect(models.Located("same", "local:", local))

    def test_fetches_only_what_is_needed(
        self, settings: Settings, tiny_model: Path, hub: Hub
    ) -> None:
        repository = put_on_hub(hub, tiny_model)
        for name in ("modeling_evil.py", "pytorch_model.bin", "README.md", "other.safetensors"):
            (repository / name).write_text("never fetched")
        seen: list[tuple[int, int]] = []
        located = models.locate(NAME, None, settings)
        wanted = {"config.json", "generation_config.json", "tokenizer.json"}
        wanted |= {"tokenizer_config.json", "model.safetensors"}
        with models.fetched(located, settings, lambda *x: seen.append(x)) as directory:
            assert {path.name for path in directory.iterdir() if path.is_file()} == wanted
            for name in wanted:
                assert (directory / name).read_bytes() == (tiny_model / name).read_bytes()
        assert hub.fetched() == wanted
        assert seen == sorted(seen)
        assert seen[-1][0] == seen[-1][1] == sum((tiny_model / x).stat().st_size for x in wanted)

    def test_sharded(self, settings: Settings, tiny_model: Path, hub: Hub) -> None:
        from transformers import AutoModelForCausalLM

        repository = put_on_hub(hub, tiny_model)
        (repository / "model.safetensors").unlink()
        AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(
            repository, max_shard_size="100KB"
        )
        shards = {path.name for path in repository.glob("*.safetensors")}
        assert len(shards) > 1
        located = models.locate(NAME, None, settings)
        assert models.inspect(located).block_count == 2
        with models.fetched(located, settings, lambda *_: None) as directory:
            assert {path.name for path in directory.glob("*.safetensors")} == shards

    def test_a_broken_download_is_continued(
        self, settings: Settings, tiny_model: Path, hub: Hub
    ) -> None:
        put_on_hub(hub, tiny_model)
        located = models.locate(NAME, None, settings)
        hub.cut_after_bytes = 100_000
        with models.fetched(located, settings, lambda *_: None) as directory:
            content = (directory / "model.safetensors").read_bytes()
        assert hub.cut_after_bytes is None
        assert content == (tiny_model / "model.safetensors").read_bytes()

    def test_an_index_that_names_a_path(
        self, settings: Settings, tiny_model: Path, hub: Hub
    ) -> None:
        repository = put_on_hub(hub, tiny_model)
        index = {"weight_map": {"x": "../../secret.safetensors"}}
        (repository / "model.safetensors.index.json").write_text(json.dumps(index))
        located = models.locate(NAME, None, settings)
        nothing = models.fetched(located, settings, lambda *_: None)
        with pytest.raises(UserError) as caught, nothing:
            pass
        assert caught.value.code == "missing_weights"

    def test_unknown_says_where_it_looked(self, settings: Settings, hub: Hub) -> None:
        with pytest.raises(UserError) as caught:
            models.locate("org/none", None, settings)
        assert caught.value.code == "model_not_found"
        assert str(settings.models_dir / "org/none") in caught.value.message
        assert hub.url in caught.value.message

    def test_unknown_revision(self, settings: Settings, tiny_model: Path, hub: Hub) -> None:
        put_on_hub(hub, tiny_model)
        with pytest.raises(UserError) as caught:
            models.locate(NAME, "v9", settings)
        assert (caught.value.code, caught.value.value) == ("revision_not_found", "v9")

    def test_gated(self, settings: Settings, tiny_model: Path, hub: Hub) -> None:
        put_on_hub(hub, tiny_model)
        hub.gated.add(NAME)
        located = models.locate(NAME, None, settings)
        with pytest.raises(UserError) as caught:
            models.inspect(located)
        assert caught.value.code == "model_gated"

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "pickle_weights"),
            (lambda d: (d / "tokenizer.json").unlink(), "missing_tokenizer"),
            (lambda d: (d / "config.json").unlink(), "missing_config"),
            (lambda d: (d / "config.json").write_text("[]"), "corrupt_config"),
            (lambda d: edit_config(d, auto_map={"AutoModel": "x.Y"}), "remote_code"),
            (lambda d: edit_config(d, model_type="gpt2"), "unsupported_architecture"),
            (lambda d: cut(d / "model.safetensors", 3000), "corrupt_weights"),
            (lambda d: cut(d / "model.safetensors", -9000), "corrupt_weights"),
            (lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 99), "corrupt_weights"),
        ],
    )
    def test_what_cannot_be_quantized(
        self,
        settings: Settings,
        tiny_model: Path,
        hub: Hub,
        change: Callable[[Path], object],
        code: str,
    ) -> None:
        change(put_on_hub(hub, tiny_model))
        with pytest.raises(UserError) as caught:
            models.inspect(models.locate(NAME, None, settings))
        assert caught.value.code == code

    @pytest.mark.parametrize(("status", "code"), [(404, "model_not_found"), (500, HUB_AWAY)])
    def test_a_mirror_that_says_nothing_but_a_status(
        self, settings: Settings, hub: Hub, status: int, code: str
    ) -> None:
        hub.status = status
        with pytest.raises(ApiQError) as caught:
            models.locate(NAME, None, settings)
        assert caught.value.code == code
        assert hub.url in caught.value.message

    def test_silence_says_what_is_here(self, settings: Settings, tiny_model: Path) -> None:
        for name in ("org/tini", "zzz", "a", "b", "c", "d", "e"):
            put_local(settings, tiny_model, name)
        with pytest.raises(InfraError) as caught:
            models.locate(NAME, None, settings)
        message = caught.value.message
        assert caught.value.code == HUB_AWAY
        assert f"no model {settings.models_dir / NAME}" in message
        assert "there are org/tini, " in message and " and 2 more" in message
        assert "does not answer" in message

    def test_silence_where_nothing_is(self, settings: Settings) -> None:
        with pytest.raises(InfraError, match=r"there is none\)"):
            models.locate(NAME, None, settings)

    @pytest.mark.parametrize("code", ["hub_unreachable", "model_not_found", "revision_not_found"])
    def test_a_revision_of_what_is_only_here(
        self, settings: Settings, tiny_model: Path, request: pytest.FixtureRequest, code: str
    ) -> None:
        put_local(settings, tiny_model)
        here = models.locate(NAME, None, settings).revision
        if code != HUB_AWAY:
            hub: Hub = request.getfixturevalue("hub")
            if code == "revision_not_found":
                put_on_hub(hub, tiny_model)
        with pytest.raises(ApiQError) as caught:
            models.locate(NAME, "v9", settings)
        error = caught.value
        assert (error.code, error.param, error.value) == (code, "revision", "v9")
        assert f"at {here}: leave revision out" in error.message
        assert isinstance(error, InfraError if code == HUB_AWAY else UserError)

    def test_silence_while_asking_for_a_pinned_revision_may_pass(self, settings: Settings) -> None:
        with pytest.raises(InfraError) as caught:
            models.locate(NAME, "0" * 40, settings)
        assert caught.value.code == HUB_AWAY


def edit_config(directory: Path, **changes: object) -> None:
    config = json.loads((directory / "config.json").read_text()) | changes
    (directory / "config.json").write_text(json.dumps(config))


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])
