"""The model of an adapter: opened once, checked by its fingerprint, stored by its name."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedrt import Embedder, EmbeddingsError
from embedrt.integrations.choice import Choice, _opened, check_update

TEXTS = ["one cat", "two dogs in the river", "the bank"]


def test_vectors_are_those_of_the_embedder(two_sided_bundle: Path) -> None:
    model, choice = Embedder(two_sided_bundle), Choice(str(two_sided_bundle))
    np.testing.assert_array_equal(choice.encode(TEXTS), model.encode(TEXTS))
    np.testing.assert_array_equal(choice.encode_query(iter(TEXTS)), model.encode_query(TEXTS))
    np.testing.assert_array_equal(choice.encode_document(tuple(TEXTS)), model.encode_document(TEXTS))
    assert np.abs(choice.encode_query(TEXTS) - choice.encode_document(TEXTS)).max() > 0.01
    assert choice.dim == 32


def test_the_form_of_the_vectors_is_chosen(two_sided_bundle: Path) -> None:
    choice = Choice(two_sided_bundle, truncate_dim=8, normalize=True)
    expected = Embedder(two_sided_bundle).encode_query(TEXTS, truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_array_equal(choice.encode_query(TEXTS), expected)
    assert choice.dim == 8


def test_a_model_is_opened_once_and_at_first_use(two_sided_bundle: Path, tmp_path: Path) -> None:
    assert Choice(str(two_sided_bundle)).embedder is Choice(str(two_sided_bundle), truncate_dim=8).embedder
    assert Choice(str(two_sided_bundle)).embedder is not Choice(str(two_sided_bundle), threads=1).embedder
    Choice(tmp_path / "nothing")


def test_an_open_model_keeps_its_options(two_sided_bundle: Path) -> None:
    model = Embedder(two_sided_bundle, threads=1)
    assert Choice(model).embedder is model
    with pytest.raises(ValueError, match="device, dtype, threads: an open model has its own; leave them out"):
        Choice(model, threads=2)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_configuration_is_json_and_opens_the_same_model(two_sided_bundle: Path, is_open: bool) -> None:
    choice = Choice(Embedder(two_sided_bundle) if is_open else str(two_sided_bundle), truncate_dim=8)
    config = json.loads(json.dumps(choice.config()))
    assert config == {
        "model": str(two_sided_bundle),
        "device": None,
        "dtype": "float32" if is_open else None,
        "threads": None,
        "truncate_dim": 8,
        "normalize": False,
        "fingerprint": Embedder(two_sided_bundle).fingerprint,
    }
    again = Choice(**config)
    np.testing.assert_array_equal(again.encode_query(TEXTS), choice.encode_query(TEXTS))


def change_prompt(model: Embedder) -> None:
    model.prompts["query"] = "another : "


def change_default(model: Embedder) -> None:
    model.default_prompt_name = "query"


def change_length(model: Embedder) -> None:
    model.max_seq_length = 12


@pytest.mark.parametrize("change", [change_prompt, change_default, change_length])
def test_settings_that_a_folder_lacks_are_not_stored_in_silence(
    two_sided_bundle: Path, tmp_path: Path, change: Any
) -> None:
    model = Embedder(two_sided_bundle)
    change(model)
    with pytest.raises(ValueError, match=r"expected the settings of .*save the model with `save_pretrained`"):
        Choice(model).config()
    model.save_pretrained(tmp_path / "saved")
    saved = Choice(**Choice(Embedder(tmp_path / "saved")).config())
    np.testing.assert_array_equal(saved.encode_query(TEXTS), model.encode_query(TEXTS))


def test_another_model_is_refused_with_both_fingerprints(two_sided_bundle: Path, other_bundle: Path) -> None:
    first, second = (Choice(str(one)).config() for one in (two_sided_bundle, other_bundle))
    message = f"model: expected the fingerprint {first['fingerprint']}, got {second['fingerprint']}: another model made"
    with pytest.raises(EmbeddingsError, match=message):
        Choice(str(other_bundle), fingerprint=first["fingerprint"]).encode(TEXTS)
    with pytest.raises(EmbeddingsError, match=message):
        check_update(first, second)


def test_vectors_of_another_form_are_refused(two_sided_bundle: Path) -> None:
    config = Choice(str(two_sided_bundle)).config()
    check_update(config, {**config, "model": "elsewhere", "device": "cpu", "threads": 1})
    with pytest.raises(EmbeddingsError, match="truncate_dim: expected None, as for the vectors that are there, got 8"):
        check_update(config, {**config, "truncate_dim": 8})
    with pytest.raises(EmbeddingsError, match="normalize: expected False, as for the vectors that are there, got True"):
        check_update(config, {**config, "normalize": True})


@pytest.mark.parametrize("is_open", [False, True])
def test_a_pickle_has_names_and_options_alone(two_sided_bundle: Path, is_open: bool) -> None:
    choice = Choice(Embedder(two_sided_bundle) if is_open else str(two_sided_bundle), normalize=True)
    pickled = pickle.dumps(choice)
    assert len(pickled) < 20_000
    np.testing.assert_array_equal(pickle.loads(pickled).encode(TEXTS), choice.encode(TEXTS))


def test_a_pickle_refuses_another_model_of_the_same_name(
    two_sided_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(two_sided_bundle, folder)
    pickled = pickle.dumps(Choice(str(folder)))
    shutil.rmtree(folder)
    shutil.copytree(other_bundle, folder)
    _opened.cache_clear()  # as in another process
    loaded = pickle.loads(pickled)
    with pytest.raises(EmbeddingsError, match="model: expected the fingerprint"):
        loaded.encode(TEXTS)
