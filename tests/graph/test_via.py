"""The way over an ONNX body: the vectors of the native graph, whatever the body looks like; refusals by name."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from embedrt import Embedder
from embedrt.errors import EmbedrtError, ExportError, MissingDependencyError, UnsupportedModelError
from embedrt.verify.bundle import verify
from embedrt_export import export
from embedrt_export.onnx_backbone import optimum
from embedrt_export.options import ExportOptions
from embedrt_export.proof.texts import parity_texts
from embedrt_export.routes.decide import choose
from tests.kit.bodies import (
    TOKENS,
    add_input,
    after_tokens,
    body_of,
    keep,
    read_graph,
    rename,
    value_info,
    write_body,
)
from tests.kit.edits import edit_json
from tests.kit.models import make_model, write_json

Edit = Callable[[onnx.ModelProto], Any]
Options = dict[str, Any]


def check(bundle: Path, native: Embedder, operators: str = "portable", via: str = "onnx") -> None:
    """The bundle has the native vectors, and says how it was made."""
    embedder = Embedder(bundle)
    (route,) = embedder.manifest.routes.values()
    assert (route.via, route.variants[-1].operators) == (via, operators)
    texts = parity_texts(48)
    assert np.abs(embedder.encode(texts) - native.encode(texts)).max() <= 1e-6
    assert np.abs(embedder.encode(texts[3]) - native.encode(texts[3])).max() <= 1e-6
    assert verify(embedder)


def unchanged(model: onnx.ModelProto) -> None:
    pass


def other_name(model: onnx.ModelProto) -> None:
    rename(list(model.graph.node), TOKENS, "output_0")
    model.graph.output[0].name = "output_0"


def int32_inputs(model: onnx.ModelProto) -> None:
    casts = []
    for value in model.graph.input:
        value.type.tensor_type.elem_type = TensorProto.INT32
        rename(list(model.graph.node), value.name, f"{value.name}_64")
        casts.append(helper.make_node("Cast", [value.name], [f"{value.name}_64"], to=TensorProto.INT64))
    nodes = [*casts, *model.graph.node]
    keep(model, nodes, list(model.graph.output))


def token_types(model: onnx.ModelProto) -> None:
    """Types that are not 0 would change every coordinate."""
    add_input(model, "token_type_ids")
    after_tokens(
        model,
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["types", "types_axes"], ["types_3"]),
        helper.make_node("Add", ["plain", "types_3"], [TOKENS]),
        types_axes=np.array([2]),
    )


def positions(model: onnx.ModelProto) -> None:
    """Positions that do not count the tokens from 0 would change every coordinate."""
    add_input(model, "position_ids")
    after_tokens(
        model,
        helper.make_node("CumSum", ["attention_mask", "one"], ["counted"]),
        helper.make_node("Sub", ["counted", "one"], ["expected"]),
        helper.make_node("Sub", ["position_ids", "expected"], ["wrong"]),
        helper.make_node("Mul", ["wrong", "attention_mask"], ["wrong_tokens"]),
        helper.make_node("Cast", ["wrong_tokens"], ["wrong_float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["wrong_float", "axes"], ["wrong_3"]),
        helper.make_node("Add", ["plain", "wrong_3"], [TOKENS]),
        one=np.int64(1),
        axes=np.array([2]),
    )


def inner_graph(model: onnx.ModelProto) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["plain"], ["inner"])], "branch", [], [value_info("inner", [None, None, 32])]
    )
    after_tokens(
        model, helper.make_node("If", ["yes"], [TOKENS], then_branch=branch, else_branch=branch), yes=np.bool_(True)
    )


def function(model: onnx.ModelProto) -> None:
    opset = helper.make_opsetid("", 20)
    twice = [helper.make_node("Add", ["x", "x"], ["y"])]
    model.functions.append(helper.make_function("own", "Twice", ["x"], ["y"], twice, [opset]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    after_tokens(
        model,
        helper.make_node("Twice", ["plain"], ["twice"], domain="own"),
        helper.make_node("Mul", ["twice", "half"], [TOKENS]),
        half=np.float32(0.5),
    )


def constant_nodes(model: onnx.ModelProto) -> None:
    tensors = list(model.graph.initializer)
    model.graph.ClearField("initializer")
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    keep(model, [*nodes, *model.graph.node], list(model.graph.output))


def tensors_among_inputs(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        model.graph.input.append(value_info(tensor.name, list(tensor.dims), tensor.data_type))


def second_output(model: onnx.ModelProto) -> None:
    """As `pooler_output`, or the states of a layer: left out, with what computes it."""
    weight = np.ones((32, 32), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "pooler"))
    model.graph.node.append(helper.make_node("MatMul", [TOKENS, "pooler"], ["hidden_states.1"]))
    model.graph.output.append(value_info("hidden_states.1", ["batch", "sequence", 32]))


EDITS: dict[str, Edit] = {
    edit.__name__: edit
    for edit in (
        unchanged,
        other_name,
        int32_inputs,
        token_types,
        positions,
        inner_graph,
        function,
        constant_nodes,
        tensors_among_inputs,
        second_output,
    )
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_bodies(edit: Edit, tiny_source: Path, tiny_bundle: Path, tiny: Embedder, tmp_path: Path) -> None:
    model = body_of(tiny_bundle)
    edit(model)
    source = write_body(tiny_source, tmp_path / "model", model)
    check(export(source, tmp_path / "bundle", via="onnx"), tiny)
    kept = onnx.load(tmp_path / "bundle/onnx/model.onnx", load_external_data=False)
    assert not any("pooler" in tensor.name for tensor in kept.graph.initializer)


@pytest.mark.parametrize("one_file", [True, False])
def test_weights_beside_the_body(
    one_file: bool, tiny_source: Path, tiny_bundle: Path, tiny: Embedder, tmp_path: Path
) -> None:
    options: Options = {"save_as_external_data": True, "all_tensors_to_one_file": one_file, "size_threshold": 0}
    if one_file:
        options["location"] = "model.onnx_data"
    source = write_body(tiny_source, tmp_path / "model", body_of(tiny_bundle), **options)
    assert (len(list((source / "onnx").iterdir())) == 2) is one_file
    check(export(source, tmp_path / "bundle", via="onnx"), tiny)


def test_files_of_the_hubs_cache_are_links(
    tiny_source: Path, tiny_bundle: Path, tiny: Embedder, tmp_path: Path
) -> None:
    options: Options = {"save_as_external_data": True, "size_threshold": 0, "location": "model.onnx_data"}
    snapshot = tmp_path / "models--a" / "snapshots" / "abc"
    write_body(tiny_source, snapshot, body_of(tiny_bundle), **options)
    blobs = tmp_path / "models--a" / "blobs"
    blobs.mkdir()
    for path in (snapshot / "onnx").iterdir():
        path.rename(blobs / path.name)
        path.symlink_to(Path("../../../blobs") / path.name)
    check(export(snapshot, tmp_path / "bundle", via="onnx"), tiny)


def pooled(tiny_bundle: Path, *outputs: str, name: str = "sentence_embedding") -> onnx.ModelProto:
    """The whole graph of a bundle with only some of its outputs."""
    model = read_graph(tiny_bundle)
    nodes = list(model.graph.node)
    kept = [output for output in model.graph.output if output.name in outputs]
    rename(nodes, "sentence_embedding", name)
    for output in kept:
        output.name = name if output.name == "sentence_embedding" else output.name
    keep(model, nodes, kept)
    return model


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        (("token_embeddings", "sentence_embedding"), "sentence_embedding"),
        (("sentence_embedding",), "sentence_embedding"),
        (("sentence_embedding",), "output"),
    ],
)
def test_bodies_that_pool_are_not_pooled_twice(
    outputs: tuple[str, ...], name: str, tiny_source: Path, tiny_bundle: Path, tiny: Embedder, tmp_path: Path
) -> None:
    source = write_body(tiny_source, tmp_path / "model", pooled(tiny_bundle, *outputs, name=name))
    check(export(source, tmp_path / "bundle", via="onnx"), tiny)
    made = {path.name for path in (tmp_path / "bundle" / "onnx").iterdir()}
    assert made == {"model.onnx", "model_cpu.onnx", "model.onnx_data"}


@pytest.mark.parametrize("outputs", [("token_embeddings", "sentence_embedding"), ("sentence_embedding",)])
def test_a_body_that_pools_otherwise_is_refused(
    outputs: tuple[str, ...], tiny_source: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    source = write_body(tiny_source, tmp_path / "model", pooled(tiny_bundle, *outputs))
    edit_json(source / "1_Pooling" / "config.json", pooling_mode="cls")
    with pytest.raises(
        ExportError,
        match=r"onnx/model.onnx: its output 'sentence_embedding' differs from what the modules",
    ):
        export(source, tmp_path / "bundle", via="onnx")
    assert not (tmp_path / "bundle").exists()


def test_operators_of_onnxruntime(tmp_path: Path) -> None:
    plain = make_model(tmp_path / "plain", hidden_act="relu")
    native = Embedder(export(plain, tmp_path / "native"))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    model = body_of(native.folder)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(options.optimized_model_filepath)
    assert "com.microsoft" in {node.domain for node in optimized.graph.node}
    source = write_body(plain, tmp_path / "model", optimized, "onnx/model_O2.onnx")
    with pytest.raises(ExportError, match=r"no model.onnx; its ONNX files: onnx/model_O2.onnx"):
        export(source, tmp_path / "bundle", via="onnx")
    check(export(source, tmp_path / "bundle", onnx_file="onnx/model_O2.onnx"), native, "onnxruntime")


def test_an_unknown_architecture(tiny_source: Path, tiny_bundle: Path, tiny: Embedder, tmp_path: Path) -> None:
    source = write_body(tiny_source, tmp_path / "model", body_of(tiny_bundle), "model.onnx")
    edit_json(source / "config.json", model_type="unheard-of")
    check(export(source, tmp_path / "bundle"), tiny)
    assert Embedder(tmp_path / "bundle").manifest.routes["default"].architecture == "unheard-of"
    with pytest.raises(UnsupportedModelError, match="'unheard-of' is not supported; supported"):
        export(source, tmp_path / "other", via="native")


def test_no_safetensors(tiny_source: Path, tiny_bundle: Path, tiny: Embedder, tmp_path: Path) -> None:
    source = write_body(tiny_source, tmp_path / "model", body_of(tiny_bundle))
    (source / "model.safetensors").unlink()
    check(export(source, tmp_path / "bundle"), tiny)


def test_native_comes_first(tiny_source: Path, tiny_bundle: Path, tiny: Embedder, tmp_path: Path) -> None:
    source = write_body(tiny_source, tmp_path / "model", body_of(tiny_bundle))
    check(export(source, tmp_path / "bundle"), tiny, via="native")
    assert Embedder(tmp_path / "bundle").manifest.fingerprint == tiny.manifest.fingerprint


def test_every_module_follows_the_body(tmp_path: Path) -> None:
    source = make_model(tmp_path / "plain", pooling=["mean", "cls"], seed=5)
    native = Embedder(export(source, tmp_path / "native"))
    source = write_body(source, tmp_path / "model", body_of(tmp_path / "native"))
    edit_json(source / "1_Pooling" / "config.json", include_prompt=False)
    embedder = Embedder(export(source, tmp_path / "bundle", via="onnx"))
    assert embedder.manifest.routes["default"].tokenization.pooling_mask
    texts = parity_texts(48)
    assert np.abs(embedder.encode(texts) - native.encode(texts)).max() <= 1e-6
    write_json(source / "1_Pooling" / "config.json", {"embedding_dimension": 31, "pooling_mode": "mean"})
    with pytest.raises(ExportError, match="31 dimensions, but its input has 32"):
        export(source, tmp_path / "other", via="onnx")


def test_an_adapter_goes_the_native_way(tiny_source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    source = write_body(tiny_source, tmp_path / "model", body_of(tiny_bundle))
    write_json(source / "adapter_config.json", {"peft_type": "LORA", "target_modules": ["query"]})
    with pytest.raises(
        UnsupportedModelError,
        match=r"via onnx: the ONNX graph may or may not contain the adapter",
    ):
        export(source, tmp_path / "bundle", via="onnx")


def test_same_file_same_fingerprint(tiny_source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """However the weights are stored; other weights make another."""
    model = body_of(tiny_bundle)
    inline = write_body(tiny_source, tmp_path / "inline", model)
    options: Options = {
        "save_as_external_data": True,
        "size_threshold": 0,
        "location": "x.data",
        "convert_attribute": False,
    }
    beside = write_body(tiny_source, tmp_path / "beside", body_of(tiny_bundle), **options)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))
    other = write_body(tiny_source, tmp_path / "other", model)
    prints = [
        Embedder(export(source, tmp_path / f"b-{source.name}", via="onnx")).manifest.fingerprint
        for source in (inline, beside, other)
    ]
    assert prints[0] == prints[1] != prints[2]


def first(model: onnx.ModelProto, shape: list[int]) -> onnx.TensorProto:
    found: onnx.TensorProto = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == shape)
    return found


def set_dim(model: onnx.ModelProto, axis: int, size: int) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size


def drop_input(model: onnx.ModelProto, name: str) -> None:
    rename(list(model.graph.node), name, "input_ids")
    inputs = [value for value in model.graph.input if value.name != name]
    model.graph.ClearField("input")
    model.graph.input.extend(inputs)


def half(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(tensor.dims, np.float16), tensor.name))


def cyclic(model: onnx.ModelProto) -> None:
    after_tokens(
        model,
        helper.make_node("Add", ["plain", "back"], [TOKENS]),
        helper.make_node("Identity", [TOKENS], ["back"]),
    )


def recursive(model: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    inside = [helper.make_node("Own", ["x"], ["y"], domain="own")]
    model.functions.append(helper.make_function("own", "Own", ["x"], ["y"], inside, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    after_tokens(model, helper.make_node("Own", ["plain"], [TOKENS], domain="own"))


def node(model: onnx.ModelProto, op_type: str, domain: str = "") -> None:
    after_tokens(model, helper.make_node(op_type, ["plain"], [TOKENS], domain=domain))


def two_outputs(model: onnx.ModelProto) -> None:
    second_output(model)
    other_name(model)


def no_embeddings(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def set_opset(model: onnx.ModelProto, version: int) -> None:
    model.opset_import[0].version = version


def mismatch(model: onnx.ModelProto) -> None:
    tensor = first(model, [64])
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(63, np.float32), tensor.name))


REFUSED: dict[str, tuple[Edit, str]] = {
    "fixed batch": (lambda m: set_dim(m, 0, 1), "'input_ids' has a fixed shape \\[1, 'sequence'\\]"),
    "fixed sequence": (lambda m: set_dim(m, 1, 128), "'input_ids' has a fixed shape \\['batch', 128\\]"),
    "no mask": (lambda m: drop_input(m, "attention_mask"), "expected an input 'attention_mask', found input_ids"),
    "unknown input": (
        lambda m: add_input(m, "past_key_values.0.key"),
        "input 'past_key_values.0.key' is not",
    ),
    "several tokens": (two_outputs, "expected one output .*; found output_0, hidden_states.1"),
    "no floats": (no_embeddings, "expected token or sentence embeddings in float32 as an output, got last_hidden"),
    "half precision": (half, "stored as FLOAT16, so it is not a float32 model"),
    "quantized": (lambda m: node(m, "DynamicQuantizeLinear"), "DynamicQuantizeLinear, so it is not a float32 model"),
    "foreign operator": (lambda m: node(m, "Evil", "evil.ops"), "operator Evil of 'evil.ops' is not supported"),
    "unknown operator": (lambda m: node(m, "Nonsense"), "ONNX has no operator 'Nonsense' in opset 20"),
    "unknown contributed": (lambda m: node(m, "Nonsense", "com.microsoft"), "Nonsense"),
    "old opset": (lambda m: set_opset(m, 9), "ONNX opset 9 is not supported; supported: 11 to"),
    "opset to come": (lambda m: set_opset(m, 999), "ONNX opset 999 is not supported"),
    "cyclic": (cyclic, "onnx/model.onnx: the graph is not valid"),
    "recursive function": (recursive, "its functions cannot be expanded"),
    "shapes that do not fit": (mismatch, "onnx/model.onnx: ONNX Runtime cannot run it"),
    "negative shape": (lambda m: first(m, [64]).dims.__setitem__(0, -64), "has the invalid shape \\[-64\\]"),
    "giant shape": (lambda m: first(m, [64]).dims.__setitem__(0, 1 << 60), "tensor '.*': cannot reshape"),
}


@pytest.mark.parametrize(("edit", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(edit: Edit, message: str, tiny_source: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    model = body_of(tiny_bundle)
    edit(model)
    source = write_body(tiny_source, tmp_path / "model", model)
    with pytest.raises(EmbedrtError, match=message):
        export(source, tmp_path / "bundle", via="onnx")
    assert not (tmp_path / "bundle").exists()


CONTENTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "not an ONNX model: it has no graph"),
    "text": (lambda _: b"hello, world", "not a complete ONNX file"),
    "cut": (lambda content: content[:-100], "not a complete ONNX file"),
    "pointer": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
}


@pytest.mark.parametrize(("change", "message"), CONTENTS.values(), ids=CONTENTS)
def test_damaged_files(
    change: Callable[[bytes], bytes], message: str, tiny_source: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    path = write_body(tiny_source, tmp_path / "model", body_of(tiny_bundle)) / "onnx" / "model.onnx"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ExportError, match=f"onnx/model.onnx: .*{message}"):
        export(tmp_path / "model", tmp_path / "bundle", via="onnx")


PLACES: dict[str, tuple[dict[str, str], str]] = {
    "above": ({"location": "../../secret"}, "'../../secret' is not a plain path inside the model folder"),
    "absolute": ({"location": "/etc/hostname"}, "'/etc/hostname' is not a plain path"),
    "another drive": ({"location": "C:secret"}, "'C:secret' is not a plain path"),
    "none": ({"location": ""}, "'' is not a plain path"),
    "missing": ({"location": "missing.data"}, "missing.data is missing in the model folder"),
    "a folder": ({"location": "folder"}, "folder is not a file"),
    "a link out": ({"location": "link"}, "link is a link that leads out"),
    "beyond the end": ({"offset": "999999"}, "bytes 999999 to 10\\d+ are not in model.onnx_data"),
    "before the start": ({"offset": "-4"}, "bytes -4 to"),
    "wrong length": ({"length": "1"}, "bytes for the shape .*, found 1"),
    "no number": ({"offset": "0x10"}, "offset or length is not a number"),
}


@pytest.mark.parametrize(("change", "message"), PLACES.values(), ids=PLACES)
def test_hostile_places(
    change: dict[str, str], message: str, tiny_source: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(os.urandom(1 << 20))
    options: Options = {"save_as_external_data": True, "size_threshold": 0, "location": "model.onnx_data"}
    source = write_body(tiny_source, tmp_path / "model", body_of(tiny_bundle), **options)
    (source / "onnx" / "folder").mkdir()
    (source / "onnx" / "link").symlink_to(tmp_path / "secret")
    model = onnx.load(source / "onnx" / "model.onnx", load_external_data=False)
    entries = {entry.key: entry.value for entry in model.graph.initializer[0].external_data} | change
    model.graph.initializer[0].ClearField("external_data")
    for key, value in entries.items():
        model.graph.initializer[0].external_data.add(key=key, value=value)
    (source / "onnx" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=f"onnx/model.onnx: tensor .*{message}"):
        export(source, tmp_path / "bundle", via="onnx")


@pytest.mark.subprocess
def test_optimum_is_not_installed(tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(optimum.PYTHON, raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'optimum-onnx\[onnxruntime\]==0.1.0' torch"):
        export(tiny_source, tmp_path / "bundle", via="optimum")
    source = shutil.copytree(tiny_source, tmp_path / "model")
    edit_json(source / "config.json", model_type="unheard-of")
    with pytest.raises(UnsupportedModelError, match=r"'unheard-of' is not supported; supported: .*optimum-onnx"):
        export(source, tmp_path / "bundle")
    monkeypatch.setenv(optimum.PYTHON, str(tmp_path / "python"))
    for via in ("auto", "optimum"):
        with pytest.raises(MissingDependencyError, match=r"EMBEDRT_OPTIMUM_PYTHON: .* is not a file"):
            export(source, tmp_path / "bundle", via=via)


@pytest.mark.subprocess
def test_what_a_failing_exporter_said(tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here by an interpreter that has no optimum-onnx."""
    monkeypatch.setenv(optimum.PYTHON, sys.executable)
    with pytest.raises(ExportError, match=r"(?s)via optimum: .* failed with status 1; .*No module named 'optimum'"):
        export(tiny_source, tmp_path / "bundle", via="optimum")
    assert list(tmp_path.iterdir()) == []
    source = shutil.copytree(tiny_source, tmp_path / "model")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match=r"model has no model.safetensors"):
        export(source, tmp_path / "bundle", via="optimum")


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Python's own reaction to an interrupt, also where the tests were started as a job that is to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.subprocess
def test_the_exporter_ends_with_an_interrupt(tmp_path: Path, interrupts: None) -> None:
    started = tmp_path / "started"
    code = "import os, sys; open('started', 'w').write(str(os.getpid())); sys.stdin.read()"

    def interrupt() -> None:
        while not (started.is_file() and started.read_text()):
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        optimum._run([sys.executable, "-c", code], tmp_path)
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


