"""The module `sentence_transformers` of `embedrt.compat`: what it has, and how it gets into a process."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from types import MappingProxyType

import numpy as np
import pytest

from embedrt import Embedder
from embedrt.compat import hook, is_active, real_environment
from embedrt.compat.module import FOLDER
from embedrt.compat.names import NAME, PROVIDED, VERSION, instead
from embedrt.errors import CompatError, EmbedrtError
from tests.kit.bundles import copy_bundle
from tests.kit.pages import ROOT

INSTALL = "import embedrt.compat; embedrt.compat.install()\n"


def python(
    *arguments: str, code: str | None = None, status: int = 0, variables: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """Runs Python in a fresh process, with or without code of its own."""
    command = [sys.executable, *arguments, *([] if code is None else ["-c", dedent(code)])]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, env={**environment, **variables}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, done.stderr
    return done


def printed(code: str, variables: Mapping[str, str] = MappingProxyType({})) -> str:
    """What code prints in a fresh process that has the module."""
    return python(code=INSTALL + dedent(code), variables=variables).stdout


class TestNames:
    def test_every_name_has_a_place(self) -> None:
        places = {(name, place) for names in PROVIDED.values() for name, place in names.items()}
        assert len(places) > 50
        for _, place in places:
            module, _, attribute = place.partition(":")
            assert hasattr(import_module(module), attribute), place

    def test_every_module_has_a_parent(self) -> None:
        for name in PROVIDED:
            parent = name.rpartition(".")[0]
            assert name == NAME or parent in PROVIDED, name

    def test_the_version_is_that_of_the_reference(self) -> None:
        groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
        assert f"sentence-transformers=={VERSION}" in groups["reference"]

    @pytest.mark.parametrize(
        ("name", "remedy"),
        [
            ("losses", "train with sentence-transformers"),
            ("losses.CosineSimilarityLoss", "train with sentence-transformers"),
            ("CrossEncoderTrainer", "train with sentence-transformers"),
            ("evaluation.InformationRetrievalEvaluator", "compute with torch"),
            ("util.semantic_search_faiss", "`corpus_precision=`"),
            ("export_optimized_onnx_model", "`embedrt export`"),
            ("util.batch_to_device", "NumPy arrays"),
        ],
    )
    def test_absent_names_have_a_remedy(self, name: str, remedy: str) -> None:
        assert remedy in str(instead(name))

    def test_names_of_nobody_have_none(self) -> None:
        assert instead("no_such_thing") is None


@pytest.mark.subprocess
class TestModule:
    def test_what_it_has(self) -> None:
        out = printed(
            """
            import importlib.util, sentence_transformers, sys
            from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder, util
            from sentence_transformers import SimilarityFunction, quantize_embeddings
            from sentence_transformers.cross_encoder import CrossEncoder as again
            from sentence_transformers.models import StaticEmbedding
            from sentence_transformers.similarity_functions import SimilarityFunction as the_same
            import embedrt

            assert sentence_transformers.__version__ == "6.2.0"
            assert embedrt.compat.install() is sentence_transformers is sys.modules["sentence_transformers"]
            spec = importlib.util.find_spec("sentence_transformers")
            assert spec is sentence_transformers.__spec__ and spec.name == "sentence_transformers"
            assert sentence_transformers.__file__ == spec.origin
            assert importlib.util.find_spec("sentence_transformers.util").name == "sentence_transformers.util"
            assert embedrt.compat.is_active()
            assert issubclass(SentenceTransformer, embedrt.Embedder)
            assert "sentence_transformers" in str(SentenceTransformer)
            assert issubclass(CrossEncoder, embedrt.CrossEncoder) and again is CrossEncoder
            assert issubclass(SparseEncoder, embedrt.SparseEncoder)
            assert issubclass(MultiVectorEncoder, embedrt.MultiVectorEncoder)
            assert util.cos_sim is util.pytorch_cos_sim is embedrt.cos_sim
            assert util.quantize_embeddings is quantize_embeddings is embedrt.quantize_embeddings
            assert SimilarityFunction is the_same
            assert not issubclass(SentenceTransformer, StaticEmbedding)
            assert {"SentenceTransformer", "__version__"} <= set(dir(sentence_transformers))
            assert importlib.reload(sentence_transformers) is sentence_transformers
            print("fine")
            """
        )
        assert out == "fine\n"

    def test_a_star_takes_its_names(self) -> None:
        assert printed("from sentence_transformers import *\nprint(SentenceTransformer.__name__)") == (
            "SentenceTransformer\n"
        )

    def test_a_module_with_the_name_of_a_class_hides_no_class(self) -> None:
        out = printed(
            """
            from sentence_transformers.SentenceTransformer import SentenceTransformer as old
            from sentence_transformers.cross_encoder.CrossEncoder import CrossEncoder as old_cross
            import sentence_transformers.LoggingHandler
            from sentence_transformers import CrossEncoder, LoggingHandler, SentenceTransformer
            from sentence_transformers.cross_encoder import CrossEncoder as cross
            print(old is SentenceTransformer, old_cross is CrossEncoder is cross, LoggingHandler.__name__)
            """
        )
        assert out == "True True LoggingHandler\n"

    def test_a_model_has_the_vectors_of_an_embedder(self, tiny: Embedder, tiny_bundle: Path, tmp_path: Path) -> None:
        python(
            code=INSTALL
            + dedent(
                """
                import sys
                import numpy as np
                from sentence_transformers import SentenceTransformer
                from sentence_transformers.util import semantic_search
                model = SentenceTransformer(sys.argv[1], device="cpu", backend="torch", model_kwargs={})
                vectors = model.encode(["one", "two"])
                assert semantic_search(vectors[:1], vectors)[0][0]["corpus_id"] == 0
                np.save(sys.argv[2], vectors)
                """
            )
            .replace("sys.argv[1]", repr(str(tiny_bundle)))
            .replace("sys.argv[2]", repr(str(tmp_path / "vectors.npy")))
        )
        np.testing.assert_array_equal(np.load(tmp_path / "vectors.npy"), tiny.encode(["one", "two"]))

    def test_nothing_is_loaded_before_it_is_used(self) -> None:
        out = printed(
            """
            import sys, sentence_transformers, sentence_transformers.util
            print({"onnxruntime", "tokenizers", "embedrt.cross_encoder", "embedrt.compat.util"} & set(sys.modules))
            """
        )
        assert out == "set()\n"

    @pytest.mark.parametrize(
        ("statement", "kind", "message"),
        [
            (
                "from sentence_transformers import InputExample",
                "CompatError",
                "sentence_transformers.InputExample: embedrt stands in for sentence-transformers here (embedrt.compat)",
            ),
            ("import sentence_transformers.losses", "CompatError", "a bundle cannot be trained"),
            (
                "from sentence_transformers.losses import CoSENTLoss",
                "CompatError",
                "sentence_transformers.losses: embedrt",
            ),
            ("from sentence_transformers.evaluation import TripletEvaluator", "CompatError", "compute with torch"),
            ("from sentence_transformers.util import semantic_search_faiss", "CompatError", "`corpus_precision=`"),
            (
                "from sentence_transformers import SentenceTransfomer",
                "CompatError",
                "did you mean SentenceTransformer?",
            ),
            ("from sentence_transformers.util import nothing_like_it", "CompatError", "; it has LoggingHandler, "),
            ("import sentence_transformers as st; st.losses", "AttributeError", "a bundle cannot be trained"),
            ("import sentence_transformers as st; st.__wrapped__", "AttributeError", "no attribute '__wrapped__'"),
            (
                "from sentence_transformers import models; models.Pooling(384)",
                "TypeError",
                "Pooling: embedrt runs exported models, and cannot build them from parts",
            ),
        ],
    )
    def test_what_it_has_not(self, statement: str, kind: str, message: str) -> None:
        out = printed(
            f"""
            try:
                {statement}
            except {"Exception" if kind != "CompatError" else "ImportError"} as error:
                print(type(error).__name__, error)
            """
        )
        assert out.startswith(f"{kind} ")
        assert message in out

    def test_attributes_can_be_asked_for(self) -> None:
        out = printed("import sentence_transformers as st\nprint(hasattr(st, 'losses'), hasattr(st, 'util'))")
        assert out == "False True\n"

    def test_the_real_package_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "sentence_transformers.py").write_text("")
        done = python(
            code="""
            import sentence_transformers
            import embedrt
            from embedrt import compat
            assert not compat.is_active()
            try:
                compat.install()
            except ImportError as error:
                assert isinstance(error, embedrt.EmbedrtError)
                print(error)
            """,
            variables={"PYTHONPATH": str(tmp_path)},
        )
        assert done.stdout == (
            "expected a process without sentence-transformers, got one that has loaded it from "
            f"{tmp_path / 'sentence_transformers.py'}; call embedrt.compat.install() before the first import of it, or "
            "of a package that imports it\n"
        )

    def test_a_package_that_is_not_loaded_is_hidden(self, tmp_path: Path) -> None:
        (tmp_path / "sentence_transformers.py").write_text("raise SystemExit('the package')")
        code = INSTALL + "import sentence_transformers; print(sentence_transformers.__version__)"
        assert python(code=code, variables={"PYTHONPATH": str(tmp_path)}).stdout == f"{VERSION}\n"

    def test_a_model_can_be_pickled_where_the_module_is_absent(self, tiny_bundle: Path, tmp_path: Path) -> None:
        file = tmp_path / "model.pickle"
        printed(
            f"""
            import pickle
            from pathlib import Path
            from sentence_transformers import SentenceTransformer
            Path({str(file)!r}).write_bytes(pickle.dumps(SentenceTransformer({str(tiny_bundle)!r})))
            """
        )
        code = f"""
        import pickle
        from pathlib import Path
        print(type(pickle.loads(Path({str(file)!r}).read_bytes())).__name__)
        """
        assert python(code=code).stdout == "SentenceTransformer\n"

    def test_similarity_functions(self) -> None:
        out = printed(
            """
            from sentence_transformers import SimilarityFunction, util
            assert SimilarityFunction("dot") is SimilarityFunction.DOT_PRODUCT is SimilarityFunction.DOT
            assert SimilarityFunction.to_similarity_fn("cosine") is util.cos_sim
            assert SimilarityFunction.to_similarity_fn(SimilarityFunction.MAXSIM) is util.maxsim
            assert SimilarityFunction.to_similarity_pairwise_fn("manhattan") is util.pairwise_manhattan_sim
            assert SimilarityFunction.to_similarity_pairwise_fn("meanmaxsim") is util.mean_maxsim_pairwise
            print(SimilarityFunction.possible_values(), util.get_device_name())
            """
        )
        assert out == "['cosine', 'dot', 'euclidean', 'manhattan', 'maxsim', 'meanmaxsim'] cpu\n"

    def test_log_lines_go_above_progress_bars(self) -> None:
        out = printed(
            """
            import logging
            from sentence_transformers import LoggingHandler
            logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO, handlers=[LoggingHandler()])
            logging.info("a line")
            """
        )
        assert out == "INFO a line\n"


SCRIPT = """\
import sys
from sentence_transformers import SentenceTransformer
print(__name__, __file__, sys.argv, SentenceTransformer.__name__)
"""


@pytest.mark.subprocess
class TestPrograms:
    def test_a_script(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text("import beside\n" + SCRIPT)
        (tmp_path / "beside.py").write_text("")
        done = python("-m", "embedrt.compat", str(script), "-m", "--flag")
        assert done.stdout == f"__main__ {script} {[str(script), '-m', '--flag']} SentenceTransformer\n"

    def test_a_module(self, tmp_path: Path) -> None:
        (tmp_path / "program.py").write_text(SCRIPT)
        done = python("-m", "embedrt.compat", "-m", "program", "x", variables={"PYTHONPATH": str(tmp_path)})
        file = tmp_path / "program.py"
        assert done.stdout == f"__main__ {file} {[str(file), 'x']} SentenceTransformer\n"

    @pytest.mark.parametrize(("code", "status"), [("raise SystemExit(7)", 7), ("import sys; sys.exit()", 0)])
    def test_exit_statuses(self, tmp_path: Path, code: str, status: int) -> None:
        (tmp_path / "script.py").write_text(code)
        assert python("-m", "embedrt.compat", str(tmp_path / "script.py"), status=status).stderr == ""

    @pytest.mark.parametrize("code", ["def f():\n    1 / 0\n\nf()\n", "x = (\n", "import no_such_module\n"])
    def test_tracebacks_are_those_of_python(self, tmp_path: Path, code: str) -> None:
        script = tmp_path / "script.py"
        script.write_text(code)
        ours = python("-m", "embedrt.compat", str(script), status=1)
        assert ours.stderr == python(str(script), status=1).stderr

    def test_an_absent_name_is_a_traceback_too(self, tmp_path: Path) -> None:
        (tmp_path / "script.py").write_text("from sentence_transformers import losses\n")
        done = python("-m", "embedrt.compat", str(tmp_path / "script.py"), status=1)
        assert done.stderr.startswith("Traceback (most recent call last):")
        assert "embedrt.errors.CompatError: sentence_transformers.losses: embedrt stands in" in done.stderr

    def test_processes_that_it_starts_have_the_module(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            dedent(
                """
                import multiprocessing, subprocess, sys
                import sentence_transformers

                def version(_):
                    return sentence_transformers.__version__

                if __name__ == "__main__":
                    with multiprocessing.get_context("spawn").Pool(1) as pool:
                        print(pool.map(version, [0]))
                    code = "import sentence_transformers as st; print(st.__version__)"
                    print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
                """
            )
        )
        assert python("-m", "embedrt.compat", str(script)).stdout.split() == [f"['{VERSION}']", VERSION]

    def test_spawned_processes_have_what_was_installed(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            dedent(
                """
                import multiprocessing

                def version(_):
                    import sentence_transformers
                    return sentence_transformers.__version__

                if __name__ == "__main__":
                    import embedrt.compat
                    embedrt.compat.install()
                    with multiprocessing.get_context("spawn").Pool(1) as pool:
                        print(*pool.map(version, [0]))
                """
            )
        )
        assert python(str(script)).stdout == f"{VERSION}\n"

    @pytest.mark.parametrize(
        ("arguments", "status", "message"),
        [
            ((), 2, "Usage: python -m embedrt.compat SCRIPT"),
            (("--nothing",), 2, "Usage: python -m embedrt.compat SCRIPT"),
            (("no/such/file.py",), 2, "embedrt: no/such/file.py: no such file"),
        ],
    )
    def test_usage(self, arguments: tuple[str, ...], status: int, message: str) -> None:
        assert python("-m", "embedrt.compat", *arguments, status=status).stderr.startswith(message)

    def test_help(self) -> None:
        assert hook.VARIABLE in python("-m", "embedrt.compat", "--help").stdout

    def test_the_folder_on_the_path_does_the_same(self) -> None:
        folder = python("-m", "embedrt.compat", "path").stdout.strip()
        code = """
        import sys
        from sentence_transformers import SentenceTransformer
        from embedrt.compat import is_active
        print(SentenceTransformer.__name__, is_active(), "onnxruntime" in sys.modules)
        """
        assert python(code=code, variables={"PYTHONPATH": folder}).stdout == "SentenceTransformer True False\n"
        assert (
            python(code="import embedrt.compat as c; print(c.is_active())", variables={"PYTHONPATH": folder}).stdout
            == "True\n"
        )


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages for the hook, in place of this environment's."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(folder))
    return folder


class TestHook:
    def test_it_is_written_and_removed(self, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert hook.state() == hook.State(hook.state().file, is_there=False, is_current=False, is_set=False)
        file = hook.write()
        assert list(packages.iterdir()) == [file]
        assert hook.write() == file
        monkeypatch.setenv(hook.VARIABLE, "1")
        assert hook.state() == hook.State(file, is_there=True, is_current=True, is_set=True)
        file.write_text("import os\n")
        assert not hook.state().is_current
        assert hook.remove() == file
        assert hook.remove() is None
        assert list(packages.iterdir()) == []

    def test_a_folder_that_cannot_be_written(self, packages: Path) -> None:
        packages.rmdir()
        with pytest.raises(CompatError, match=r"cannot be written: No such file or directory; without the hook, `PYTH"):
            hook.write()
        (packages / hook.write.__name__).parent.mkdir()
        (packages / hook.state().file.name).mkdir()
        with pytest.raises(CompatError, match="cannot be "):
            hook.remove()

    @pytest.mark.subprocess
    @pytest.mark.parametrize(
        ("value", "options", "active"), [("1", (), True), ("0", (), False), ("", (), False), ("1", ("-E",), False)]
    )
    def test_it_acts_if_the_variable_is_set(
        self, packages: Path, value: str, options: tuple[str, ...], active: bool
    ) -> None:
        hook.write()
        code = f"""
        import site, sys
        before = set(sys.modules)
        site.addsitedir({str(packages)!r})
        assert not {{"embedrt", "numpy"}} & set(sys.modules)
        import embedrt.compat
        print(embedrt.compat.is_active())
        """
        assert python(*options, code=code, variables={hook.VARIABLE: value}).stdout == f"{active}\n"

    def test_another_process_may_take_the_real_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}elsewhere")
        monkeypatch.setenv(hook.VARIABLE, "1")
        found = real_environment()
        assert (found["PYTHONPATH"], found[hook.VARIABLE]) == ("elsewhere", "0")

    def test_this_process_has_no_module(self) -> None:
        assert not is_active()


@pytest.mark.subprocess
class TestReference:
    """The exporter does not take embedrt for its own reference."""

    def test_an_export_does_not_compare_with_the_module(self, tiny_source: Path, tmp_path: Path) -> None:
        code = f"""
        import embedrt
        embedrt.compat.install()
        embedrt.export({str(tiny_source)!r}, {str(tmp_path / "bundle")!r})
        """
        python(code="import embedrt.compat\n" + dedent(code))
        proof = json.loads((tmp_path / "bundle" / "embedrt.json").read_text())["routes"]["default"]["variants"][0][
            "proof"
        ]
        assert "onnx.reference" in proof["reference"]

    def test_the_reference_by_name_is_an_error(self, tiny_source: Path, tmp_path: Path) -> None:
        arguments = ["export", str(tiny_source), "-o", str(tmp_path / "b"), "--reference", "sentence-transformers"]
        done = python("-m", "embedrt.compat", "-m", "embedrt", *arguments, status=1)
        assert (
            "embedrt: expected sentence-transformers as the reference, got the module of embedrt.compat" in done.stderr
        )

    def test_models_are_exported_on_the_spot(self, tiny_bundle: Path, own_store: Path) -> None:
        copy_bundle(tiny_bundle, own_store / "bundles" / "org--tiny")
        out = printed(
            """
            from sentence_transformers import SentenceTransformer
            print(SentenceTransformer("org/tiny", cache_folder="elsewhere", local_files_only=True).encode("a").shape)
            try:
                SentenceTransformer("org/other", local_files_only=True)
            except OSError as error:
                print(type(error).__name__)
            """,
            {"EMBEDRT_HOME": str(own_store)},
        )
        assert out == "(32,)\nModelNotFoundError\n"


def test_the_error_is_an_import_error() -> None:
    assert issubclass(CompatError, EmbedrtError)
    assert issubclass(CompatError, ImportError)
