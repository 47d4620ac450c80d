"""The deployment files say what the program does; nothing here runs a container or a cluster."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
import typer
import yaml

from polymem.cli.entry import app
from polymem.config import CONFIG_VARIABLE, TABLE, Settings, load
from polymem.domain.model import JobKind, JobState
from polymem.http.app import Server
from polymem.http.metrics import Metrics
from polymem.ports.queue import JobCounts

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.name != ".env")
PAPERS = [DEPLOY / "README.md", ROOT / "docs" / "scaling.md"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("polymem:")}
# Hands a new volume to the storage that is to write there, and ends.
MAY_BE_ROOT = {"objects-owner"}


def manifests() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [each for file in files for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def of_kind(kind: str) -> list[dict[str, Any]]:
    found = [each for each in manifests() if each["kind"] == kind]
    assert found
    return found


def pods() -> dict[str, dict[str, Any]]:
    """The pod template of each thing that runs pods."""
    return {each["metadata"]["name"]: each["spec"]["template"] for each in of_kind("Deployment") + of_kind("Job")}


def container(pod: dict[str, Any]) -> dict[str, Any]:
    found = pod["spec"]["containers"]
    assert len(found) == 1
    return cast("dict[str, Any]", found[0])


def mapping(kind: str, key: str) -> dict[str, str]:
    (found,) = of_kind(kind)
    return cast("dict[str, str]", found[key])


def image_environment() -> dict[str, str]:
    """What the image itself sets."""
    block = re.search(r"^ENV PATH=(?:.*\\\n)+.*$", DOCKERFILE, re.MULTILINE)
    assert block
    return dict(re.findall(r"\b(POLYMEM_[A-Z0-9_]+)=(\S+)", block.group(0)))


def example_variables() -> dict[str, str]:
    text = (DEPLOY / "example.env").read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Z0-9_]+)=(.*)$", text, re.MULTILINE))


def filled_in(value: object) -> str:
    """The value as compose reads it with the example's variables."""
    variables = example_variables()
    return re.sub(
        r"\$\{([A-Z0-9_]+)(?::\?[^}]*|:-([^}]*))?\}", lambda found: variables.get(found[1]) or found[2], str(value)
    )


def settings_of(environment: dict[str, str]) -> Settings:
    return load({}, environment=image_environment() | environment).settings


# --- syntax, names, values -----------------------------------------------------------------------------------


def test_every_file_parses_and_is_named_in_the_readme() -> None:
    readme = PAPERS[0].read_text(encoding="utf-8")
    for file in FILES:
        if file.suffix == ".yaml":
            assert all(isinstance(each, dict) for each in yaml.safe_load_all(file.read_text(encoding="utf-8")))
        if file.suffix == ".json":
            assert isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
        place = file.relative_to(DEPLOY)
        assert f"`{place.parent}/`" in readme or str(place) in readme or file == PAPERS[0]


@pytest.mark.parametrize("file", [*FILES, PAPERS[1]], ids=lambda file: str(file.relative_to(ROOT)))
def test_every_variable_named_is_a_setting(file: Path) -> None:
    known = {row.variable for row in TABLE} | {CONFIG_VARIABLE}
    text = file.read_text(encoding="utf-8")
    if file.name in {"api.yaml", "README.md"}:
        known |= {"POLYMEM_"}
    assert set(re.findall(r"\bPOLYMEM_[A-Z0-9_]*", text)) <= known


def test_the_settings_read_what_compose_and_the_manifests_give() -> None:
    for service in OURS.values():
        settings = settings_of({name: filled_in(value) for name, value in service["environment"].items()})
        assert settings.database_url is not None
        assert settings.blob_url is not None
        assert settings.key is not None
    settings = settings_of(mapping("ConfigMap", "data") | mapping("Secret", "stringData"))
    assert settings.database_url is not None
    assert settings.key is not None
    assert settings.provisioning == "closed"


