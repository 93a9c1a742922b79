"""The local store: names and places, publishing whole bundles, and the way from a name to a bundle."""

import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedrt import BundleError, Embedder, ModelNotFoundError
from embedrt.bundle.atomic import publish
from embedrt.bundle.manifest import MANIFEST, read_bundle, read_manifest
from embedrt.bundle.staging import staging, unfinished
from embedrt.hub import remote as hub
from embedrt.hub import resolve as resolving
from embedrt.hub.local import home, remove, stored, stored_path
from embedrt.hub.resolve import resolve
from tests.kit.bundles import change, copy_bundle

DAY = 24 * 3600


def put(bundle: Path, name: str, revision: str | None = None) -> Path:
    """A copy of the bundle in the store."""
    target = stored_path(name, revision)
    target.parent.mkdir(parents=True, exist_ok=True)
    return copy_bundle(bundle, target)


def another_model(folder: Path) -> Path:
    """Makes the bundle one of another vector space."""
    change(folder, lambda raw: raw.update(fingerprint="0" * 64))
    return folder


class TestHome:
    def test_the_environment_chooses(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("EMBEDRT_HOME", str(tmp_path / "x"))
        assert home() == tmp_path / "x"
        monkeypatch.setenv("EMBEDRT_HOME", "~/x")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert home() == tmp_path / "x"

    @pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="other platforms keep caches elsewhere")
    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            ({}, "HOME/.cache/embedrt"),
            ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/embedrt"),
            ({"XDG_CACHE_HOME": ""}, "HOME/.cache/embedrt"),
            ({"EMBEDRT_HOME": ""}, "HOME/.cache/embedrt"),
            ({"EMBEDRT_HOME": "", "SENTENCE_TRANSFORMERS_HOME": "/st"}, "/st"),
        ],
    )
    def test_the_place_on_linux(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], expected: str
    ) -> None:
        for name in ("EMBEDRT_HOME", "SENTENCE_TRANSFORMERS_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert home() == Path(expected.replace("HOME", str(tmp_path)))

    def test_the_place_on_any_platform(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("EMBEDRT_HOME", "SENTENCE_TRANSFORMERS_HOME"):
            monkeypatch.delenv(name, raising=False)
        assert home() == platformdirs.user_cache_path("embedrt", appauthor=False)


PART = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,6}[A-Za-z0-9_])?", fullmatch=True)
NAMES = (PART | st.builds("{}/{}".format, PART, PART)).filter(lambda name: "--" not in name)
REVISIONS = st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,8}", fullmatch=True)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "revision", "folder"),
        [
            ("model", None, "model"),
            ("org/model-v1.5_x", None, "org--model-v1.5_x"),
            ("org/model", "v2", "org--model@v2"),
            ("org/model", "refs/pr/1", "org--model@refs--pr--1"),
            ("org/model", "../../etc", "org--model@..--..--etc"),
        ],
    )
    def test_a_name_is_one_folder(self, own_store: Path, name: str, revision: str | None, folder: str) -> None:
        assert stored_path(name, revision) == own_store / "bundles" / folder

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "..",
            "../x",
            "a/../b",
            "/a",
            "a/",
            "a/b/c",
            ".hidden",
            "org/.hidden",
            "-x",
            "a b",
            "a\\b",
            "C:x",
            "a\n",
            "é",
            "a@v1",
            "x" * 97,
            "a--b",
            "org-/model",
            "model.",
        ],
    )
    def test_what_is_no_name(self, name: str) -> None:
        with pytest.raises(ValueError, match="is not a model name; expected `name` or `org/name`") as caught:
            stored_path(name)
        assert repr(name) in str(caught.value)

    @given(NAMES, REVISIONS)
    @example("org/model", "refs/pr/1")
    def test_every_bundle_is_listed_under_the_name_that_finds_it(
        self, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, name: str, revision: str | None
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EMBEDRT_HOME", str(tmp_path_factory.mktemp("home")))
            target = stored_path(name, revision)
            target.mkdir(parents=True)
            shutil.copyfile(tiny_bundle / MANIFEST, target / MANIFEST)
            (listed,) = stored()
            assert resolve(listed, local_files_only=True) == target
            assert resolve(name, revision=revision, local_files_only=True) == target
            assert remove(listed) == target
            assert stored() == {}

    @given(st.tuples(NAMES, REVISIONS), st.tuples(NAMES, REVISIONS))
    def test_two_names_never_share_a_folder(
        self, first: tuple[str, str | None], second: tuple[str, str | None]
    ) -> None:
        def key(name: str, revision: str | None) -> tuple[str, str | None]:
            return name, revision and revision.replace("/", "--")

        assert (stored_path(*first) == stored_path(*second)) == (key(*first) == key(*second))


class TestListing:
    def test_an_empty_store(self) -> None:
        assert stored() == {}

    def test_sound_and_damaged_ones(self, tiny_bundle: Path) -> None:
        put(tiny_bundle, "org/good")
        put(tiny_bundle, "org/good", "v2")
        (put(tiny_bundle, "bad") / MANIFEST).write_text("{")
        (home() / "bundles" / ".unfinished-x").mkdir()
        found = stored()
        assert list(found) == ["bad", "org/good", "org/good@v2"]
        assert isinstance(found["bad"], BundleError)
        assert found["org/good"] == found["org/good@v2"] == read_manifest(tiny_bundle)

    def test_what_is_not_of_ours_is_not_listed(self, tiny_bundle: Path) -> None:
        folder = put(tiny_bundle, "good").parent
        (folder / "notes.txt").write_text("")
        (folder / "two words").mkdir()
        assert list(stored()) == ["good"]

    def test_remove(self, tiny_bundle: Path) -> None:
        first, second = put(tiny_bundle, "org/model"), put(tiny_bundle, "org/model", "v2")
        assert remove("org/model@v2") == second
        assert not second.exists()
        assert remove("org/model") == first
        assert list((home() / "bundles").iterdir()) == []

    def test_remove_a_damaged_one(self, tiny_bundle: Path) -> None:
        (put(tiny_bundle, "bad") / MANIFEST).unlink()
        remove("bad")
        assert stored() == {}

    def test_remove_an_unknown_one(self, tiny_bundle: Path, own_store: Path) -> None:
        with pytest.raises(ModelNotFoundError) as caught:
            remove("x")
        assert str(caught.value) == f"'x' is not in the store {own_store}; there: the store is empty"
        put(tiny_bundle, "org/a")
        put(tiny_bundle, "b", "v1")
        with pytest.raises(ModelNotFoundError, match=r"there: b@v1, org/a$"):
            remove("b")
        for name in ("../b", "b@", "b", ""):
            with pytest.raises(ModelNotFoundError):
                remove(name)
        assert list(stored()) == ["b@v1", "org/a"]


class TestStaging:
    def test_what_is_not_published_is_gone(self, tmp_path: Path) -> None:
        target = tmp_path / "deep" / "target"
        with staging(target) as folder:
            assert folder.parent.parent == target.parent
            (folder / "x").write_text("x")
        assert list(target.parent.iterdir()) == []

    def test_an_error_leaves_nothing_behind(self, tmp_path: Path) -> None:
        def fail_halfway() -> None:
            with staging(tmp_path / "target") as folder:
                (folder / "sub").mkdir()
                (folder / "sub" / "x").write_text("x")
                raise LookupError

        with pytest.raises(LookupError):
            fail_halfway()
        assert list(tmp_path.iterdir()) == []

    def test_two_at_once_have_folders_of_their_own(self, tmp_path: Path) -> None:
        with staging(tmp_path / "target") as one, staging(tmp_path / "target") as two:
            assert one != two
            assert one.is_dir()

    @pytest.mark.skipif(os.name == "nt", reason="Windows needs privileges for links")
    def test_a_leftover_that_another_process_just_deleted(self, tmp_path: Path) -> None:
        """A dangling link is listed and then is not there, as if deleted in between."""
        (tmp_path / ".unfinished-gone").symlink_to("nowhere")
        assert unfinished(tmp_path) == []
        with staging(tmp_path / "target") as folder:
            assert folder.is_dir()


class TestPublish:
    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        return tmp_path / "place" / "target"

    @staticmethod
    def publish_copy(bundle: Path, target: Path, *, overwrite: bool = False, other: bool = False) -> None:
        with staging(target) as folder:
            shutil.copytree(bundle, folder, dirs_exist_ok=True)
            if other:
                another_model(folder)
            publish(folder, target, overwrite=overwrite)
        assert not list(target.parent.glob(".unfinished-*"))

    def test_a_fresh_one(self, tiny_bundle: Path, target: Path) -> None:
        before = os.umask(0o027)
        try:
            self.publish_copy(tiny_bundle, target)
        finally:
            os.umask(before)
        assert read_bundle(target) == read_bundle(tiny_bundle)
        if os.name != "nt":
            assert target.stat().st_mode & 0o777 == 0o750

    def test_the_umask_is_left_as_it_was(self, tiny_bundle: Path, target: Path) -> None:
        before = os.umask(0o022)
        try:
            self.publish_copy(tiny_bundle, target)
            assert os.umask(0o022) == 0o022
        finally:
            os.umask(before)

    def test_an_empty_folder_is_filled(self, tiny_bundle: Path, target: Path) -> None:
        target.mkdir(parents=True)
        self.publish_copy(tiny_bundle, target)
        assert read_bundle(target) == read_bundle(tiny_bundle)

    def test_the_same_model_is_left_as_it_is(self, tiny_bundle: Path, target: Path) -> None:
        self.publish_copy(tiny_bundle, target)
        change(target, lambda raw: raw.update(name="the first"))
        self.publish_copy(tiny_bundle, target)
        assert read_bundle(target).name == "the first"

    def test_another_model_is_not_replaced(self, tiny_bundle: Path, target: Path) -> None:
        self.publish_copy(tiny_bundle, target)
        with pytest.raises(BundleError, match="exists and is not an intact bundle of the same model") as caught:
            self.publish_copy(tiny_bundle, target, other=True)
        assert str(target) in str(caught.value)
        assert read_bundle(target) == read_bundle(tiny_bundle)

    def test_a_damaged_bundle_is_not_taken_for_the_same(self, tiny_bundle: Path, target: Path) -> None:
        self.publish_copy(tiny_bundle, target)
        (target / "tokenizer.json").write_text("damaged")
        with pytest.raises(BundleError, match="not an intact bundle"):
            self.publish_copy(tiny_bundle, target)
        self.publish_copy(tiny_bundle, target, overwrite=True)
        assert read_bundle(target) == read_bundle(tiny_bundle)

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_what_is_no_bundle_is_left_alone(self, tiny_bundle: Path, target: Path, kind: str) -> None:
        target.parent.mkdir()
        mine = target / "mine.txt" if kind == "folder" else target
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")
        with pytest.raises(BundleError, match="exists and is not an intact bundle of the same model"):
            self.publish_copy(tiny_bundle, target)
        assert mine.read_text() == "mine"

    def test_overwriting(self, tiny_bundle: Path, target: Path) -> None:
        self.publish_copy(tiny_bundle, target, overwrite=True)
        (target / "stale.txt").write_text("")
        self.publish_copy(tiny_bundle, target, overwrite=True, other=True)
        assert read_bundle(target).fingerprint == "0" * 64
        assert not (target / "stale.txt").exists()

    def test_an_error_of_the_disk_is_not_mistaken_for_an_existing_target(
        self, tiny_bundle: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "rename", full)
        with pytest.raises(OSError, match="No space left on device"):
            self.publish_copy(tiny_bundle, target)

    @pytest.mark.skipif(os.name == "nt", reason="Windows cannot flush folders")
    def test_everything_is_on_the_disk_before_it_appears(
        self, tiny_bundle: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flushed: dict[int, bool] = {}
        fsync = os.fsync

        def note(descriptor: int) -> None:
            flushed[os.fstat(descriptor).st_ino] = target.exists()
            fsync(descriptor)

        monkeypatch.setattr("os.fsync", note)
        self.publish_copy(tiny_bundle, target)
        for path in [target, *target.rglob("*")]:
            assert flushed.pop(path.stat().st_ino) is False
        assert flushed == {target.parent.stat().st_ino: True}

    def test_eight_at_once_are_one(self, tiny_bundle: Path, target: Path) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: self.publish_once(tiny_bundle, target), range(8)))
        assert read_bundle(target) == read_bundle(tiny_bundle)
        assert [path.name for path in target.parent.iterdir()] == ["target"]

    @staticmethod
    def publish_once(bundle: Path, target: Path) -> None:
        with staging(target) as folder:
            shutil.copytree(bundle, folder, dirs_exist_ok=True)
            publish(folder, target)


