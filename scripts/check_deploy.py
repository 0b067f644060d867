"""Checks what is in deploy/, as far as that is possible without a cluster and without a container engine.

Each kustomization is built with `kubectl kustomize` where kubectl is installed; else its resources are read one by one,
without patches. Every object is validated against the schemas of Kubernetes (kubernetes-validate), and the whole against
what a schema cannot say: references inside, settings that the programs know, the rules that containers are to keep.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
# The oldest version of Kubernetes that the manifests are for, and the newest that the schemas know.
VERSIONS = ["1.31", kubernetes_validate.latest_version()]

# The version of the programs, which the images have.
VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]

problems: list[str] = []


def problem(where: object, what: str) -> None:
    problems.append(f"{where}: {what}")


# --- What the programs know ---------------------------------------------------------------------------------------------


def packages() -> list[dict]:
    out = subprocess.run(
        ["cargo", "metadata", "--format-version=1", "--no-deps"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return json.loads(out)["packages"]


def binaries() -> dict[str, str]:
    """The names of the programs, each with its package."""
    return {
        target["name"]: package["name"]
        for package in packages()
        for target in package["targets"]
        if "bin" in target["kind"]
    }


def settings() -> set[str]:
    """The environment variables that stand in the sources."""
    found = set()
    for crate in ("agent", "cli", "controller", "shared"):
        for source in (ROOT / crate / "src").rglob("*.rs"):
            found.update(re.findall(r'"(DUNLIN_[A-Z_]+)"', source.read_text()))
    return found


# --- Kubernetes -----------------------------------------------------------------------------------------------------------


def build(directory: Path) -> list[dict]:
    if shutil.which("kubectl"):
        done = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            problem(directory.relative_to(ROOT), f"kubectl kustomize: {done.stderr.strip()}")
            return []
        return [document for document in yaml.safe_load_all(done.stdout) if document]
    return read(directory)


@contextmanager
def component(directory: Path) -> Iterator[Path]:
    """A kustomization of the base with a component, which is nothing by itself."""
    with tempfile.TemporaryDirectory(prefix=f"{directory.name}-", dir=DEPLOY / "k8s") as place:
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": ["../base"],
            "components": [f"../components/{directory.name}"],
        }
        (Path(place) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        yield Path(place)


def read(directory: Path) -> list[dict]:
    """The resources of a kustomization, without its patches, and with generated names as they are written."""
    path = directory / "kustomization.yaml"
    kustomization = yaml.safe_load(path.read_text())
    documents = []
    for entry in kustomization.get("resources", []) + kustomization.get("components", []):
        resource = (directory / entry).resolve()
        if resource.is_dir():
            documents += read(resource)
        elif resource.is_file():
            documents += [document for document in yaml.safe_load_all(resource.read_text()) if document]
        else:
            problem(path.relative_to(ROOT), f"no resource {entry}")
    for generator in kustomization.get("configMapGenerator", []):
        for file in generator.get("files", []):
            if not (directory / file).is_file():
                problem(path.relative_to(ROOT), f"no file {file}")
        documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": {}})
    for patch in kustomization.get("patches", []):
        if "path" in patch and not (directory / patch["path"]).is_file():
            problem(path.relative_to(ROOT), f"no patch {patch['path']}")
    return documents


def pod_of(document: dict) -> dict | None:
    """The template of the pods that an object makes."""
    match document["kind"]:
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            return document["spec"]["template"]
        case "CronJob":
            return document["spec"]["jobTemplate"]["spec"]["template"]
        case _:
            return None


def covers(selector: dict, labels: dict) -> bool:
    return selector.items() <= labels.items()


def check_kubernetes(directory: Path, programs: dict[str, str], known: set[str]) -> int:
    where = directory.relative_to(ROOT)
    documents = build(directory)
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    pods = [(document, pod) for document in documents if (pod := pod_of(document))]
    labels = [pod["metadata"]["labels"] for _, pod in pods]

    for document in documents:
        name = f"{where}: {document['kind']} {document['metadata']['name']}"
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                problem(name, f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
        match document["kind"]:
            case "Secret":
                problem(name, "secrets are referred to, never contained")
            case "Service":
                selected = [pod for _, pod in pods if covers(document["spec"]["selector"], pod["metadata"]["labels"])]
                if not selected:
                    problem(name, "selects no pod")
                ports = {
                    port["name"] for pod in selected for container in pod["spec"]["containers"] for port in container["ports"]
                }
                for port in document["spec"]["ports"]:
                    if port["targetPort"] not in ports:
                        problem(name, f"no container has a port {port['targetPort']}")
            case "Deployment":
                if not covers(document["spec"]["selector"]["matchLabels"], pod_of(document)["metadata"]["labels"]):
                    problem(name, "does not select its own pods")
            case "PodDisruptionBudget":
                if not any(covers(document["spec"]["selector"]["matchLabels"], label) for label in labels):
                    problem(name, "selects no pod")
            case "NetworkPolicy":
                peers = [
                    peer
                    for rule in document["spec"].get("ingress", []) + document["spec"].get("egress", [])
                    for peer in rule.get("from", []) + rule.get("to", [])
                ]
                for selector in [document["spec"]["podSelector"], *(peer["podSelector"] for peer in peers)]:
                    if not any(covers(selector["matchLabels"], label) for label in labels):
                        problem(name, f"selects no pod: {selector['matchLabels']}")

    for document, pod in pods:
        check_pod(f"{where}: {document['kind']} {document['metadata']['name']}", pod["spec"], names, programs, known)
    return len(documents)


def check_pod(where: str, spec: dict, names: set, programs: dict[str, str], known: set[str]) -> None:
    if spec.get("automountServiceAccountToken") is not False:
        problem(where, "mounts a token of Kubernetes")
    account = spec.get("serviceAccountName")
    if account and ("ServiceAccount", account) not in names:
        problem(where, f"there is no ServiceAccount {account}")
    if not spec.get("securityContext", {}).get("runAsNonRoot"):
        problem(where, "may run as root")
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    for volume in volumes.values():
        if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in names:
            problem(where, f"there is no ConfigMap {volume['configMap']['name']}")
    services = {name for kind, name in names if kind == "Service"}
    for container in spec.get("initContainers", []) + spec["containers"]:
        name = f"{where}: {container['name']}"
        security = container.get("securityContext", {})
        if not security.get("readOnlyRootFilesystem") or security.get("allowPrivilegeEscalation") is not False:
            problem(name, "can write its root file system or gain privileges")
        if "ALL" not in security.get("capabilities", {}).get("drop", []):
            problem(name, "keeps capabilities")
        if not container.get("resources", {}).get("limits", {}).get("memory"):
            problem(name, "has no memory limit")
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                problem(name, f"there is no volume {mount['name']}")
        image = container["image"]
        if ":" not in image.rpartition("/")[2] or image.endswith(":latest"):
            problem(name, f"the image {image} has no version")
        if "dunlin" not in image:
            continue
        if image.startswith("dunlin:") and image != f"dunlin:{VERSION}":
            problem(name, f"the image is {image}, and this is version {VERSION}")
        if container["command"][0] not in programs:
            problem(name, f"there is no program {container['command'][0]}")
        check_environment(name, {entry["name"]: entry.get("value") for entry in container.get("env", [])}, known, services)


def check_environment(where: str, environment: dict[str, str | None], known: set[str], hosts: set[str]) -> None:
    for name, value in environment.items():
        if name.startswith("DUNLIN_") and name not in known:
            problem(where, f"no program reads {name}")
        if name == "DUNLIN_CONTROLLER":
            host = re.fullmatch(r"http://([a-z-]+):7440", value or "")
            if not host or host[1] not in hosts:
                problem(where, f"nobody answers at {value}")


# --- Docker -----------------------------------------------------------------------------------------------------------------


def check_dockerfile(programs: dict[str, str]) -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    toolchain = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    if f"FROM rust:{toolchain}-" not in text or f"RUSTUP_TOOLCHAIN={toolchain}" not in text:
        problem("deploy/Dockerfile", f"rust-toolchain.toml says {toolchain}")
    for package in re.findall(r"-p ([a-z-]+)", text):
        if package not in programs.values():
            problem("deploy/Dockerfile", f"there is no package {package} with a program")
    built = re.findall(r"target/release/([a-z-]+)", text)
    for program in built:
        if program not in programs:
            problem("deploy/Dockerfile", f"there is no program {program}")
    for program in ("dunlin", "dunlin-agent", "dunlin-controller"):
        if program not in built:
            problem("deploy/Dockerfile", f"{program} is left out")
    kept = re.findall(r"^!(\S+)", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    for package in packages():
        top = Path(package["manifest_path"]).relative_to(ROOT).parts[0]
        if top not in kept:
            problem("deploy/Dockerfile.dockerignore", f"leaves out {top}, which is in the workspace")
    for name in kept:
        if not list(ROOT.glob(name)):
            problem("deploy/Dockerfile.dockerignore", f"there is no {name}")


def check_compose(programs: dict[str, str], known: set[str]) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    for name, service in services.items():
        where = f"deploy/compose.yaml: {name}"
        for other, how in service.get("depends_on", {}).items():
            if other not in services:
                problem(where, f"depends on {other}, which there is not")
            elif how["condition"] == "service_healthy" and "healthcheck" not in services[other]:
                problem(where, f"{other} has no health check to wait for")
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            if source.startswith("."):
                if not (DEPLOY / source).exists():
                    problem(where, f"there is no {source}")
            elif source not in compose.get("volumes", {}):
                problem(where, f"there is no volume {source}")
        if service["image"].startswith("dunlin:"):
            if service["image"] != f"dunlin:{VERSION}":
                problem(where, f"the image is {service['image']}, and this is version {VERSION}")
            if service["command"][0] not in programs:
                problem(where, f"there is no program {service['command'][0]}")
            check_environment(where, service.get("environment", {}), known, set(services))
            build_context = (DEPLOY / service["build"]["context"]).resolve()
            if not (build_context / service["build"]["dockerfile"]).is_file():
                problem(where, "there is no such Dockerfile")


def main() -> int:
    programs, known = binaries(), settings()
    count = 0
    for path in sorted(DEPLOY.glob("k8s/**/kustomization.yaml")):
        if yaml.safe_load(path.read_text())["kind"] == "Component":
            with component(path.parent) as directory:
                count += check_kubernetes(directory, programs, known)
        else:
            count += check_kubernetes(path.parent, programs, known)
    check_dockerfile(programs)
    check_compose(programs, known)
    for line in problems:
        print(line, file=sys.stderr)
    if not problems:
        how = "kubectl kustomize" if shutil.which("kubectl") else "resource by resource, without kubectl"
        print(f"deploy: {count} objects are valid for Kubernetes {' and '.join(VERSIONS)} ({how}); images and compose fit")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
