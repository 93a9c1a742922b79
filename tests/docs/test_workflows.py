"""Workflows for GitHub: least rights, exact actions, and all that CI runs."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.pages import ROOT, text

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# An action by the full hash of a commit, and the release that it is.
ACTION = re.compile(r"uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")

Json = dict[str, Any]


def workflow(name: str) -> Json:
    found: Json = yaml.safe_load(text(ROOT / f".github/workflows/{name}.yml"))
    return found


def jobs(path: Path) -> dict[str, Json]:
    found: dict[str, Json] = yaml.safe_load(text(path))["jobs"]
    return found


def targets(path: Path) -> set[str]:
    """Targets of make that a workflow runs."""
    words = {word for line in re.findall(r"\bmake ([\w -]+)", text(path)) for word in line.split()}
    named = {word for word in words if word.islower()}  # not PYTHON=python
    matrices = [job.get("strategy", {}).get("matrix", {}) for job in jobs(path).values()]
    return named | {target for matrix in matrices for target in matrix.get("target", [])}


def test_the_workflows_are_found() -> None:
    assert {path.stem for path in WORKFLOWS} == {"tests", "docs", "publish", "container", "long-runs"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestEachWorkflow:
    def test_actions_are_exact(self, path: Path) -> None:
        used = [line.strip().removeprefix("- ") for line in text(path).splitlines() if "uses:" in line]
        assert used
        assert not [line for line in used if not ACTION.fullmatch(line)]

    def test_rights_are_given_to_jobs_one_by_one(self, path: Path) -> None:
        content = yaml.safe_load(text(path))
        assert content["permissions"] == {}
        for name, job in content["jobs"].items():
            assert isinstance(job["permissions"], dict), name
            assert job["timeout-minutes"] <= 180, name

    def test_no_secret_and_no_credential_that_stays(self, path: Path) -> None:
        assert "secrets." not in text(path)
        assert "pull_request_target" not in text(path)
        for job in jobs(path).values():
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False

    def test_its_targets_exist(self, path: Path) -> None:
        known = set(re.findall(r"^([\w-]+):", text(ROOT / "Makefile"), re.MULTILINE))
        assert targets(path) <= known


def test_who_may_write() -> None:
    rights = {
        (path.stem, name): {right for right, value in job["permissions"].items() if value == "write"}
        for path in WORKFLOWS
        for name, job in jobs(path).items()
    }
    assert {job: found for job, found in rights.items() if found} == {
        ("docs", "deploy"): {"pages", "id-token"},
        ("publish", "publish"): {"id-token"},
        ("publish", "release"): {"contents", "id-token", "attestations"},
        ("container", "push"): {"packages"},
    }


def test_only_a_tag_publishes() -> None:
    assert '\non:\n  push:\n    tags: ["v*"]\n\n' in text(ROOT / ".github/workflows/publish.yml")
    order = {name: job.get("needs") for name, job in workflow("publish")["jobs"].items()}
    assert order == {"build": None, "check": "build", "publish": "check", "release": "publish"}
    image = workflow("container")["jobs"]
    assert image["push"]["if"] == "github.ref_type == 'tag'"
    assert [step["with"]["push"] for step in image["build"]["steps"] if "push" in step.get("with", {})] == [False]


def test_every_python_of_the_package_is_tested() -> None:
    classifiers = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]["classifiers"]
    versions = [version for line in classifiers if (version := line.rpartition(" :: ")[2]).startswith("3.")]
    assert workflow("tests")["jobs"]["test"]["strategy"]["matrix"]["python"] == versions
    assert workflow("publish")["jobs"]["check"]["strategy"]["matrix"]["python"] == versions


def test_what_ci_runs_is_in_a_workflow() -> None:
    script = text(ROOT / ".ci/run")
    wanted = set(re.findall(r"\b(?:step|while_time_allows) ([\w-]+)", script))
    assert {"test", "lint", "docs", "test-reference"} <= wanted
    assert wanted <= set.union(*map(targets, WORKFLOWS))
