"""The small programs behind `make test-lowest`, `make audit`, `make sbom` and a release."""

from pathlib import Path

import pytest

from tests.kit.pages import ROOT
from tests.lint.audit import verdict
from tests.lint.lowest import constraints
from tests.lint.release import mistakes
from tests.lint.sbom import missing, subject


def test_every_floor_is_pinned() -> None:
    lines = constraints(ROOT / "pyproject.toml")
    assert {line.partition("==")[0] for line in lines} >= {
        "numpy",
        "tokenizers",
        "huggingface-hub",
        "onnxruntime",
        "onnx",
    }
    assert all(line.partition("==")[2] for line in lines)


@pytest.mark.parametrize("requirement", ["numpy", "numpy>2", "numpy>=2,<3", "numpy==2.0"])
def test_a_dependency_without_a_floor_is_an_error(requirement: str, tmp_path: Path) -> None:
    extras = "cpu = []\nexport = []\nstorage = []\n"
    page = tmp_path / "pyproject.toml"
    page.write_text(f'[project]\ndependencies = ["{requirement}"]\n[project.optional-dependencies]\n{extras}')
    with pytest.raises(SystemExit, match="expected NAME>=VERSION"):
        constraints(page)


def test_what_the_database_does_not_know_is_not_audited() -> None:
    line = "{} Dependency not found on PyPI and could not be audited: {} (1.0)"
    assert verdict(0, line.format("embedrt", "embedrt")) == (0, "no known vulnerabilities")
    status, told = verdict(0, "\n".join(line.format(name, name) for name in ("embedrt", "numpy")))
    assert (status, told.endswith("has no answer for numpy")) == (0, True)


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, "No known vulnerabilities found", 0),
        (1, "Found 2 known vulnerabilities in 1 package", 1),
        (1, "Found 1 known vulnerability in 1 package", 1),
        (1, "requests.exceptions.ConnectionError: Max retries exceeded with url", 0),
        (1, "Traceback (most recent call last): KeyError", 1),
        (2, "unrecognized arguments: --x", 2),
    ],
)
def test_an_audit_fails_on_findings_and_on_other_errors(status: int, output: str, expected: int) -> None:
    found, line = verdict(status, output)
    assert found == expected
    assert ("NOT AUDITED" in line) == (status != 0 and expected == 0)


def test_a_release_needs_tag_version_changelog_and_files_that_agree() -> None:
    files = ["embedrt-0.2.0-py3-none-any.whl", "embedrt-0.2.0.tar.gz"]
    changelog = "# Changelog\n\n## 0.2.0 (2026-11-27)\n\n## 0.1.0\n"
    assert mistakes("v0.2.0", "0.2.0", changelog, files) == []
    assert mistakes("v0.3.0", "0.2.0", changelog, files) == [
        "tag: expected v0.2.0, the version in embedrt/_version.py, got v0.3.0"
    ]
    assert mistakes("v0.2.0", "0.2.0", "## Unreleased\n\n" + changelog, files) == [
        "CHANGELOG.md: expected '## 0.2.0 (DATE)' as the first heading, got '## Unreleased'"
    ]
    for wrong in ([], files[:1], [*files, "embedrt-0.1.0.tar.gz"]):
        assert len(mistakes("v0.2.0", "0.2.0", changelog, wrong)) == 1


def test_the_bill_of_materials_is_about_embedrt_and_names_no_path() -> None:
    own = {"name": "embedrt", "version": "0.2.0", "externalReferences": [{"url": "file:///home/someone/embedrt"}]}
    numpy = {"name": "numpy", "version": "2.4.6"}
    document = {"metadata": {"tools": []}, "components": [numpy, own], "dependencies": []}
    expected = {"name": "embedrt", "version": "0.2.0", "purl": "pkg:pypi/embedrt@0.2.0"}
    assert subject(document) == {
        "metadata": {"tools": [], "component": expected},
        "components": [numpy],
        "dependencies": [],
    }


def test_a_bill_of_materials_has_every_direct_dependency() -> None:
    extras = {"cpu": ["onnxruntime>=1.30"], "gpu": ["onnxruntime-gpu~=1.31.0"], "serve": ["prometheus-client>=0.22"]}
    pyproject = {"project": {"dependencies": ["numpy>=2.0"], "optional-dependencies": extras}}
    found = [{"name": name} for name in ("numpy", "prometheus_client", "tqdm")]
    assert missing({"components": found}, pyproject) == ["onnxruntime"]
