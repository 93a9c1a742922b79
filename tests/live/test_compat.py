"""Names of sentence-transformers: the module of `embedrt.compat` has each of them, or says what to use instead."""

from importlib import import_module

import pytest
import sentence_transformers

from embedrt.compat.names import NAME, PROVIDED, VERSION, instead

# Of no use outside of the package: the message about them lists what there is.
INTERNAL = {
    "ORIGINAL_TRANSFORMER_MODELS",
    "append_to_last_row",
    "check_package_availability",
    "check_version_requirements",
    "disable_logging",
    "disabled_tqdm",
    "fullname",
    "get_rank",
    "get_world_size",
    "import_from_string",
    "import_module_class",
    "install_logger",
    "is_accelerate_available",
    "is_datasets_available",
    "is_dist_initialized",
    "is_sentence_transformer_model",
    "load_dir_path",
    "load_file_path",
    "repad_flattened_features",
    "save_to_hub_args_decorator",
    "similarity_fct_name",
}


def test_the_version() -> None:
    assert sentence_transformers.__version__ == VERSION


@pytest.mark.filterwarnings("ignore:Importing from:DeprecationWarning")
@pytest.mark.parametrize("name", PROVIDED)
def test_names(name: str) -> None:
    module = import_module(name)
    public = {one for one in getattr(module, "__all__", ()) if not one.startswith("_")}
    absent = {one for one in public - INTERNAL if f"{name}.{one}" not in PROVIDED} - {*PROVIDED[name]}
    assert not [one for one in absent if not instead(one)]
    assert not [one for one in PROVIDED[name] if not hasattr(module, one)]
    assert NAME in name