@pytest.mark.subprocess
def test_the_exporter_ends_with_its_parent() -> None:
    code = (
        "import threading\nfrom embedrt_export.onnx_backbone.optimum_script import end_with_parent\nend_with_parent()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 1


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("model_type", "files", "via"),
    [
        ("bert", {"model.safetensors"}, "native"),
        ("bert", {"model-00001-of-00002.safetensors", "onnx/model.onnx"}, "native"),
        ("bert", {"onnx/model.onnx"}, "onnx"),
        ("bert", set(), "native"),
        ("unheard-of", {"model.safetensors", "model.onnx"}, "onnx"),
        ("unheard-of", {"model.safetensors", "onnx/model_O4.onnx"}, "optimum"),
        ("unheard-of", {"pytorch_model.bin"}, "native"),  # which tells what is missing
    ],
)
def test_which_way(model_type: str, files: set[str], via: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(optimum.PYTHON, sys.executable)
    assert choose(ExportOptions(), model_type, files).via == via


def test_arguments(tiny_source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="via: expected one of auto, native, onnx, optimum, got 'torch'"):
        export(tiny_source, tmp_path / "bundle", via="torch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"onnx_file: 'a.onnx' needs via='onnx', got via='native'"):
        export(tiny_source, tmp_path / "bundle", via="native", onnx_file="a.onnx")
    for name in ("missing.onnx", "../model.onnx", "/etc/hostname"):
        with pytest.raises(ExportError, match="not in the model folder; it has no ONNX files"):
            export(tiny_source, tmp_path / "bundle", onnx_file=name)