class FakeHub:
    """A hub with one bundle repo and one model repo, which counts what it is asked."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.asked: list[str] = []

    def find(self, repo_id: str, revision: str | None, _: Any) -> hub.Repo:
        self.asked.append(repo_id)
        files = ["config.json", "model.safetensors"]
        if repo_id == "org/bundle":
            files = [path.relative_to(self.bundle).as_posix() for path in self.bundle.rglob("*") if path.is_file()]
        return hub.Repo(repo_id, revision or "c0ffee", tuple(files))

    def download(self, _: hub.Repo, __: Any, files: Any, folder: Path) -> Path:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.bundle / name, folder / name)
        (folder / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)
        return folder


@pytest.fixture
def fake_hub(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(copy_bundle(tiny_bundle, tmp_path / "on-the-hub"))
    monkeypatch.setattr(hub, "find_repo", fake.find)
    monkeypatch.setattr(hub, "download", fake.download)
    return fake


class TestResolve:
    def test_a_folder_comes_first(
        self, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_hub: FakeHub
    ) -> None:
        put(tiny_bundle, "org/bundle")
        copy_bundle(tiny_bundle, tmp_path / "work" / "org" / "bundle")
        monkeypatch.chdir(tmp_path / "work")
        assert resolve("org/bundle") == Path("org/bundle")
        assert resolve(Path("org/bundle")) == Path("org/bundle")
        assert fake_hub.asked == []

    def test_a_folder_that_the_next_overwrite_has_moved_away(
        self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found, missed = os.path.isdir, iter([False, False])
        monkeypatch.setattr("os.path.isdir", lambda path: next(missed, None) is None and found(path))
        assert resolve(tiny_bundle) == tiny_bundle

    def test_the_users_folder(self, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        copy_bundle(tiny_bundle, tmp_path / "mine")
        assert resolve("~/mine") == tmp_path / "mine"
        assert resolve(Path("~/mine")) == tmp_path / "mine"

    def test_then_the_store(self, tiny_bundle: Path, fake_hub: FakeHub) -> None:
        folder = put(tiny_bundle, "org/bundle")
        other = put(tiny_bundle, "org/bundle", "v2")
        assert resolve("org/bundle") == folder
        assert resolve("org/bundle", revision="v2") == resolve("org/bundle@v2") == other
        assert fake_hub.asked == []

    def test_a_cache_folder_comes_before_the_store(self, tiny_bundle: Path, tmp_path: Path, fake_hub: FakeHub) -> None:
        """Clients that pass a folder of their own find what `embedrt export` put into the store."""
        stored_one = put(tiny_bundle, "org/bundle")
        assert resolve("org/bundle", cache_folder=tmp_path / "other") == stored_one
        assert not (tmp_path / "other").exists()
        own = stored_path("org/bundle", None, tmp_path / "other")
        own.parent.mkdir(parents=True)
        copy_bundle(tiny_bundle, own)
        assert resolve("org/bundle", cache_folder=tmp_path / "other") == own
        assert fake_hub.asked == []

    def test_a_cache_folder_and_the_store_are_named(self, tmp_path: Path, own_store: Path) -> None:
        with pytest.raises(
            ModelNotFoundError, match=rf"is not in {tmp_path / 'other'} or the local store {own_store}, "
        ):
            resolve("org/model", cache_folder=tmp_path / "other", local_files_only=True)

    def test_a_download_goes_to_the_cache_folder(self, tmp_path: Path, fake_hub: FakeHub) -> None:
        folder = resolve("org/bundle", cache_folder=tmp_path / "other")
        assert folder == stored_path("org/bundle", None, tmp_path / "other")
        assert folder.is_relative_to(tmp_path / "other")
        assert fake_hub.asked == ["org/bundle"]
        assert stored() == {}

    def test_a_revision_of_a_bundle_that_was_stored_without_one(self, tiny_bundle: Path, own_store: Path) -> None:
        put(tiny_bundle, "org/model")
        put(tiny_bundle, "org/model", "v2")
        with pytest.raises(ModelNotFoundError) as caught:
            resolve("org/model", revision="main", local_files_only=True)
        assert str(caught.value) == (
            f"'org/model' at revision 'main' is not in the local store {own_store} (it has 'org/model', "
            "'org/model@v2'; leave out the revision to take it), and the network may not be used; where it may, run "
            "`embedrt export org/model --revision main -o FOLDER` and copy the folder here"
        )
        with pytest.raises(
            ModelNotFoundError, match=r"does not provide it: .* \(it has 'org/model', 'org/model@v2'; leave"
        ):
            resolve("org/model@main")

    def test_a_name_that_is_stored_at_a_revision_only(self, tiny_bundle: Path, own_store: Path) -> None:
        put(tiny_bundle, "org/model", "v2")
        with pytest.raises(ModelNotFoundError, match=rf"store {own_store} \(it has 'org/model@v2'\), and the network"):
            resolve("org/model", local_files_only=True)

    def test_then_a_bundle_on_the_hub_which_is_stored(self, fake_hub: FakeHub, tiny: Embedder) -> None:
        folder = resolve("org/bundle")
        assert folder == stored_path("org/bundle")
        assert read_bundle(folder) == tiny.manifest
        assert not (folder / ".cache").exists()
        assert resolve("org/bundle") == folder
        assert fake_hub.asked == ["org/bundle"]
        assert resolve("org/bundle", revision="v2") == stored_path("org/bundle", "v2")

    def test_a_damaged_bundle_on_the_hub_is_not_stored(self, fake_hub: FakeHub) -> None:
        (fake_hub.bundle / "tokenizer.json").write_text("damaged")
        with pytest.raises(BundleError, match=r"tokenizer\.json: expected \d+ bytes, got 7"):
            resolve("org/bundle")
        assert stored() == {}
        assert list((home() / "bundles").iterdir()) == []

    def test_paths_of_a_bundle_on_the_hub_are_checked_before_the_download(self, fake_hub: FakeHub) -> None:
        (fake_hub.bundle.parent / "x").write_text("x")
        change(fake_hub.bundle, lambda raw: raw["files"].update({"../x": raw["files"]["tokenizer.json"]}))
        with pytest.raises(BundleError, match=r"'\.\./x' is not a plain path inside the bundle"):
            resolve("org/bundle")
        assert list((home() / "bundles").iterdir()) == []

    @pytest.mark.usefixtures("fake_hub")
    def test_then_an_export_on_the_spot(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        calls: list[Any] = []

        def export(*arguments: Any, **options: Any) -> Path:
            calls.append((arguments, options))
            return tmp_path

        monkeypatch.setattr("embedrt_export.export", export)
        assert resolve("org/model", revision="v1", token="t", task="score") == tmp_path
        target = stored_path("org/model", "v1")
        assert calls == [
            (("org/model", target), {"name": "org/model", "revision": "v1", "token": "t", "task": "score"})
        ]

    @pytest.mark.usefixtures("fake_hub")
    @pytest.mark.parametrize("missing", ["onnx", "safetensors"])
    def test_without_the_extra_the_message_says_what_to_run(
        self, monkeypatch: pytest.MonkeyPatch, missing: str
    ) -> None:
        monkeypatch.setattr(resolving, "find_spec", lambda name: None if name == missing else find_spec(name))
        with pytest.raises(ModelNotFoundError) as caught:
            resolve("org/model")
        assert str(caught.value) == (
            "'org/model' on the hub is a model, not a bundle; run `pip install 'embedrt[export]'`, then "
            "`embedrt export org/model`"
        )

    @pytest.mark.parametrize("way", ["argument", "environment"])
    def test_offline(self, own_store: Path, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", way == "environment")
        with pytest.raises(ModelNotFoundError) as caught:
            resolve("org/bundle", local_files_only=way == "argument")
        assert str(caught.value) == (
            f"'org/bundle' is not in the local store {own_store}, and the network may not be used; where it may, run "
            "`embedrt export org/bundle -o FOLDER` and copy the folder here"
        )
        assert fake_hub.asked == []

    def test_offline_with_a_revision(self) -> None:
        with pytest.raises(ModelNotFoundError, match=r"run `embedrt export org/model --revision v1 -o FOLDER` and"):
            resolve("org/model@v1", local_files_only=True)

    def test_a_hub_out_of_reach(self) -> None:
        """The address is one where nobody listens."""
        with pytest.raises(ModelNotFoundError, match="is not in the local store, and the hub does not provide it: "):
            Embedder("org/model")

    @pytest.mark.parametrize(
        "model",
        [
            "",
            "./absent",
            "../absent",
            "/absent",
            "a/b/c",
            "~/absent",
            "~nobody-of-that-name/x",
            "x" * 5000,
            "a b",
            "\0",
            "a@",
            "@v1",
            "a@v1@v2",
            Path("absent"),
            Path("org/model"),
        ],
    )
    def test_what_is_neither_folder_nor_name(
        self, model: str | Path, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(ModelNotFoundError) as caught:
            resolve(model)
        assert str(caught.value) == f"{str(model)!r}: neither an existing folder nor a model name"
        assert fake_hub.asked == []

    def test_a_name_with_two_revisions(self) -> None:
        with pytest.raises(ValueError, match=r"revision: 'v2', but 'org/model@v1' names another"):
            resolve("org/model@v1", revision="v2")

    @pytest.mark.parametrize("model", [None, 3, b"x", ["x"]])
    def test_what_is_neither_str_nor_path(self, model: Any) -> None:
        with pytest.raises(TypeError, match=rf"path: expected a str or a Path, got {type(model).__name__}$"):
            resolve(model)

    def test_a_stored_bundle_without_a_manifest_is_none(self, tiny_bundle: Path) -> None:
        (put(tiny_bundle, "org/model") / MANIFEST).unlink()
        with pytest.raises(ModelNotFoundError, match="not in the local store"):
            resolve("org/model", local_files_only=True)

    def test_a_stored_bundle_is_encoded_with(self, tiny_bundle: Path, tiny: Embedder) -> None:
        put(tiny_bundle, "org/model")
        embedder = Embedder("org/model", local_files_only=True)
        assert embedder.folder == stored_path("org/model")
        assert (embedder.encode("a") == tiny.encode("a")).all()
