"""The container recipe: what it promises is in its files."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from embedrt.server.options import FLAGS
from tests.container.__main__ import read

FOLDER = Path(__file__).parents[2] / "examples/docker"
USER = "65532"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())}


def test_stages() -> None:
    stages = {stage.name: stage for stage in read((FOLDER / "Dockerfile").read_text())}
    assert [*stages] == ["build", "model", "server", "baked", ""]
    assert {stage.base for stage in stages.values()} == {
        "python:3.11-slim-bookworm",
        "gcr.io/distroless/python3-debian12:nonroot",
        "build",
        "server",
    }
    steps = dict(stages["server"].steps)
    assert steps["USER"] == f"{USER}:{USER}"
    assert "/health" in steps["HEALTHCHECK"]
    variables = {word.partition("=")[0] for word in steps["ENV"].split()}
    options = {f"EMBEDRT_SERVE_{name.rpartition('.')[2].upper()}" for name in FLAGS}
    assert {name for name in variables if name.startswith("EMBEDRT_SERVE_")} <= options
    copied = [word for step, rest in stages["build"].steps if step == "COPY" for word in rest.split()[:-1]]
    listed = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} <= {*listed}


def test_compose(compose: dict[str, Any]) -> None:
    assert {*compose["services"]} == {"baked", "mounted"}
    for service in compose["services"].values():
        assert service["user"] == f"{USER}:{USER}"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["ports"] == ["127.0.0.1:8080:8080"]
        assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert [FOLDER / secret["file"] for secret in compose["secrets"].values()] == [FOLDER / "api_keys.txt"]
    assert compose["services"]["mounted"]["volumes"] == ["./bundle:/bundle:ro"]
    assert compose["services"]["baked"]["build"]["target"] == "baked"


def test_kubernetes(objects: dict[str, Any]) -> None:
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert str(pod["securityContext"]["runAsUser"]) == USER
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")} == {
        "/health"
    }
    flags = {flag for option in FLAGS.values() for flag in option.flags}
    assert {word.partition("=")[0] for word in container["args"] if word.startswith("--")} <= flags
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8080, "metrics": 9000}
    annotations = objects["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == "9000"
    assert objects["Service"]["spec"]["ports"][0]["targetPort"] == "http"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= pause + 60  # `--shutdown-timeout`