def test_secrets_stand_in_no_file_but_as_examples() -> None:
    secret = {row.variable for row in TABLE if row.is_secret}
    assert "POLYMEM_KEY" in secret
    assert secret.isdisjoint(image_environment())
    assert secret.isdisjoint(mapping("ConfigMap", "data"))
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if name in secret or "PASSWORD" in name:
                assert re.search(r"\$\{[A-Z0-9_]+:\?", value)
    ours = set(mapping("Secret", "stringData")) | {"POSTGRES_PASSWORD"}
    assert {name for name in example_variables() if "LISTEN" not in name} <= ours


def test_every_example_variable_is_used_and_every_used_one_is_in_the_example() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{([A-Z0-9_]+)", text)) == set(example_variables())


def test_the_kustomization_lists_every_manifest_but_the_example() -> None:
    listed = set(of_kind("Kustomization")[0]["resources"])
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert files - listed == {"kustomization.yaml", "secret.example.yaml"}


# --- commands, paths, metrics ---------------------------------------------------------------------------------


def commands() -> Iterator[list[str]]:
    """Every command line of ours: in the image, in compose, in the manifests and in the papers."""
    yield from (json.loads(found) for found in re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE))
    yield from (service["command"] for service in OURS.values())
    yield from (container(pod)["args"] for pod in pods().values())
    ours = ["python", "-m", "polymem"]
    checks = [service["healthcheck"].get("test", [])[1:] for service in OURS.values() if "healthcheck" in service]
    probes = [container(pod).get("startupProbe", {}).get("exec", {}).get("command", []) for pod in pods().values()]
    yield from (check[len(ours) :] for check in checks + probes if check[: len(ours)] == ours)
    for paper in [*PAPERS, *FILES]:
        for found in re.findall(r"`polymem ((?:[a-z-]+ ?)+)`", paper.read_text(encoding="utf-8")):
            yield found.split()


def test_every_command_named_is_one_of_ours_with_its_options() -> None:
    names = set()
    for words in commands():
        command: Any = typer.main.get_command(app)
        for word in words:
            if word.startswith("--"):
                assert word in {option for parameter in command.params for option in parameter.opts}, words
            else:
                assert word in getattr(command, "commands", {}), words
                command = command.commands[word]
        names.add(words[0])
    assert {"serve", "work", "migrate"} <= names


def test_every_probe_asks_a_path_that_the_server_answers() -> None:
    answered = set(Server(cast("Any", None), ())._own)
    probes = [
        container(pod)[probe]["httpGet"]["path"]
        for pod in pods().values()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        if "httpGet" in container(pod).get(probe, {})
    ]
    checks = [str(service["healthcheck"].get("test")) for service in OURS.values() if "healthcheck" in service]
    balancer = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")
    named = [
        *probes,
        *re.findall(r"uri (/\S+)", balancer.replace("monitor-uri", "")),
        *re.findall(r"path (/\S+) (/\S+) }", balancer)[0],
        *re.findall(r":8765(/\w+)", " ".join(checks)),
        *re.findall(r"(/livez|/readyz)", DOCKERFILE),
        *(
            pod["metadata"]["annotations"]["prometheus.io/path"]
            for pod in pods().values()
            if "annotations" in pod["metadata"]
        ),
    ]
    assert len(probes) == 3
    assert set(named) <= answered
    assert {"/livez", "/readyz", "/metrics"} <= set(named)


def exported() -> dict[str, set[str]]:
    """The names that /metrics gives, and the labels of each."""
    metrics = Metrics()
    metrics.request_answered("mem9", "GET", "/memories", 200, 0.1)
    metrics.recall_answered("mem9", 0.1)
    metrics.memories_written("mem9", 1)
    metrics.health_seen(is_serving=True, degraded=0)
    metrics.jobs_counted(JobCounts(by_kind_and_state={(JobKind.EMBED, JobState.QUEUED): 1}))
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", metrics.exposition().decode(), re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "polymem.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def test_every_metric_and_label_of_the_board_is_exported() -> None:
    known = exported()
    used: set[str] = set()
    for expression in expressions():
        names = set(re.findall(r"\bpolymem_\w+", expression))
        assert names, expression
        assert names <= set(known), expression
        allowed = {"job", "instance", *(label for name in names for label in known[name])}
        labels = set(re.findall(r"(\w+)=~?\"", expression))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            labels |= set(re.findall(r"\w+", group))
        assert labels <= allowed, expression
        used |= names
    helpers = re.compile(r"_created$|_sum$|_count$|_bucket$|_total$")
    assert {helpers.sub("", name) for name in known} == {helpers.sub("", name) for name in used}


