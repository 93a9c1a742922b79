"""Order and errors of scores, the report on them, and the pairs that they are measured over."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedrt.bundle.reports import RankReport
from embedrt.verify.ranks import agreement, orders, probabilities
from embedrt_export.dtypes.int8.texts import items_of, read_texts
from embedrt_export.proof.texts import parity_items, parity_pairs, parity_texts

SCORES = st.lists(st.integers(-50, 50), min_size=2, max_size=12, unique=True)
REPORT = RankReport("rounding", 20, 48, 0.97, 1.0, 0.004, 0.01, 0.9, 0.02, 0.02, 1e-7, "onnxruntime")


class TestAgreement:
    @given(SCORES)
    def test_the_same_order_and_the_opposite(self, scores: list[int]) -> None:
        values = np.array(scores, np.float32)
        assert agreement(values, values * 3 + 1) == 1
        assert agreement(values, -values) == -1

    def test_one_swap_of_three(self) -> None:
        assert agreement(np.array([3.0, 2.0, 1.0]), np.array([2.0, 3.0, 1.0])) == pytest.approx(1 / 3)

    def test_equal_scores_have_no_order(self) -> None:
        assert agreement(np.array([1.0, 1.0]), np.array([1.0, 2.0])) == 1
        assert agreement(np.array([1.0, 1.0, 0.0]), np.array([5.0, 6.0, 0.0])) == 1

    def test_scores_that_became_equal_agree_with_none(self) -> None:
        assert agreement(np.array([1.0, 2.0]), np.array([3.0, 3.0])) == 0


class TestOrders:
    def test_of_the_documents_of_each_query(self) -> None:
        items = [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("b", "2"), ("a", "3")]
        found = [rows.tolist() for rows in orders(items, np.zeros((6, 1), np.float32))]
        assert found == [[0, 2, 5], [1, 4]], "a query with one document has no order"

    def test_of_the_labels_of_each_pair(self) -> None:
        found = [rows.tolist() for rows in orders([("a", "1"), ("a", "2")], np.zeros((2, 3), np.float32))]
        assert found == [[0, 1, 2], [3, 4, 5]]


class TestProbabilities:
    def test_the_sigmoid_of_one_label(self) -> None:
        found = probabilities(np.array([[0.0], [-1000.0], [1000.0], [1.0]], np.float32))
        assert found[:, 0] == pytest.approx([0.5, 0.0, 1.0, 1 / (1 + np.exp(-1))])

    def test_the_softmax_over_several(self) -> None:
        found = probabilities(np.array([[1000.0, 1000.0], [0.0, np.log(3)]], np.float32))
        assert found == pytest.approx(np.array([[0.5, 0.5], [0.25, 0.75]]))


class TestReport:
    @pytest.mark.parametrize("change", [{"mean_agreement": 0.89}, {"mean_score_error": 0.03}])
    def test_both_bounds_count(self, change: dict[str, float]) -> None:
        assert REPORT.is_good
        assert not dataclasses.replace(REPORT, **change).is_good  # type: ignore[arg-type]

    def test_it_says_what_was_measured(self) -> None:
        assert "rank correlation with float32 0.9700" in REPORT.summary
        assert "0.9700 on average" in REPORT.accuracy
        assert "at least 0.9 and at most 0.02" in REPORT.accuracy


class TestPairs:
    def test_calibration_pairs_share_no_text_with_those_that_are_held_back(self) -> None:
        texts = read_texts(None)
        items = items_of(texts, "score")
        for part, of in ((items.calibration, texts.calibration), (items.held_back, texts.held_back)):
            assert part
            for item in part:
                assert isinstance(item, tuple)
                query, document = item
                assert document in of
                assert any(text.startswith(query) for text in of)
                assert query.strip()
        assert len(set(items.held_back)) == len(items.held_back)
        by_query: dict[str, list[str]] = {}
        for item in items.held_back:
            by_query.setdefault(item[0], []).append(item[1])
        assert min(map(len, by_query.values())) >= 9
        assert all(documents[0].startswith(query) for query, documents in by_query.items()), "one that fits each query"

    def test_other_tasks_have_texts(self) -> None:
        texts = read_texts(None)
        assert items_of(texts, "sparse").calibration is texts.calibration

    def test_a_file_of_many_lines(self, tmp_path: Path) -> None:
        file = tmp_path / "lines.txt"
        file.write_text("\n".join(f"line number {i} of the file about subject {i % 17}" for i in range(1200)))
        assert len(items_of(read_texts(file), "score").held_back) <= 1000

    @pytest.mark.parametrize("limit", [8, 48, 512, 8192, None])
    def test_parity_pairs(self, limit: int | None) -> None:
        pairs = parity_pairs(limit)
        assert parity_items("score", limit) == pairs
        assert parity_items("embed", limit) == parity_texts(limit)
        assert len(set(pairs)) == len(pairs)
        assert ("", "How do I reset my password?") in pairs
        assert any(not document for _, document in pairs)
        lengths = [(len(query.split()), len(document.split())) for query, document in pairs]
        reach = min(limit or 1024, 512)
        assert any(query > reach // 2 and document > reach // 2 for query, document in lengths), "both are long"
        assert any(query >= reach and document <= 2 for query, document in lengths), "a long query"
