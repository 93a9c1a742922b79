"""scikit-learn: the conventions of its estimators, pipelines and searches."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks, get_tags

from embedrt import Embedder, EmbeddingsError
from embedrt.integrations import choice
from embedrt.integrations.sklearn import EmbedrtTransformer
from tests.kit.clients import Record

TEXTS = ["one cat", "two dogs in the river", "the bank", "a short text", "money", "one boat"] * 4
LABELS = [0, 0, 1, 1, 1, 0] * 4


def test_vectors_are_those_of_the_embedder(two_sided_bundle: Path, record: Record) -> None:
    model = Embedder(two_sided_bundle)
    found = EmbedrtTransformer(str(two_sided_bundle)).fit_transform(TEXTS)
    record("scikit-learn", sklearn.__version__, "fit_transform", np.abs(found - model.encode(TEXTS)).max())
    for inputs in (np.array(TEXTS), np.array(TEXTS)[:, None], pd.Series(TEXTS), pd.DataFrame({"body": TEXTS})):
        np.testing.assert_array_equal(EmbedrtTransformer(model).fit_transform(inputs), found)
    options = EmbedrtTransformer(model, prompt_name="query", truncate_dim=8, normalize=True)
    expected = model.encode(TEXTS, prompt_name="query", truncate_dim=8, normalize_embeddings=True)
    np.testing.assert_array_equal(options.fit_transform(TEXTS), expected)


def test_conventions(two_sided_bundle: Path) -> None:
    transformer = EmbedrtTransformer(str(two_sided_bundle), truncate_dim=4)
    assert transformer.get_params() == {
        "model": str(two_sided_bundle),
        "device": None,
        "dtype": None,
        "threads": None,
        "truncate_dim": 4,
        "normalize": False,
        "prompt_name": None,
    }
    tags = get_tags(transformer)
    assert (tags.input_tags.string, tags.input_tags.two_d_array, tags.no_validation) == (True, False, True)
    copied = clone(transformer.fit(TEXTS))
    assert copied.get_params() == transformer.get_params()
    assert not hasattr(copied, "fingerprint_")
    assert list(transformer.get_feature_names_out()) == [f"embedrttransformer{i}" for i in range(4)]
    assert transformer.set_params(truncate_dim=2).fit_transform(TEXTS).shape == (24, 2)
    frame = transformer.set_output(transform="pandas").transform(pd.Series(TEXTS, index=range(100, 124)))
    assert list(frame.columns) == ["embedrttransformer0", "embedrttransformer1"]
    assert list(frame.index) == list(range(100, 124))
    assert len(pickle.dumps(transformer)) < 2_000
    again = pickle.loads(pickle.dumps(transformer))
    pd.testing.assert_frame_equal(again.transform(TEXTS), transformer.transform(TEXTS))


# Those that need no numbers as input: scikit-learn leaves out all of them for its own transformers of texts.
CHECKS = [
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    estimator_checks.check_mixin_order,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.__name__))
def test_checks_of_scikit_learn(check: Any, two_sided_bundle: Path) -> None:
    check("EmbedrtTransformer", EmbedrtTransformer(str(two_sided_bundle)))


def test_pipelines_and_columns(two_sided_bundle: Path) -> None:
    pipeline = make_pipeline(EmbedrtTransformer(str(two_sided_bundle)), LogisticRegression())
    again = pickle.loads(pickle.dumps(pipeline.fit(TEXTS, LABELS)))
    np.testing.assert_array_equal(again.predict_proba(TEXTS), pipeline.predict_proba(TEXTS))
    frame = pd.DataFrame({"body": TEXTS, "number": range(24)})
    columns = ColumnTransformer(
        [("text", EmbedrtTransformer(str(two_sided_bundle)), "body"), ("rest", "passthrough", ["number"])]
    )
    assert columns.fit_transform(frame).shape == (24, 33)
    assert columns.get_feature_names_out()[[0, 32]].tolist() == ["text__embedrttransformer0", "rest__number"]


@pytest.mark.parametrize("is_open", [False, True])
def test_a_search_in_two_processes(two_sided_bundle: Path, is_open: bool) -> None:
    model = Embedder(two_sided_bundle, threads=1) if is_open else str(two_sided_bundle)
    pipeline = make_pipeline(EmbedrtTransformer(model), LogisticRegression())
    grid = {"embedrttransformer__truncate_dim": [4, 32], "logisticregression__C": [0.1, 10.0]}
    alone, shared = (GridSearchCV(pipeline, grid, cv=2, n_jobs=jobs).fit(TEXTS, LABELS) for jobs in (None, 2))
    np.testing.assert_array_equal(shared.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


def test_another_model_than_the_fitted_one_is_refused(
    two_sided_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(two_sided_bundle, bundle)
    pickled = pickle.dumps(make_pipeline(EmbedrtTransformer(str(bundle)), LogisticRegression()).fit(TEXTS, LABELS))
    shutil.rmtree(bundle)
    shutil.copytree(other_bundle, bundle)
    choice._opened.cache_clear()  # as in another process
    with pytest.raises(EmbeddingsError, match=f"expected the fingerprint {Embedder(two_sided_bundle).fingerprint}"):
        pickle.loads(pickled).predict(TEXTS)