def test_the_board_names_states_that_jobs_have_and_no_panel_twice() -> None:
    board = json.loads((DEPLOY / "grafana" / "polymem.json").read_text(encoding="utf-8"))
    states = {state for expression in expressions() for state in re.findall(r'state="(\w+)"', expression)}
    assert states <= {state.value for state in JobState}
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == len(board["panels"])


# --- safety ---------------------------------------------------------------------------------------------------


def test_every_image_has_a_version_and_none_is_latest() -> None:
    (kustomization,) = of_kind("Kustomization")
    newest = {image["name"]: f"{image['newName']}:{image['newTag']}" for image in kustomization["images"]}
    images = [
        *(service["image"] for service in SERVICES.values()),
        *re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE),
        *(newest[container(pod)["image"]] for pod in pods().values()),
    ]
    assert [image for image in images if not re.search(r":[\w.-]*\d[\w.-]*$", image)] == []
    assert {image for image in images if image.startswith("polymem:")} == {"polymem:0.1.0"}


def test_no_container_of_compose_runs_as_root_or_may_write_or_grow() -> None:
    for name, service in SERVICES.items():
        user = int(service["user"].split(":")[0])
        assert (user == 0) == (name in MAY_BE_ROOT)
        assert service.get("cap_add", []) == (["CHOWN"] if name in MAY_BE_ROOT else [])
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        if service.get("restart") == "unless-stopped":
            assert "test" in service["healthcheck"]


def test_only_the_balancer_is_reached_from_outside() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["balancer"]
    assert SERVICES["balancer"]["ports"][0].startswith("${LISTEN_ADDRESS:-127.0.0.1}:")
    assert COMPOSE["networks"]["inside"]["internal"] is True


def test_every_pod_is_restricted_and_hears_of_no_service() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user
    for pod in pods().values():
        whole, inner = pod["spec"]["securityContext"], container(pod)["securityContext"]
        assert whole["runAsNonRoot"] is True
        assert (whole["runAsUser"], whole["runAsGroup"]) == (int(user[1]), int(user[2]))
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        assert inner["allowPrivilegeEscalation"] is False
        assert inner["readOnlyRootFilesystem"] is True
        assert inner["capabilities"] == {"drop": ["ALL"]}
        assert set(container(pod)["resources"]) == {"requests", "limits"}
        assert pod["spec"]["automountServiceAccountToken"] is False
        # Kubernetes would set POLYMEM_PORT=tcp://... for the service, and polymem refuses to start with that.
        assert pod["spec"]["enableServiceLinks"] is False


def test_the_image_is_of_an_ordinary_user_and_of_hashed_packages() -> None:
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("\nENTRYPOINT ")
    assert "--require-hashes" in DOCKERFILE
    lock = re.search(r"^COPY (requirements\S*) \./$", DOCKERFILE, re.MULTILINE)
    assert lock
    assert (ROOT / lock[1]).is_file()
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert {f"!{name}" for line in copied for name in line.split()} <= set(ignored)


# --- agreement ------------------------------------------------------------------------------------------------


