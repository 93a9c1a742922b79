"""The configuration of a server: flags, environment and file, their order, and their errors."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from embedrt.cli.main import main
from embedrt.cli.serve import serve
from embedrt.server.configuration import Settled, Words, settle, shown_as_toml
from embedrt.server.options import FLAGS, OPTIONS, PREFIX
from embedrt.server.settings import Limits, ModelSettings, Settings

MODEL = ("bge=BAAI/bge-small-en-v1.5",)


def whole(*words: str, flags: dict[str, str] | None = None, file: Path | None = None, **environment: str) -> Settled:
    texts = {name: (text,) for name, text in (flags or {}).items()}
    return settle(Words(words, texts, file), environment)


def settled(*words: str, flags: dict[str, str] | None = None, file: Path | None = None, **environment: str) -> Settings:
    return whole(*words, flags=flags, file=file, **environment).settings


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "serve.toml"


# What there is, and where its value comes from.


def test_every_field_of_the_settings_has_an_option() -> None:
    """Every setting has an option that sets it."""
    fields = {
        *(f"server.{field.name}" for field in dataclasses.fields(Settings)),
        *(f"limits.{field.name}" for field in dataclasses.fields(Limits)),
        *(f"model.{field.name}" for field in dataclasses.fields(ModelSettings)),
    } - {"server.models", "server.limits", "server.config_file"}
    named = {option.name for option in OPTIONS if option.scope in {"server", "limits", "model"}}
    assert named == fields


def test_no_two_options_share_a_flag_or_a_variable() -> None:
    flags = [flag for option in OPTIONS for flag in option.flags]
    variables = [name for option in FLAGS.values() for name in (option.variable, *option.also)]
    assert len(flags) == len(set(flags))
    assert len(variables) == len(set(variables))


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.default], ids=lambda option: option.name)
def test_defaults_of_the_help_text_are_those_of_the_settings(option: object) -> None:
    """Numbers and addresses of the help text are those that hold."""
    from embedrt.server.options import Option

    assert isinstance(option, Option)
    defaults = settled(*MODEL)
    record = {"server": defaults, "limits": defaults.limits, "model": defaults.models[0]}[option.scope]
    value = getattr(record, option.field)
    if isinstance(value, bool):
        assert option.default == ("" if value else "no-") + option.flags[0][2:]
    elif isinstance(value, int | float | str) and option.scope != "model":
        assert option.kind.check(option.kind.of_text(option.default or "")) == value
    else:
        assert option.scope == "model" or value in (None, ())


def test_flag_over_variable_over_file(written: Path) -> None:
    written.write_text('port = 1\nhost = "0.0.0.1"\nthreads = 3\n', encoding="utf-8")
    found = settled(*MODEL, flags={"server.port": "3"}, file=written, PORT="2", HOSTNAME="0.0.0.2")
    assert (found.port, found.host, found.threads) == (3, "0.0.0.2", 3)


def test_the_servers_own_variable_is_read_before_others() -> None:
    assert settled(*MODEL, PORT="2", EMBEDRT_SERVE_PORT="3").port == 3


def test_file_from_the_environment(written: Path) -> None:
    written.write_text('[[models]]\nsource = "org/model"\n', encoding="utf-8")
    found = settled(EMBEDRT_SERVE_CONFIG=str(written))
    assert found.models == (ModelSettings("org/model", "org/model"),)
    assert found.config_file == written


@pytest.mark.parametrize("text", ["", "tcp://10.0.0.1:80"])
def test_variables_that_are_empty_or_set_by_kubernetes(text: str) -> None:
    assert settled(*MODEL, PORT=text, EMBEDRT_SERVE_PORT=text).port == 8080


@pytest.mark.parametrize(
    ("name", "host"),
    [("0.0.0.0", "0.0.0.0"), ("::", "::"), ("localhost", "localhost"), ("8c1f3a", "127.0.0.1"), ("pod-7", "127.0.0.1")],
)
def test_hostname_counts_if_it_is_an_address(name: str, host: str) -> None:
    """Containers and shells set it to the name of the machine, which must not open the server to the network."""
    assert settled(*MODEL, HOSTNAME=name).host == host


def test_variables_of_text_embeddings_inference() -> None:
    found = whole(
        MODEL_ID="BAAI/bge-small-en-v1.5",
        REVISION="main",
        SERVED_MODEL_NAME="bge",
        DTYPE="float16",
        POOLING="cls",
        MAX_CONCURRENT_REQUESTS="64",
        MAX_BATCH_TOKENS="16384",
        MAX_BATCH_REQUESTS="8",
        MAX_CLIENT_BATCH_SIZE="100",
        AUTO_TRUNCATE="false",
        DEFAULT_PROMPT_NAME="query",
        HF_TOKEN="hf_secret",
        HOSTNAME="0.0.0.0",
        PORT="3000",
        UDS_PATH="/tmp/tei",
        HUGGINGFACE_HUB_CACHE="/data",
        PAYLOAD_LIMIT="2000000",
        API_KEY="a,key",
        JSON_OUTPUT="true",
        DISABLE_SPANS="true",
        OTLP_ENDPOINT="http://collector:4317",
        OTLP_SERVICE_NAME="embeddings",
        PROMETHEUS_PORT="9000",
        CORS_ALLOW_ORIGIN="https://a.example,https://b.example",
        TOKENIZATION_WORKERS="4",
    )
    model = ModelSettings(
        name="bge",
        source="BAAI/bge-small-en-v1.5",
        revision="main",
        dtype="float16",
        default_prompt_name="query",
        auto_truncate=False,
        pooling="cls",
    )
    assert found.settings == Settings(
        models=(model,),
        host="0.0.0.0",
        port=3000,
        limits=Limits(body_bytes=2_000_000, request_texts=100, requests=64),
        keys=("a,key",),
        cors_origins=("https://a.example", "https://b.example"),
        metrics_port=9000,
        json_logs=True,
        otlp_endpoint="http://collector:4317",
        otlp_service_name="embeddings",
        hub_token="hf_secret",
    )
    assert [note.partition(":")[0] for note in found.notes] == [
        "TOKENIZATION_WORKERS", "MAX_BATCH_TOKENS", "MAX_BATCH_REQUESTS", "UDS_PATH", "DISABLE_SPANS",
    ]  # fmt: skip
    assert found.notes[1] == (
        "MAX_BATCH_TOKENS: without effect here: the token budget follows the device; --max-tokens sets it."
    )
    assert not any("secret" in str(part) or "a,key" in str(part) for part in (repr(found), found.notes))


@pytest.mark.parametrize("given", ["flag", "variable"])
def test_a_dense_path_is_an_error(given: str) -> None:
    """Ignoring it would give other vectors."""
    flags = {"refused.dense_path": "2_Dense_512"} if given == "flag" else {}
    variables = {} if given == "flag" else {"DENSE_PATH": "2_Dense_512"}
    with pytest.raises(ValueError, match=r": A bundle has its dense layers from `embedrt export`; leave it out"):
        settle(Words(MODEL, {name: (text,) for name, text in flags.items()}), variables)


def test_unknown_variables_of_the_server_are_noted() -> None:
    found = whole(*MODEL, EMBEDRT_SERVE_PROT="1", EMBEDRT_SERVE_SERVICE_PORT_80="tcp://1", EMBEDRT_HOME="/x")
    assert found.notes == (
        "EMBEDRT_SERVE_PROT: unknown variable, without effect here; did you mean EMBEDRT_SERVE_PORT?",
    )


def test_an_empty_key_is_noted() -> None:
    """As of a secret that was not found: requests need no key then."""
    assert whole(*MODEL, API_KEY="").notes == ("API_KEY: empty, so it is no key",)
    assert whole(*MODEL, API_KEY="", EMBEDRT_SERVE_API_KEY="k").notes == ()


def test_variables_of_vertex_ai() -> None:
    found = settled(*MODEL, AIP_HTTP_PORT="8888", AIP_PREDICT_ROUTE="/v1/p:predict", AIP_HEALTH_ROUTE="/v1/h")
    assert (found.port, found.predict_route, found.health_route) == (8888, "/v1/p:predict", "/v1/h")


# Models.


def test_models_of_the_command_line(tiny_bundle: Path) -> None:
    found = settled("org/model@v2", "small=x.onnx=1", str(tiny_bundle))
    assert [(one.name, one.source) for one in found.models] == [
        ("org/model", "org/model@v2"),
        ("small", "x.onnx=1"),
        ("tiny-bert", str(tiny_bundle)),
    ]


def test_a_model_of_the_file_by_its_name(written: Path) -> None:
    written.write_text(
        '[[models]]\nname = "a"\nsource = "org/a"\ndtype = "int8"\n[[models]]\nname = "b"\nsource = "org/b"\n',
        encoding="utf-8",
    )
    assert [one.name for one in settled(file=written).models] == ["a", "b"]
    assert settled("a", "c=org/c", file=written).models == (
        ModelSettings("a", "org/a", dtype="int8"),
        ModelSettings("c", "org/c"),
    )
    assert [one.name for one in settled(file=written, MODEL_ID="b").models] == ["b"]


def test_options_of_models_apply_to_all(written: Path) -> None:
    written.write_text(
        '[[models]]\nsource = "a"\ndtype = "int8"\ndefault_prompt_name = "query"\n[[models]]\nsource = "b"\n',
        encoding="utf-8",
    )
    found = settled(file=written, flags={"model.dtype": "fp16", "model.default_prompt": "q: "}, DTYPE="bfloat16")
    assert found.models == tuple(
        ModelSettings(name, name, dtype="float16", default_prompt="q: ") for name in ("a", "b")
    )


def test_whole_file(written: Path) -> None:
    (written.parent / "bundle").mkdir()
    (written.parent / "keys.txt").write_text("key", encoding="utf-8")
    written.write_text(
        """
        host = "0.0.0.0"
        key_file = "keys.txt"
        cors_origins = ["*"]
        strict_model = true

        [limits]
        body_bytes = "1MiB"
        request_seconds = 5

        [[models]]
        name = "bge"
        source = "bundle"
        aliases = ["text-embedding-3-small"]
        device = ["cuda:0", "cuda:1"]
        gpu_mem_limit = "20GB"
        prompts = { query = "query: ", document = "" }

        [[models]]
        source = "org/reranker"
        auto_truncate = false
        """,
        encoding="utf-8",
    )
    assert settled(file=written) == Settings(
        models=(
            ModelSettings(
                "bge",
                str(written.parent / "bundle"),
                ("text-embedding-3-small",),
                device=("cuda:0", "cuda:1"),
                gpu_mem_limit=20 * 10**9,
                prompts={"query": "query: ", "document": ""},
            ),
            ModelSettings("org/reranker", "org/reranker", auto_truncate=False),
        ),
        host="0.0.0.0",
        limits=Limits(body_bytes=2**20, request_seconds=5.0),
        strict_model=True,
        key_file=written.parent / "keys.txt",
        cors_origins=("*",),
        config_file=written,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("port = ", "{file}: expected TOML, got something else: Invalid value (at "),
        ("prot = 1", "{file}: prot: unknown key; did you mean port?"),
        ("port = '8080'", "{file}: port: expected an integer from 0 to 65535, got '8080'"),
        ("port = 65536", "{file}: port: expected an integer from 0 to 65535, got 65536"),
        ("port = true", "{file}: port: expected an integer from 0 to 65535, got True"),
        ("strict_model = 1", "{file}: strict_model: expected true or false, got 1"),
        ("keys = ['k']", "{file}: keys: unknown key"),
        ("dtype = 'int8'", "{file}: dtype: unknown key; it belongs into [[models]]"),
        ("body_bytes = 1", "{file}: body_bytes: unknown key; it belongs into [limits]"),
        ("limits = 1", "{file}: limits: expected a table, got 1"),
        ("[limits]\nrequest_seconds = 0", "{file}: limits.request_seconds: expected seconds, more than 0 and up to "),
        ("[limits]\nrequest_seconds = nan", "{file}: limits.request_seconds: expected seconds, more than 0 and up to "),
        ("[limits]\nbody_bytes = '3 apples'", "{file}: limits.body_bytes: expected bytes, or a text such as '32MiB', "),
        ("[limits]\nwaiting_texts = 10", "waiting_texts: expected at least request_texts, 16384, got 10; such a "),
        ("models = 1", "{file}: models: expected tables [[models]], got 1"),
        ("[[models]]\nname = 'a'", "{file}: models[0]: expected the key source, a bundle folder or a model name"),
        ("[[models]]\nsource = 'a'\nsorce = 'b'", "{file}: models[0].sorce: unknown key; did you mean source?"),
        ("[[models]]\nsource = 'a'\nhost = 'b'", "{file}: models[0].host: unknown key; it belongs into the top of "),
        ("[[models]]\nsource = ''", "{file}: models[0].source: expected a text without control characters, got ''"),
        ("[[models]]\nsource = 'a'\ndtype = 'int9'", "{file}: models[0].dtype: expected 'float32', 'float16', "),
        ("[[models]]\nsource = 'a'\naliases = 'b'", "{file}: models[0].aliases: expected a list of names, got 'b'"),
        ("[[models]]\nsource = 'a'\nprompts = {a = 1}", "{file}: models[0].prompts: expected a table of prompts by "),
        ("[[models]]\nsource = './none'", "{file}: models[0].source: expected a bundle folder, got './none', where no"),
        ("[[models]]\nsource = 'a'\nname = 'a:query'", "{file}: models[0].source: expected a name that ends with "),
        ("[[models]]\nsource = 'a'\n[[models]]\nsource = 'a'", "a: expected a name of one model, got it for a and a; "),
        (
            "[[models]]\nsource = 'a'\ndefault_prompt = 'x'\ndefault_prompt_name = 'y'",
            "{file}: models[0].default_prompt: excludes {file}: models[0].default_prompt_name; leave out one of them",
        ),
        ("[[models]]\nsource = 'a'\ntoken_ids = 'cl100k_base'", "token_ids: cl100k_base, for a, needs the vocabulary"),
        ("key_file = 'none.txt'", "{file}: key_file: expected a file that this process can read, got "),
        ("socket = 's'\nport = 1", "{file}: port: excludes {file}: socket; leave out one of them"),
        ("metrics = false\nmetrics_port = 1", "{file}: metrics_port: expected metrics, but they are off; leave out"),
        ("", "expected at least one model: run `embedrt serve MODEL`, or name models in a file for --config"),
    ],
)
def test_errors_of_the_file(written: Path, content: str, message: str) -> None:
    models = "" if content in {"", "models = 1"} or "[[models]]" in content else "\n[[models]]\nsource = 'a'\n"
    written.write_text(content + models, encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        settled(file=written)
    assert str(caught.value).startswith(message.format(file=written)), str(caught.value)


@pytest.mark.parametrize(
    ("models", "flags", "environment", "message"),
    [
        (("=x",), {}, {}, "MODEL: expected a name or a folder, or NAME=MODEL, got '=x'"),
        (("x=",), {}, {}, "MODEL: expected a name or a folder, or NAME=MODEL, got 'x='"),
        (("",), {}, {}, "MODEL: expected a text without control characters, got ''"),
        (("./none",), {}, {}, "MODEL: expected a bundle folder, got './none', where no folder is"),
        (("a=x", "a=y"), {}, {}, "a: expected a name of one model, got it for x and y; choose other names by NAME="),
        (("x", "y"), {"model.name": "a"}, {}, "--served-model-name: expected one model, got 2; name each by NAME="),
        (("x",), {"server.port": "many"}, {}, "--port: expected an integer from 0 to 65535, got 'many'"),
        (("x",), {}, {"PORT": "many"}, "PORT: expected an integer from 0 to 65535, got 'many'"),
        (("x",), {}, {"EMBEDRT_SERVE_PORT": "-1"}, "EMBEDRT_SERVE_PORT: expected an integer from 0 to 65535, got -1"),
        (("x",), {}, {"JSON_OUTPUT": "perhaps"}, "JSON_OUTPUT: expected true or false, got 'perhaps'"),
        (
            ("x",),
            {},
            {"API_KEY": "a secret"},
            "API_KEY: expected printable ASCII characters without spaces, got ",
        ),
        (
            ("x",),
            {},
            {"AIP_PREDICT_ROUTE": "predict"},
            "AIP_PREDICT_ROUTE: expected a path such as '/predict', got ",
        ),
        (("x",), {"model.default_prompt": "a", "model.default_prompt_name": "b"}, {}, "--default-prompt: excludes --"),
    ],
)
def test_errors_of_flags_and_variables(
    models: tuple[str, ...], flags: dict[str, str], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        settle(Words(models, {name: (text,) for name, text in flags.items()}), environment)
    assert str(caught.value).startswith(message), str(caught.value)
    assert "secret" not in str(caught.value)


_TEXTS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@given(
    st.builds(
        Settings,
        models=st.lists(
            st.builds(
                ModelSettings,
                name=_TEXTS.filter(lambda name: ":" not in name),
                source=_TEXTS.filter(lambda name: name[0] not in "./~"),
                dtype=st.sampled_from([None, "float32", "int8", "auto"]),
                device=st.sampled_from([None, "cpu", ("cuda:0", "cuda:1")]),
                prompts=st.dictionaries(_TEXTS, st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
                default_prompt=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
                truncate_dim=st.none() | st.integers(1, 9),
            ),
            min_size=1,
            max_size=3,
            unique_by=lambda model: model.name,
        ).map(tuple),
        limits=st.builds(Limits, body_bytes=st.integers(1, 2**40), idle_seconds=st.floats(0.001, 100)),
        strict_model=st.booleans(),
        cors_origins=st.lists(_TEXTS, max_size=2).map(tuple),
    )
)
def test_the_settled_configuration_is_a_file(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> None:
    """The output of `--check` can be given to `--config`."""
    file = tmp_path_factory.mktemp("shown") / "serve.toml"
    file.write_text(shown_as_toml(settings), encoding="utf-8")
    assert settled(file=file) == dataclasses.replace(settings, config_file=file)


# The command.


def test_check_prints_the_settled_configuration(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in {name for option in FLAGS.values() for name in option.also}:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("UDS_PATH", "/tmp/tei")
    words = ["serve", "--check", "bge=org/bge", "-p", "80", "--auto-truncate", "false", "--no-page", "--json-output"]
    words += ["--api-key", "a-secret", "--cors-allow-origin", "*", "--max-client-batch-size=7", "--strict-model=true"]
    assert main(words) == 0
    output, errors = capsys.readouterr()
    for line in (
        "port = 80", "auto_truncate = false", "page = false", "json_logs = true", 'cors_origins = ["*"]',
        "request_texts = 7", "strict_model = true", 'name = "bge"', 'source = "org/bge"',
    ):  # fmt: skip
        assert line in output.splitlines()
    assert "a-secret" not in output + errors
    assert errors == (
        "embedrt: UDS_PATH: without effect here: there is no socket between server and model; --socket is one for "
        "clients.\n"
    )


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--prot", "1", "x"], 2, "--prot"),
        (["--port", "many", "x"], 1, "embedrt: --port: expected an integer from 0 to 65535, got 'many'"),
        (["--config", "none.toml"], 1, "No such file or directory: 'none.toml'"),
        ([], 1, "embedrt: expected at least one model: run `embedrt serve MODEL`"),
    ],
)
def test_errors_of_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], status: int, message: str
) -> None:
    monkeypatch.delenv("EMBEDRT_MODEL", raising=False)
    monkeypatch.delenv("MODEL_ID", raising=False)
    assert main(["serve", *words]) == status
    assert message in capsys.readouterr().err


@pytest.mark.subprocess
def test_without_the_extra(tiny_bundle: Path) -> None:
    """The help and `--check` work, and the error has the command to run."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['uvicorn', 'starlette', 'msgspec', 'orjson'])); "
        "from embedrt.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    for words, status, shown in (
        (["--help"], 0, "Usage: "),
        (["--check"], 0, 'name = "tiny-bert"'),
        ([], 1, " is not installed; run `pip install 'embedrt[cpu,serve]'`"),
    ):
        command = [sys.executable, "-c", program, "serve", str(tiny_bundle), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == status, done.stderr
        assert shown in done.stdout + done.stderr


def test_help_has_every_flag_in_its_group() -> None:
    shown = CliRunner().invoke(serve, ["--help"]).output
    for option in FLAGS.values():
        for flag in option.flags:
            assert flag in shown
    assert "Examples:" in shown
    assert PREFIX + "PORT" in shown
