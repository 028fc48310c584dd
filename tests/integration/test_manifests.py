"""The manifests of launch/kubernetes/: fields that Kubernetes and Kubeflow know, and what the launchers rely on.

The models of `kubeflow-trainer-api` are made from the schemas of the API; a field that they do not know is lost on the
way through them. A PyTorchJob is of an older API, whose few fields around the pod are written down here."""

from pathlib import Path
from typing import Any

import pytest
import yaml

KUBERNETES = Path(__file__).resolve().parents[2] / "launch" / "kubernetes"
PYTORCH_JOB = {"elasticPolicy", "nprocPerNode", "pytorchReplicaSpecs", "runPolicy"}
RUN_POLICY = {"activeDeadlineSeconds", "backoffLimit", "cleanPodPolicy", "schedulingPolicy", "suspend"}
ELASTIC = {"maxReplicas", "maxRestarts", "minReplicas", "rdzvBackend", "rdzvConf", "rdzvHost", "rdzvId", "rdzvPort"}


def _load(place: str) -> Any:
    return yaml.safe_load((KUBERNETES / place).read_text())


def _pytorch_job() -> Any:
    return _load("pytorchjob/job.yaml")


def _runtime_job() -> Any:
    return _load("trainjob/runtime.yaml")["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]


def _pods() -> list[Any]:
    worker = _pytorch_job()["spec"]["pytorchReplicaSpecs"]["Worker"]
    return [worker["template"], _runtime_job()["template"]]


def _lost(given: Any, known: Any, place: str = "") -> list[str]:
    """Fields of the manifest that the models have dropped."""
    if isinstance(given, dict):
        gone = [f"{place}.{name}" for name in given if name not in known]
        return gone + [
            line for name in given if name in known for line in _lost(given[name], known[name], f"{place}.{name}")
        ]
    if isinstance(given, list):
        return [line for number, part in enumerate(given) for line in _lost(part, known[number], f"{place}[{number}]")]
    return []


@pytest.mark.parametrize(
    "place", sorted(path.relative_to(KUBERNETES).as_posix() for path in KUBERNETES.rglob("*.yaml"))
)
def test_every_file_is_reached(place: str) -> None:
    """kustomize reads what is listed in the folder itself, and folders."""
    folder = (KUBERNETES / place).parent
    listed = _load(f"{folder.relative_to(KUBERNETES)}/kustomization.yaml")["resources"]
    assert place.endswith("kustomization.yaml") or Path(place).name in listed
    assert all((folder / name).exists() for name in listed)
    assert all((folder / name).is_dir() for name in listed if name.startswith(".."))


def test_fields_of_a_train_job() -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="needs kubeflow-trainer-api")
    for model, place in (("TrainJob", "job"), ("TrainingRuntime", "runtime")):
        given = _load(f"trainjob/{place}.yaml")
        known = getattr(models, f"TrainerV1alpha1{model}").from_dict(given)
        assert not _lost(given, known.to_dict())
    claim = _load("volume/volume.yaml")
    assert not _lost(claim, models.IoK8sApiCoreV1PersistentVolumeClaim.from_dict(claim).to_dict())


def test_an_unknown_field_is_found() -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="needs kubeflow-trainer-api")
    given = _load("trainjob/runtime.yaml")
    given["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicies"] = {}
    known = models.TrainerV1alpha1TrainingRuntime.from_dict(given).to_dict()
    assert [line.rpartition(".")[2] for line in _lost(given, known)] == ["podFailurePolicies"]


def test_fields_of_a_pytorch_job() -> None:
    spec = _pytorch_job()["spec"]
    assert set(spec) <= PYTORCH_JOB and set(spec["runPolicy"]) <= RUN_POLICY and set(spec["elasticPolicy"]) <= ELASTIC
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    assert set(worker) == {"replicas", "restartPolicy", "template"}
    assert worker["replicas"] == spec["elasticPolicy"]["maxReplicas"]
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="needs kubeflow-trainer-api")
    given = worker["template"]
    assert not _lost(given, models.IoK8sApiCoreV1PodTemplateSpec.from_dict(given).to_dict())


@pytest.mark.parametrize("pod", _pods(), ids=["PyTorchJob", "TrainJob"])
def test_what_the_launchers_rely_on(pod: Any) -> None:
    (container,) = pod["spec"]["containers"]
    settings = {setting["name"]: setting["value"] for setting in container["env"]}
    assert pod["spec"]["terminationGracePeriodSeconds"] > int(settings["DIST_REC_GRACE_S"])
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert "persistentVolumeClaim" in mounts["/data"] and mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
    assert container["command"][0].endswith("/launch/kubernetes/entry.sh")
    assert "run.out=/data/runs" in container["args"]


def test_which_codes_start_a_pod_again() -> None:
    """143 does, which entry.sh makes of 75; 2 does not."""
    assert _pytorch_job()["spec"]["pytorchReplicaSpecs"]["Worker"]["restartPolicy"] == "ExitCode"
    job = _runtime_job()
    rules = [
        (rule["action"], rule["onExitCodes"]["values"])
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    ]
    assert rules == [("FailJob", [2]), ("Ignore", [143])]
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_the_example_changes_what_is_there() -> None:
    given = _load("example/kustomization.yaml")
    for change in yaml.safe_load(given["patches"][0]["patch"]):
        place = _pytorch_job()
        for part in change["path"].strip("/").split("/"):
            place = place[int(part) if isinstance(place, list) else part]
        assert change["op"] == "replace" and type(place) is type(change["value"])