def test_all_ports_agree() -> None:
    (deployment,) = (each for each in of_kind("Deployment") if each["metadata"]["name"] == "polymem-api")
    template = deployment["spec"]["template"]
    (named,) = container(template)["ports"]
    (service,) = of_kind("Service")
    balancer = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")
    (policy,) = (each for each in of_kind("NetworkPolicy") if each["metadata"]["name"] == "polymem-api")
    ports = {
        image_environment()["POLYMEM_PORT"],
        *re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE),
        mapping("ConfigMap", "data")["POLYMEM_PORT"],
        str(named["containerPort"]),
        template["metadata"]["annotations"]["prometheus.io/port"],
        str(policy["spec"]["ingress"][0]["ports"][0]["port"]),
        *SERVICES["api-1"]["expose"],
        *re.findall(r"127\.0\.0\.1:(\d+)", str(SERVICES["api-1"]["healthcheck"])),
        *re.findall(r"^  server \S+ \S+:(\d+)", balancer, re.MULTILINE),
    }
    assert ports == {str(Settings().port)}
    assert service["spec"]["ports"][0]["targetPort"] == named["name"]
    bound = re.findall(r"^  bind :(\d+)$", balancer, re.MULTILINE)
    assert bound == [SERVICES["balancer"]["ports"][0].rsplit(":", 1)[1]]
    assert bound[0] in str(SERVICES["balancer"]["healthcheck"])


def test_the_balancer_and_the_services_name_each_other_rightly() -> None:
    balancer = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")
    behind = set(re.findall(r"^  server \S+ (\S+):", balancer, re.MULTILINE))
    assert behind == {name for name, service in OURS.items() if service["command"] == ["serve"]}
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)
    endpoint = settings_of({"POLYMEM_S3_ENDPOINT": OURS["worker"]["environment"]["POLYMEM_S3_ENDPOINT"]}).s3_endpoint
    assert endpoint == "http://objects:8333"
    assert "-s3.port=8333" in SERVICES["objects"]["command"]


def test_a_stop_is_given_more_time_than_it_may_take() -> None:
    allowed = float(mapping("ConfigMap", "data")["POLYMEM_SHUTDOWN_GRACE_SECONDS"])
    for name in ("polymem-api", "polymem-worker"):
        pod = pods()[name]
        hook = str(container(pod).get("lifecycle", ""))
        before = sum(float(found) for found in re.findall(r"sleep\((\d+)\)", hook))
        assert pod["spec"]["terminationGracePeriodSeconds"] > before + allowed
    for service in OURS.values():
        if service["command"] != ["migrate"]:
            grace = timedelta(seconds=float(service["stop_grace_period"].removesuffix("s")))
            assert grace.total_seconds() > float(service["environment"]["POLYMEM_SHUTDOWN_GRACE_SECONDS"])


def test_selectors_choose_the_pods_they_are_meant_for() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}
    for each in of_kind("Deployment"):
        assert each["spec"]["selector"]["matchLabels"] == labels[each["metadata"]["name"]]
    (service,), (budget,), (scaler,) = (
        of_kind("Service"),
        of_kind("PodDisruptionBudget"),
        of_kind("HorizontalPodAutoscaler"),
    )
    assert service["spec"]["selector"] == labels["polymem-api"]
    assert budget["spec"]["selector"]["matchLabels"] == labels["polymem-api"]
    assert scaler["spec"]["scaleTargetRef"]["name"] in labels
    chosen = [each["spec"]["podSelector"].get("matchLabels") for each in of_kind("NetworkPolicy")]
    assert chosen == [None, labels["polymem-api"]]
    for pod in pods().values():
        mounted = {mount["name"] for mount in container(pod)["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


@contextmanager
def answering(status: int) -> Iterator[int]:
    """The port of a server that answers /livez with this status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/livez" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(10)


@pytest.mark.parametrize(("status", "is_healthy"), [(200, True), (503, False)])
def test_the_images_health_check_tells_a_server_that_lives(status: int, *, is_healthy: bool) -> None:
    check = re.search(r"^HEALTHCHECK (?:.*\\\n)+  CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert check
    command = [sys.executable, *json.loads(check[1])[1:]]
    with answering(status) as port:
        ended = subprocess.run(command, env={"POLYMEM_PORT": str(port)}, check=False, capture_output=True, timeout=30)

    assert (ended.returncode == 0) is is_healthy
