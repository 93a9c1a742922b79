"""The command line: what it prints, where to, and with which exit status."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedrt
from embedrt import CrossEncoder, Embedder, MultiVectorEncoder, load_embeddings
from embedrt.bundle.manifest import MANIFEST, read_bundle
from embedrt.bundle.staging import staging
from embedrt.cli import doctor
from embedrt.cli.main import COMMANDS as COMMAND_TABLE
from embedrt.cli.main import main
from embedrt.cli.streams import CLOSED
from embedrt.compat import hook
from embedrt.engine import numa
from embedrt.hub import local as store
from embedrt_export import export
from tests.kit import late_models
from tests.kit.bundles import change, copy_bundle, rehash
from tests.kit.models import make_model
from tests.kit.score_models import MODELS as RERANKERS

COMMANDS = (
    "export", "encode", "rerank", "serve", "info", "verify", "diff", "ranges", "tune", "bench", "list", "remove",
    "doctor",
)  # fmt: skip
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: exit status, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else -1
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that scores pairs."""
    folder = tmp_path_factory.mktemp("reranker")
    return export(RERANKERS["prompts"](folder / "model"), folder / "bundle", reference="onnx")


def shell(command: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a shell line, where `$EMBEDRT` is the command and `$1`, `$2`, ... are the arguments."""
    settings = {"EMBEDRT": f"{sys.executable} -m embedrt", "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": ""}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, "bash", *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=60,
        env={**os.environ, **settings},
        **options,
    )


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def feed(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return feed


def assert_one_line_error(outcome: tuple[int, str, str], *parts: object) -> None:
    status, out, err = outcome
    assert status == 1
    assert out == ""
    assert err.startswith("embedrt: ")
    assert err.count("\n") == 1
    for part in parts:
        assert str(part) in err


@pytest.fixture
def stored_bundle(tiny_bundle: Path) -> Path:
    """The tiny bundle as `org/tiny` in the store."""
    target = store.stored_path("org/tiny")
    target.parent.mkdir(parents=True)
    return copy_bundle(tiny_bundle, target)


class TestRerank:
    def test_a_file(self, run: Run, reranker: Path, tmp_path: Path) -> None:
        documents = ["the river bank", "a dog", "", "b\u00f6at \U0001f642"]
        (tmp_path / "lines.txt").write_text("\n".join(documents) + "\n", encoding="utf-8")
        status, out, err = run("rerank", reranker, tmp_path / "lines.txt", "--query", "a cat", "--top-k", 3)
        assert (status, err) == (0, "")
        with CrossEncoder(reranker) as model:
            expected = model.rank("a cat", documents, 3, return_documents=True)
        found = [json.loads(line) for line in out.splitlines()]
        assert [list(entry) for entry in found] == [["corpus_id", "score", "text"]] * 3
        assert [(entry["corpus_id"], entry["text"]) for entry in found] == [
            (entry["corpus_id"], entry["text"]) for entry in expected
        ]
        assert [entry["score"] for entry in found] == pytest.approx([entry["score"] for entry in expected], abs=1e-6)

    @pytest.mark.subprocess
    def test_standard_input_prompt_and_activation(self, reranker: Path) -> None:
        line = "printf 'one\\ntwo\\n' | $EMBEDRT rerank $1 --query q --prompt-name query --activation Sigmoid"
        done = shell(line, reranker)
        assert (done.returncode, done.stderr) == (0, "")
        with CrossEncoder(reranker, activation_fn="sigmoid") as model:
            expected = model.rank("q", ["one", "two"], prompt="the cat ")
        scores = [json.loads(line)["score"] for line in done.stdout.splitlines()]
        assert scores == pytest.approx([entry["score"] for entry in expected], abs=1e-6)

    def test_errors(self, run: Run, reranker: Path, tiny_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "lines.txt").write_text("text\n")
        line = ("rerank", reranker, tmp_path / "lines.txt")
        assert run(*line)[0] == 2
        status, out, err = run(*line, "--query", "q", "--activation", "Mish")
        assert (status, out) == (1, "")
        assert err.startswith("embedrt: activation_fn: expected one of Identity, Sigmoid")
        status, out, err = run("rerank", tiny_bundle, tmp_path / "lines.txt", "--query", "q")
        assert (status, out) == (1, "")
        assert "expected a bundle of the task 'score', got 'embed'; open it with embedrt.Embedder" in err
        status, out, err = run(*line, "--query", "long " * 50, "--on-truncation", "error")
        assert (status, out) == (1, "")
        assert err == "embedrt: texts[0]: longer than the 48 tokens that the model reads\n"


class TestUsage:
    def test_version(self, run: Run) -> None:
        assert run("--version") == (0, f"embedrt {embedrt.__version__}\n", "")

    def test_help_lists_the_commands(self, run: Run) -> None:
        status, out, err = run("--help")
        assert (status, err) == (0, "")
        assert [command for command in COMMANDS if re.search(rf"\n  {command}\s", out)] == list(COMMANDS)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_help_of_every_command_has_an_example(self, run: Run, command: str) -> None:
        status, out, err = run(command, "--help")
        assert (status, err) == (0, "")
        examples = out.partition("\n  Examples:\n")[2]
        assert examples.startswith(f"    embedrt {command}")
        for line in examples.splitlines():
            assert f"embedrt {command}" in line

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["unknown"],
            ["encode"],
            ["encode", "a", "--truncate-dim", "x"],
            ["encode", "a", "--on-truncation", "x"],
            ["encode", "a", "--unknown"],
            ["info"],
            ["info", "a", "b"],
            ["remove"],
            ["ranges", "a"],
            ["tune"],
            ["tune", "a", "--show", "--clear"],
            ["tune", "a", "--seconds", "x"],
        ],
    )
    def test_wrong_usage(self, run: Run, arguments: list[str]) -> None:
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("Usage: embedrt")

    @pytest.mark.parametrize(
        ("arguments", "suggestion"),
        [
            (["exprt"], r"No such command 'exprt'\. Did you mean 'export'\?"),
            (["encode", "--normalise", "a"], "No such option.* '?--normalise'?.* Did you mean '?--normalize'?.*"),
            (["xyzzy"], r"No such command 'xyzzy'\."),
        ],
    )
    def test_a_typo(self, run: Run, arguments: list[str], suggestion: str) -> None:
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert re.search(f"\nError: {suggestion}\n$", err)

    def test_every_file_of_the_room_is_listed(self) -> None:
        modules = {target.partition(":")[0].rpartition(".")[2] for target in COMMAND_TABLE.values()}
        files = {path.stem for path in Path(doctor.__file__).parent.glob("*.py")}
        assert modules == files - {"__init__", "main", "options", "streams"}

    @pytest.mark.subprocess
    def test_the_installed_command(self, tiny_bundle: Path) -> None:
        script = Path(sys.executable).with_name("embedrt")
        done = subprocess.run([script, "info", tiny_bundle], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.startswith("name             tiny-bert\n")


class TestEncode:
    def test_texts_become_lines_of_json(self, run: Run, tiny_bundle: Path, tiny: Embedder) -> None:
        status, out, err = run("encode", "--model", tiny_bundle, "one cat", "two é")
        assert (status, err) == (0, "")
        vectors = np.array([json.loads(line) for line in out.splitlines()], np.float32)
        np.testing.assert_array_equal(vectors, tiny.encode(["one cat", "two é"]))

    def test_a_text_that_looks_like_an_option(self, run: Run, tiny_bundle: Path, tiny: Embedder) -> None:
        status, out, _ = run("encode", "-m", tiny_bundle, "--", "--normalize")
        assert status == 0
        np.testing.assert_array_equal(np.array(json.loads(out), np.float32), tiny.encode("--normalize"))

    def test_lines_of_standard_input(
        self, run: Run, stdin: Callable[[str], None], tiny_bundle: Path, tiny: Embedder, tmp_path: Path
    ) -> None:
        stdin("one cat\n\ntwo é\r\n last")
        status, out, err = run("encode", "-m", tiny_bundle, "-", "--output", tmp_path / "x.npy")
        assert (status, out, err) == (0, "", f"{tmp_path / 'x.npy'}: float32 4 x 32\n")
        vectors = np.load(tmp_path / "x.npy", allow_pickle=False)
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, tiny.encode(["one cat", "", "two é", " last"]))

    def test_lines_lose_their_ends_and_nothing_else(
        self, run: Run, stdin: Callable[[str], None], tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str] = []

        def note(_: Embedder, texts: list[str], *__: Any, **___: Any) -> Any:
            seen.extend(texts)
            return np.zeros((len(texts), 1), np.float32)

        monkeypatch.setattr(Embedder, "encode", note)
        stdin(" a \t\n\x0bb\x1c\r\n\n\u3000c\u3000")
        assert run("encode", "-m", tiny_bundle, "-")[0] == 0
        assert seen == [" a \t", "\x0bb\x1c", "", "\u3000c\u3000"]

    def test_no_lines(self, run: Run, stdin: Callable[[str], None], tiny_bundle: Path, tmp_path: Path) -> None:
        stdin("")
        assert run("encode", "-m", tiny_bundle, "-") == (0, "", "")
        stdin("")
        assert run("encode", "-m", tiny_bundle, "-", "--output", tmp_path / "x.npy")[0] == 0
        assert np.load(tmp_path / "x.npy").shape == (0, 32)

    def test_the_kind_of_texts(self, run: Run, tmp_path: Path) -> None:
        prompts = {"query": "cat ", "document": "dog "}
        bundle = export(make_model(tmp_path / "model", prompts=prompts), tmp_path / "bundle", reference="onnx")
        with Embedder(bundle) as model:
            for task in ("query", "document"):
                status, out, _ = run("encode", "-m", bundle, "--task", task, "one")
                assert status == 0
                wanted = model.encode("one", prompt_name=task)
                np.testing.assert_array_equal(np.array(json.loads(out), np.float32), wanted)

    def test_a_multi_vector_model(self, run: Run, tmp_path: Path) -> None:
        bundle = export(late_models.fixed(tmp_path / "model"), tmp_path / "bundle", reference="onnx")
        with MultiVectorEncoder(bundle) as model:
            status, out, err = run("encode", "-m", bundle, "--task", "query", "one cat", "a dog")
            assert (status, err) == (0, "")
            found = [np.array(json.loads(line), np.float32) for line in out.splitlines()]
            np.testing.assert_array_equal(np.stack(found), np.stack(model.encode_query(["one cat", "a dog"])))
            path = tmp_path / "x.safetensors"
            status, out, err = run("encode", "-m", bundle, "--task", "document", "one cat", "a dog.", "--output", path)
            loaded = load_embeddings(path, model)
            wanted = model.encode_document(["one cat", "a dog."])
            count = sum(map(len, wanted))
            assert (status, out, err) == (0, "", f"{path}: float32 {count} x 8 of 2 texts\n")
            assert loaded.texts == ["one cat", "a dog."]
            assert [a.tolist() for a in loaded.vectors] == [a.tolist() for a in wanted]
        for arguments, part in ((["--truncate-dim", "3"], "--truncate-dim"), (["--output", "x.bin"], ".safetensors")):
            assert_one_line_error(run("encode", "-m", bundle, "a", *arguments), part)

    def test_a_dash_among_texts_is_a_text(self, run: Run, tiny_bundle: Path) -> None:
        status, out, _ = run("encode", "-m", tiny_bundle, "a", "-")
        assert status == 0
        assert len(out.splitlines()) == 2

    def test_options_reach_the_embedder(self, run: Run, tmp_path: Path) -> None:
        bundle = export(make_model(tmp_path / "m", prompts={"query": "two : "}, normalize=False), tmp_path / "b")
        embedder = Embedder(bundle)
        for arguments, expected in (
            (["--normalize"], embedder.encode("a", normalize_embeddings=True)),
            (["--truncate-dim", "5"], embedder.encode("a", truncate_dim=5)),
            (["--prompt-name", "query"], embedder.encode("a", "query")),
            (["--prompt", "one "], embedder.encode("one a")),
            (["--device", "cpu", "--threads", "1"], embedder.encode("a")),
        ):
            status, out, err = run("encode", "-m", bundle, "a", *arguments)
            assert (status, err) == (0, "")
            np.testing.assert_allclose(json.loads(out), expected, rtol=0, atol=2e-6)

    @pytest.mark.filterwarnings("always::embedrt.TruncationWarning")
    def test_truncation(self, run: Run, tiny_bundle: Path) -> None:
        arguments = ("encode", "-m", tiny_bundle, "a", "one " * 60)
        status, out, err = run(*arguments)
        assert (status, len(out.splitlines())) == (0, 2)
        assert err == "embedrt: 1 of 2 texts truncated to 48 tokens: texts[1]\n"
        assert run(*arguments, "--on-truncation", "ignore") == (0, out, "")
        assert_one_line_error(run(*arguments, "--on-truncation", "error"), "texts[1]: longer than the 48 tokens")

    def test_the_default_model_comes_from_the_environment(
        self, run: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EMBEDRT_MODEL", str(tiny_bundle))
        assert run("encode", "a")[0] == 0

    def test_the_default_model_is_told_how_to_get(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert_one_line_error(run("encode", "a"), embedrt.DEFAULT_MODEL, "run `embedrt export")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--prompt-name", "x"], "prompt_name: expected one of 'query', 'document', got 'x'"),
            (["--truncate-dim", "99"], "truncate_dim: expected 1 to 32"),
            (["--threads", "0"], "threads: expected a positive integer"),
            (["--device", "gpu"], "device: 'gpu' is unknown (did you mean 'cuda'?); known: auto, cpu"),
            (["--output", "absent/x.npy"], "--output: absent is not a folder"),
            (["b", "\udcff"], "TEXT 3: expected UTF-8, got byte 0xff at character 0; convert it with iconv, or set"),
            (["\ud800"], r"TEXT 2: expected UTF-8, got '\ud800' at character 0; "),
            (["--prompt", "é\udce9"], "--prompt: expected UTF-8, got byte 0xe9 at character 1; "),
            (["--prompt-name", "\udce9"], "--prompt-name: expected UTF-8, got byte 0xe9 at character 0; "),
        ],
    )
    def test_errors(
        self,
        run: Run,
        tiny_bundle: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert_one_line_error(run("encode", "-m", tiny_bundle, "a", *arguments), message)

    def test_an_output_that_is_a_folder(self, run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
        assert_one_line_error(run("encode", "-m", tiny_bundle, "a", "--output", tmp_path), tmp_path)

    @pytest.mark.subprocess
    def test_a_reader_that_stops_early(self, tiny_bundle: Path) -> None:
        """`yes | head` ends in the same way."""
        done = shell("seq 20000 | $EMBEDRT encode -m $1 - | head -1", tiny_bundle)
        assert done.stderr == ""
        assert len(json.loads(done.stdout)) == 32
        assert done.returncode == 141

    @pytest.mark.subprocess
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this platform has no /dev/full")
    def test_a_full_disk(self, tiny_bundle: Path) -> None:
        done = shell("$EMBEDRT encode -m $1 a > /dev/full", tiny_bundle)
        assert done.returncode == 1
        assert done.stderr == "embedrt: [Errno 28] No space left on device\n"

    @pytest.mark.subprocess
    def test_bytes_that_are_not_utf8(self, tiny_bundle: Path) -> None:
        done = shell(r"printf 'a\377\n' | $EMBEDRT encode -m $1 -", tiny_bundle)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr == (
            "embedrt: standard input:1: expected UTF-8, got byte 0xff at position 2; convert the texts to UTF-8, as "
            "with `iconv -f latin1 -t utf-8`, one text per line\n"
        )

    @pytest.mark.subprocess
    def test_a_closed_output(self, tiny_bundle: Path, tmp_path: Path) -> None:
        """Cron jobs and daemons may run without one."""
        done = shell("$EMBEDRT encode -m $1 a --output $2 >&-", tiny_bundle, tmp_path / "x.npy")
        assert (done.returncode, done.stderr.count("\n")) == (0, 1)
        assert np.load(tmp_path / "x.npy").shape == (1, 32)

    @pytest.mark.subprocess
    def test_ascii_as_the_encoding_of_the_terminal(self, tiny_bundle: Path) -> None:
        done = shell("LC_ALL=C PYTHONUTF8=0 PYTHONIOENCODING=ascii $EMBEDRT info --json $1", tiny_bundle)
        assert done.returncode == 0, done.stderr


# A line of the shell for every command, and whether its result goes to standard output. `$1` is a bundle to read, `$2`
# one to change, `$3` a file of texts, `$4` a model folder, `$5` a new folder.
LINES = {
    "encode": ("encode -m $1 'a text'", True),
    "encode --output": ("encode -m $1 'a text' --output $5.npy", False),
    "encode --output /dev/stdout": ("encode -m $1 'a text' --output /dev/stdout", True),
    "info": ("info $1", True),
    "verify": ("verify $1", True),
    "serve": ("serve $1 --check", True),
    "rerank": ("rerank $6 $3 --query text", True),
    "diff": ("diff $1 $1 --texts $3", True),
    "ranges": ("ranges $2 --texts $3", False),
    "tune": ("tune $2 --texts $3 --seconds 0.01", False),
    "tune --show": ("tune $1 --show", True),
    "tune --clear": ("tune $2 --clear", False),
    "bench": ("bench $1 --texts $3 --peers none --quick", True),
    "list": ("list", True),
    "remove": ("remove org/tiny", False),
    "export": ("export $4 -o $5", False),
    "doctor": ("doctor", True),
    "--help": ("--help", True),
    "encode --help": ("encode --help", True),
    "--version": ("--version", True),
}


every_line = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in {"tune", "bench"} else []) for name in LINES]
)


@pytest.mark.subprocess
class TestStreams:
    """Standard input, output and error that are closed, as cron jobs and daemons may have them."""

    @pytest.fixture
    def arguments(
        self, tiny_bundle: Path, tiny_source: Path, stored_bundle: Path, reranker: Path, tmp_path: Path
    ) -> tuple[object, ...]:
        (tmp_path / "lines.txt").write_text("\n".join(f"text {i}" for i in range(100)))
        bundle = copy_bundle(tiny_bundle, tmp_path / "bundle")
        assert stored_bundle.is_dir()
        return tiny_bundle, bundle, tmp_path / "lines.txt", tiny_source, tmp_path / "new", reranker

    def test_every_command_is_here(self) -> None:
        assert {line.split()[0] for line, _ in LINES.values()} - {"--help", "--version"} == set(COMMANDS)

    @every_line
    def test_a_closed_output(self, name: str, arguments: tuple[object, ...], tmp_path: Path) -> None:
        line, prints = LINES[name]
        done = shell(f"EMBEDRT_MODEL=$1 $EMBEDRT {line} >&-", *arguments)
        assert "Traceback" not in done.stderr
        *_, last = done.stderr.splitlines() or [""]
        if prints:
            assert (done.returncode, done.stdout) == (1, "")
            assert last == f"embedrt: {CLOSED}"
            assert done.stderr.count("\n") == 1
        else:
            assert done.returncode == 0, done.stderr
            assert CLOSED not in done.stderr
        if name == "encode --output":
            assert np.load(tmp_path / "new.npy").shape == (1, 32)

    @every_line
    def test_a_closed_input_and_error(self, name: str, arguments: tuple[object, ...]) -> None:
        """No command but `encode -` reads the one, and what would go to the other goes nowhere else."""
        line, prints = LINES[name]
        done = shell(f"EMBEDRT_MODEL=$1 $EMBEDRT {line} <&- 2>&-", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(done.stdout) == (prints or name != "encode --output")

    @pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2> /dev/full"])
    def test_an_error_without_a_place(self, closed: str) -> None:
        done = shell(f"$EMBEDRT info ./absent {closed}")
        assert (done.returncode, done.stdout, done.stderr) == (1, "", "")

    def test_a_pipe_whose_reader_stops_early(self, tiny_bundle: Path, tmp_path: Path) -> None:
        line = (
            "mkfifo $2/pipe; (head -c 1 $2/pipe > $2/out &) ; seq 5000 | $EMBEDRT encode -m $1 - --output $2/pipe >&-"
        )
        done = shell(line, tiny_bundle, tmp_path)
        assert (done.returncode, done.stderr) == (141, "")
        assert (tmp_path / "out").read_bytes() == b"\x93"

    def test_texts_from_a_closed_input(self, tiny_bundle: Path) -> None:
        done = shell("$EMBEDRT encode -m $1 - <&-", tiny_bundle)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "embedrt: standard input: expected texts, one per line, but it is closed; pass texts or a file\n"
        )

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="this platform has no /dev/full")
    @pytest.mark.parametrize("line", ["info $1", "--help", "encode --help", "--version", "list"])
    def test_a_full_output(self, tiny_bundle: Path, stored_bundle: Path, line: str) -> None:
        done = shell(f"$EMBEDRT {line} > /dev/full", tiny_bundle)
        assert (done.returncode, done.stderr) == (1, "embedrt: [Errno 28] No space left on device\n")
        assert stored_bundle.is_dir()

    @pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
    def test_a_path_that_is_not_utf8(self, tiny_bundle: Path, tmp_path: Path) -> None:
        line = "cp -r $1 $2/b$'\\xff' && $EMBEDRT tune $2/b$'\\xff' --clear > $2/out"
        done = shell(line, tiny_bundle, tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "out").read_bytes() == os.fsencode(tmp_path) + b"/b\xff: was not tuned\n"


class TestWithoutAHome:
    """A user id without an entry and without HOME, as in many containers."""

    CODE = (
        "import pwd, sys\n"
        "def unknown(_): raise KeyError('getpwuid(): uid not found')\n"
        "pwd.getpwuid = unknown\n"
        "from embedrt.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    MESSAGE = (
        "there is no folder for the local store, because HOME is not set and this user has no home folder; set "
        "EMBEDRT_HOME to a folder, or name a bundle by its path"
    )

    def run_without(self, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "error"},
        )

    @pytest.mark.subprocess
    @pytest.mark.skipif(os.name == "nt", reason="Windows has no pwd")
    @pytest.mark.parametrize(
        "line",
        [
            "list",
            "encode a",
            "info org/x",
            "verify org/x",
            "diff org/x org/y",
            "ranges org/x --texts {lines}",
            "tune org/x",
            "remove org/x",
            "export org/x",
            "export {source}",
        ],
    )
    def test_a_store_that_has_no_place(self, tiny_source: Path, tmp_path: Path, line: str) -> None:
        (tmp_path / "lines.txt").write_text("a\n" * 100)
        words = line.format(lines=tmp_path / "lines.txt", source=tiny_source).split()
        done = self.run_without(self.CODE, *words)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"embedrt: {self.MESSAGE}\n")

    @pytest.mark.subprocess
    @pytest.mark.skipif(os.name == "nt", reason="Windows has no pwd")
    def test_doctor_has_a_line_for_it(self) -> None:
        done = self.run_without(self.CODE, "doctor")
        assert (done.returncode, done.stderr) == (1, "")
        assert f"store                no folder\n{'':20} ! {self.MESSAGE}\n" in done.stdout

    @pytest.mark.subprocess
    @pytest.mark.skipif(os.name == "nt", reason="Windows has no pwd")
    def test_a_bundle_by_its_path(self, tiny_bundle: Path, tmp_path: Path, tiny_source: Path) -> None:
        done = self.run_without(self.CODE, "encode", "-m", tiny_bundle, "a")
        assert (done.returncode, done.stderr) == (0, "")
        done = self.run_without(self.CODE, "export", tiny_source, "-o", tmp_path / "bundle")
        assert done.returncode == 0, done.stderr

    @pytest.mark.subprocess
    @pytest.mark.skipif(os.name == "nt", reason="Windows has no pwd")
    def test_an_embedder(self) -> None:
        code = (
            self.CODE.partition("from embedrt")[0] + "import embedrt\n"
            "try:\n    embedrt.Embedder('name')\n"
            "except embedrt.ModelNotFoundError as error:\n    print(error)\n"
        )
        done = self.run_without(code)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{self.MESSAGE}\n", "")

    def test_a_home_of_nobody(self, run: Run, tiny_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        remedy = "there is no such home folder; write the path in full"
        assert_one_line_error(run("export", tiny_source, "-o", "~nobody-here/x"), f"~nobody-here/x: {remedy}")
        monkeypatch.setenv("EMBEDRT_HOME", "~nobody-here/x")
        assert_one_line_error(run("list"), f"~nobody-here/x: {remedy}")


class TestInfo:
    def test_facts(self, run: Run, tiny_bundle: Path) -> None:
        status, out, err = run("info", tiny_bundle)
        assert (status, err) == (0, "")
        facts = {line[:17].rstrip(): line[17:] for line in out.splitlines()}
        manifest = read_bundle(tiny_bundle)
        assert facts["name"] == "tiny-bert"
        assert facts["source"] == "folder tiny-bert"
        assert facts["architecture"] == "bert, native graph"
        assert facts["modules"] == "Transformer > Pooling mean > Normalize"
        assert facts["dimensions"] == "32"
        assert facts["normalized"] == "yes"
        assert facts["max tokens"] == "48"
        assert facts["dtypes"] == "float32"
        assert facts["fingerprint"] == manifest.fingerprint
        assert facts["size"].endswith(f" MB in {len(manifest.files) + 1} files")
        for file in ("onnx/model_cpu.onnx", "onnx/model.onnx"):
            assert f"parity float32   {file}: 42 texts of up to 48 tokens, max abs error " in out

    def test_facts_of_a_model_with_everything(self, run: Run, tmp_path: Path) -> None:
        source = make_model(tmp_path / "m", prompts={"query": "q: "}, pooling=["cls", "mean"], normalize=False)
        bundle = export(source, tmp_path / "b", name="mine")
        change(bundle, lambda raw: raw.update(truncate_dim=16, similarity_fn_name="dot"))
        change(bundle, lambda raw: raw["source"].update(kind="hub", id="org/m", revision="abc"))
        _, out, _ = run("info", bundle)
        for line in (
            "name             mine",
            "source           hub org/m at abc",
            "modules          Transformer > Pooling cls, mean",
            "dimensions       64, truncated to 16",
            "normalized       no",
            "prompt query     'q: '",
            "similarity       dot",
        ):
            assert f"{line}\n" in out

    def test_json_is_the_manifest(self, run: Run, tiny_bundle: Path) -> None:
        status, out, err = run("info", "--json", tiny_bundle)
        assert (status, err) == (0, "")
        assert json.loads(out) == json.loads((tiny_bundle / MANIFEST).read_bytes())

    def test_a_name_in_the_store(self, run: Run, stored_bundle: Path) -> None:
        assert run("info", "org/tiny") == run("info", stored_bundle)

    @pytest.mark.parametrize("command", ["info", "verify"])
    def test_what_is_nowhere(self, run: Run, command: str) -> None:
        assert_one_line_error(run(command, "./absent"), "'./absent': neither an existing folder")
        assert_one_line_error(run(command, "org/absent"), "'org/absent' is not in the local store")

    def test_what_is_no_bundle(self, run: Run, tmp_path: Path) -> None:
        assert_one_line_error(run("info", tmp_path), tmp_path, f"it has no {MANIFEST}")


class TestVerify:
    def test_a_good_bundle(self, run: Run, tiny_bundle: Path) -> None:
        status, out, err = run("verify", tiny_bundle)
        assert (status, err) == (0, "")
        files, parity = out.splitlines()
        assert files == f"files: {len(read_bundle(tiny_bundle).files)} as listed"
        assert parity.startswith("float32: 42 texts of up to 48 tokens, max abs error ")
        assert "(1e-05 allowed)" in parity

    def test_the_real_model(self, run: Run, minilm_bundle: Path) -> None:
        assert run("verify", minilm_bundle, "--threads", "2", "--device", "cpu")[0] == 0

    def test_a_damaged_file(self, run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
        bundle = copy_bundle(tiny_bundle, tmp_path / "bundle")
        weights = bundle / "onnx" / "model.onnx_data"
        weights.write_bytes(bytes(weights.stat().st_size))
        assert_one_line_error(run("verify", bundle), weights, "SHA-256")

    def test_vectors_that_differ(self, run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
        bundle = copy_bundle(tiny_bundle, tmp_path / "bundle")
        vectors = np.load(bundle / "parity" / "vectors.npy")
        vectors[3, 5] += 2e-5
        np.save(bundle / "parity" / "vectors.npy", vectors)
        rehash(bundle)
        status, _, err = run("verify", bundle)
        assert status == 1
        assert "the vectors of tiny-bert (onnx/model_cpu.onnx) differ from" in err
        assert "by up to 2.0e-05 in a coordinate; the tolerance is 1e-05; the worst texts:\n  2.0e-05 to" in err
        assert "texts[3] = " in err
        assert "Traceback" not in err


class TestStore:
    def test_an_empty_list(self, run: Run, own_store: Path) -> None:
        status, out, err = run("list")
        assert (status, out) == (0, "")
        assert err == f"the store {own_store} is empty; `embedrt export SOURCE` puts a bundle there\n"

    def test_list_and_remove(self, run: Run, stored_bundle: Path, tiny_bundle: Path) -> None:
        (copy_bundle(tiny_bundle, store.stored_path("broken")) / MANIFEST).write_text("{}")
        status, out, err = run("list")
        assert (status, err) == (0, "")
        broken, sound = out.splitlines()
        assert broken.split()[:2] == ["broken", "damaged:"]
        assert sound.split() == ["org/tiny", "32", "dimensions", "float32"]
        assert run("remove", "org/tiny") == (0, f"removed {stored_bundle}\n", "")
        assert run("remove", "broken")[0] == 0
        assert run("list")[1] == ""

    def test_remove_what_is_not_there(self, run: Run, stored_bundle: Path) -> None:
        assert_one_line_error(run("remove", "org/other"), "'org/other' is not in the store", "there: org/tiny")
        assert_one_line_error(run("remove", "../tiny"), "'../tiny' is not in the store")
        assert stored_bundle.is_dir()


class TestExport:
    def test_into_the_store_and_out_of_it(self, run: Run, tiny_source: Path, own_store: Path) -> None:
        status, out, _ = run("export", tiny_source, "--name", "org/mine")
        assert status == 0
        folder, *parity = out.splitlines()
        assert folder == str(own_store / "bundles" / "org--mine")
        files = ("onnx/model_cpu.onnx", "onnx/model.onnx")
        for line, file in zip(parity, files, strict=True):
            assert line.startswith(f"parity float32: {file}: 42 texts")
        assert run("encode", "-m", "org/mine", "a")[0] == 0

    def test_a_source_that_is_not_there(self, run: Run) -> None:
        assert_one_line_error(run("export", "./absent"), "'./absent': no such folder")

    @pytest.mark.subprocess
    def test_without_the_extra(self, tiny_source: Path) -> None:
        code = (
            "import sys; sys.modules['onnx'] = None; from embedrt.cli.main import main; "
            f"sys.exit(main(['export', {str(tiny_source)!r}]))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        assert done.stderr.startswith("embedrt: exporting needs the package onnx")
        assert "pip install 'embedrt[export]'" in done.stderr
        assert done.stderr.count("\n") == 1


class TestDoctor:
    @pytest.fixture(autouse=True)
    def default_model(self, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EMBEDRT_MODEL", str(tiny_bundle))

    @staticmethod
    def problems(out: str) -> list[str]:
        return [line.strip(" !") for line in out.splitlines() if line.startswith(" " * 20 + " ! ")]

    def test_a_healthy_machine(self, run: Run, stored_bundle: Path, own_store: Path) -> None:
        status, out, err = run("doctor")
        assert (status, err, self.problems(out)) == (0, "", [])
        facts = {line[:21].strip(): line[21:] for line in out.splitlines()}
        assert facts["embedrt"] == embedrt.__version__
        assert facts["onnxruntime"].endswith(", telemetry off")
        assert facts["devices"].startswith("cpu")
        assert "by affinity" in facts["threads"]
        assert facts["store"] == str(own_store)
        assert facts["org/tiny"] == "bert, 32 dimensions, float32"
        assert facts["default model"].endswith("(there)")
        assert stored_bundle.is_dir()

    def test_numa_nodes_are_counted(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "NUMA" not in run("doctor")[1]
        monkeypatch.setattr(numa, "nodes", lambda: (numa.Node(frozenset({0})), numa.Node(frozenset({1}))))
        assert "; 2 NUMA nodes\n" in run("doctor")[1]

    def test_nothing_is_made(self, run: Run, own_store: Path) -> None:
        assert run("doctor")[0] == 0
        assert not own_store.exists()

    def test_a_bundle_of_a_revision_is_sound(self, run: Run, tiny_bundle: Path) -> None:
        target = store.stored_path("org/tiny", "v2")
        target.parent.mkdir(parents=True)
        copy_bundle(tiny_bundle, target)
        status, out, _ = run("doctor")
        assert (status, self.problems(out)) == (0, [])
        assert "org/tiny@v2" in out

    def test_a_damaged_bundle(self, run: Run, stored_bundle: Path) -> None:
        (stored_bundle / "tokenizer.json").write_text("")
        status, out, _ = run("doctor")
        assert status == 1
        (problem,) = self.problems(out)
        assert problem.startswith(f"{stored_bundle / 'tokenizer.json'}: expected 2630 bytes, got 0")
        assert problem.endswith("; or `embedrt remove org/tiny`")

    def test_a_bundle_is_judged_in_the_store_and_not_in_the_working_folder(
        self, run: Run, stored_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "work" / "org" / "tiny").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "work")
        status, out, _ = run("doctor")
        assert (status, self.problems(out)) == (0, [])
        assert stored_bundle.is_dir()

    def test_a_store_that_is_read_only(self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("os.access", lambda *_: False)
        status, out, _ = run("doctor")
        assert status == 1
        assert self.problems(out) == [f"{tmp_path} is read-only for this user; set EMBEDRT_HOME to a folder of yours"]

    def test_a_default_model_that_is_absent(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("EMBEDRT_MODEL")
        status, out, _ = run("doctor")
        assert status == 1
        assert self.problems(out) == [f"run `embedrt export {embedrt.DEFAULT_MODEL}`, or set EMBEDRT_MODEL to a bundle"]

    def test_what_a_killed_export_left(self, run: Run, stored_bundle: Path) -> None:
        with staging(stored_bundle) as folder:
            assert run("doctor")[0] == 0
            (leftover := folder.parent.with_name(".unfinished-x")).mkdir()
            os.utime(leftover, (0, 0))
            status, out, _ = run("doctor")
        assert status == 1
        assert self.problems(out) == [f"delete {leftover}, or let the next export do it"]

    @pytest.mark.parametrize(
        ("state", "active", "package", "found", "problem"),
        [
            ((False, False, False), False, None, "not in place; sentence-transformers is not installed", None),
            (
                (True, True, True),
                True,
                "6.2.0",
                "in place (embedrt.compat); sentence-transformers 6.2.0 is installed",
                None,
            ),
            (
                (True, True, False),
                False,
                None,
                "ready for EMBEDRT_AS_SENTENCE_TRANSFORMERS=1; sentence-transformers is not installed",
                None,
            ),
            ((False, False, True), False, None, "sentence-transformers is not installed", "the hook is missing; run"),
            ((True, False, True), False, None, "sentence-transformers is not installed", "is of another embedrt; run"),
        ],
    )
    def test_the_drop_in_module(
        self, state: tuple[bool, bool, bool], active: bool, package: str | None, found: str, problem: str | None
    ) -> None:
        is_there, is_current, is_set = state
        known = hook.State(Path("x.pth"), is_there=is_there, is_current=is_current, is_set=is_set)
        finding = doctor.compat_finding(known, active=active, package=package)
        assert (finding.topic, finding.found) == ("drop-in module", found)
        assert (problem or "") in (finding.problem or "")
        assert (problem is None) == (finding.problem is None)

    def test_less_than_a_processor(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "quota", lambda: 0.5)
        status, out, _ = run("doctor")
        assert status == 1
        assert self.problems(out) == ["less than one CPU core is granted; expect high latency"]
        assert "0.5 by cgroup limit" in out

    def test_no_engine(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        status, out, _ = run("doctor")
        assert status == 1
        (problem,) = self.problems(out)
        assert "pip install 'embedrt[cpu]'" in problem

    def test_two_wheels_of_the_engine(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "_version", lambda _: "1.0")
        status, out, _ = run("doctor")
        assert status == 1
        assert any("overwrite each other; uninstall both" in problem for problem in self.problems(out))

    def test_no_exporter_is_no_problem(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        found = doctor._version
        monkeypatch.setattr(doctor, "_version", lambda name: None if name == "onnx" else found(name))
        status, out, _ = run("doctor")
        assert (status, self.problems(out)) == (0, [])
        assert "onnx missing" in out
        assert "`pip install 'embedrt[export]'` adds it" in out


def test_an_interruption(run: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Embedder, "encode", interrupt)
    assert run("encode", "-m", tiny_bundle, "a") == (130, "", "embedrt: interrupted\n")
