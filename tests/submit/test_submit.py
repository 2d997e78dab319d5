"""scripts/submit.py without a cluster: the plan, the YAML, and what is refused before a cluster is contacted."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.helpers.commands import refusal
from tests.helpers.k8s_schemas import ROOT, VERSIONS, pod_templates, require_golden, require_restricted, validate
from trainer.core import cli
from trainer.core.config import flags
from trainer.distributed import cluster
from trainer.submit import command, plan, platforms, request
from trainer.submit.kube import checks, render
from trainer.sweep import request as sweep_request

BASE = ["--name=first", "--image=europe-docker.pkg.dev/project/images/deepdetect:0.1.0",
        "--data_dir=gs://bucket/faces", "--job_dir=gs://bucket/jobs/first"]  # fmt: skip

USES = {
    "one-gpu": ["--train_images=1500"],
    "eight-gpus-spot": ["--gpus=8", "--spot", "--max_hours=12", "--train_images=140002", "--", "--batch_size=256",
                        "--epochs=20", "--xla"],
    "four-machines": ["--workers=4", "--gpus=8", "--accelerator=nvidia-h100-80gb", "--queue=research",
                      "--priority=deepdetect-high", "--", "--batch_size=1024"],
    "sweep": ["--sweep_workers=6", "--spot", "--train_images=10000", "--", "--tuner=bayesian", "--max_trials=60",
              "--image_size=128"],
    "autopilot-gcsfuse": ["--platform=gke-autopilot", "--spot", "--gcsfuse", "--accelerator=nvidia-tesla-a100", "--",
                          "--checkpoint_every_steps=200"],
    "generic": ["--platform=generic", "--gpus=2", "--namespace=team",
                "--env=TF_GPU_THREAD_MODE=gpu_private,NOTE=a$(b)"],
}  # fmt: skip

needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def dry(words):
    """Return the words of a client dry run."""
    cut = words.index("--") if "--" in words else len(words)
    return ["run", *BASE, *words[:cut], "--dry_run", *words[cut:]]


def dry_run(words):
    return cli.run_command(command.main, dry(words))


def build(words, trainer_words=()):
    """Return the checked request."""
    given, _ = flags.parse([*BASE, *words], flags.fields_of(request.RunFlags), usage="")
    return checks.build(request.RunFlags(**given), trainer_words)


@needs_kubectl
@pytest.mark.parametrize("use", USES)
def test_dry_runs_print_what_the_golden_files_say(use, capsys, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", os.devnull)  # It needs no cluster.
    assert dry_run(USES[use]) == 0
    out, err = capsys.readouterr()
    words = " ".join(["run", *BASE[:1], "...", *USES[use]])
    header = "".join(f"# {line}\n" for line in [words, *err.splitlines()])
    require_golden(f"submit/{use}.yaml", header + out.rstrip("\n") + "\n")
    items = [item for item in yaml.safe_load_all(out) if item]
    assert items[0]["kind"] == "JobSet"
    for item in items:
        for template in pod_templates(item):
            require_restricted(template["spec"])
            limits = template["spec"]["containers"][0]["resources"]
            assert limits["requests"].get("nvidia.com/gpu") == limits["limits"].get("nvidia.com/gpu")
        for version in VERSIONS:
            validate(item, version)


@needs_kubectl
def test_the_trainer_understands_its_own_command_line(capsys):
    assert dry_run(USES["eight-gpus-spot"]) == 0
    (template,) = pod_templates(yaml.safe_load(capsys.readouterr().out.split("---\n")[0]))
    (container,) = template["spec"]["containers"]
    config = flags.train_config(container["args"])
    assert (config.data.batch_size, config.loop.epochs, config.runtime.xla) == (256, 20, True)
    assert config.checkpoint.checkpoint_every_seconds == 300  # Added for a spot machine.


@needs_kubectl
def test_overlays_and_submit_agree(capsys):
    # The overlay is the same base and components with placeholders: filled with them, submit prints the overlay.
    assert cli.run_command(command.main, ["run", "--name=train", "--image=deepdetect:0.1.0", "--data_dir=gs://bucket/f",
                                            "--job_dir=gs://bucket/j", "--dry_run"]) == 0  # fmt: skip
    (mine,) = yaml.safe_load_all(capsys.readouterr().out)
    environment = {**os.environ, "KUBECONFIG": os.devnull}
    overlay = subprocess.run(["kubectl", "kustomize", str(ROOT / "k8s/overlays/gke-standard/train")], env=environment,
                             capture_output=True, text=True, check=True).stdout  # fmt: skip
    theirs = yaml.safe_load(overlay)
    for item in (mine, theirs):
        pod_templates(item)[0]["spec"]["containers"][0]["args"] = []
    assert mine == theirs


@needs_kubectl
def test_worker_pods_describe_the_cluster_that_the_trainer_reads(capsys):
    assert dry_run(USES["four-machines"]) == 0
    jobset = next(yaml.safe_load_all(capsys.readouterr().out))
    pod = pod_templates(jobset)[0]["spec"]
    labels = {"metadata.labels['jobset.sigs.k8s.io/jobset-name']": "first"}
    environment = {"JOB_COMPLETION_INDEX": "3", "HOSTNAME": "first-workers-0-3"}
    for variable in pod["containers"][0]["env"]:
        value = variable.get("value") or labels[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        environment[variable["name"]] = value
    if not hasattr(cluster, "split_address"):
        pytest.skip("this trainer.distributed.cluster reads no Kubernetes environment yet")
    described = cluster.from_environment(environment)
    assert described.addresses[2] == "first-workers-0-2.first:2222"
    assert (described.num_workers, described.worker_index, described.peer_port) == (4, 3, 3222)


@needs_kubectl
@pytest.mark.parametrize(("words", "number"), [([], "8"), (["--env=DEEPDETECT_GPUS=0,NOTE=a"], "0")])
def test_trainer_and_self_test_are_promised_a_pods_gpus(words, number, capsys):
    assert dry_run(["--workers=4", "--gpus=8", *words]) == 0
    (pod,) = [template["spec"] for item in yaml.safe_load_all(capsys.readouterr().out) if item["kind"] == "JobSet"
              for template in pod_templates(item)]  # fmt: skip
    (container,), (selftest,) = pod["containers"], pod["initContainers"]
    for each in (container, selftest):
        values = [variable["value"] for variable in each["env"] if variable["name"] == "DEEPDETECT_GPUS"]
        assert (values, each["resources"]["limits"]["nvidia.com/gpu"]) == ([number], "8")
    assert selftest["image"] == container["image"]
    assert selftest["command"][-1] == "--selftest"


@needs_kubectl
def test_tensorboard_objects_are_valid():
    for platform in platforms.names():
        (item,) = render.tensorboard_objects(platform, "team", "first", "image:1", "gs://bucket/jobs/first")
        assert item["metadata"]["name"] == "first-tensorboard"
        assert item["spec"]["selector"]["matchLabels"].items() <= item["spec"]["template"]["metadata"]["labels"].items()
        require_restricted(item["spec"]["template"]["spec"])
        for version in VERSIONS:
            validate(item, version)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--image=deepdetect"], "--image: expected NAME:TAG"),
        (["--image=deepdetect:latest"], "--allow_latest"),
        (["--image=deepdetect@sha256:abc"], "--image: expected NAME:TAG"),
        (["--data_dir=/home/me/faces"], "--data_dir: expected gs://BUCKET/PATH"),
        (["--job_dir=jobs/first"], "--job_dir: expected gs://BUCKET/PATH"),
        (["--job_dir=gs://My_Bucket/first"], "a bucket's name has 3 to 222 small letters"),
        (["--name=First_Run"], "--name: expected"),
        (["--name=" + "a" * 41], "at most 40"),
        (["--name=" + "a" * 27, "--sweep_workers=2"], "at most 26"),
        (["--name="], "expected --name"),
        (["--accelerator=nvidia-l5"], "did you mean 'nvidia-l4'?"),
        (["--gpus=3"], "(1, 2, 4, 8)"),
        (["--gpus=8", "--", "--batch_size=36"], "use --batch_size=40"),
        (["--", "--epochz=3"], "did you mean 'epochs'?"),
        (["--", "--epochs=three"], "--epochs: expected a whole number"),
        (["--", "--data_dir=gs://other/faces"], "expected --data_dir before --"),
        (["--", "--cache=/ssd"], "--cache: expected"),
        (["--", "--weights=net.h5"], "--weights: expected gs://BUCKET/PATH or package:NAME"),
        (["--workers=2", "--", "--seeds=3"], "--seeds: expected one machine"),
        (["--gpus=4", "--", "--num_devices=2"], "--num_devices"),
        (["--gpus=4", "--", "--strategy=single"], "--strategy"),
        (["--workers=2", "--sweep_workers=2"], "--workers or --sweep_workers"),
        (
            ["--platform=generic", "--spot"],
            "--spot on a platform that supports it (gke-standard, gke-autopilot)",
        ),
        (["--env=1A=2"], "--env: expected NAME=VALUE"),
        (["--env_from_secret=hub:a-b"], "--env_from_secret: expected SECRET or SECRET:KEY"),
        (["--env=A=1", "--env_from_secret=hub:A"], "--env_from_secret: expected each variable once, received A"),
        (["--memory=64"], "--memory: expected a number and Mi, Gi or Ti"),
        (["--volume=faces"], "--volume: expected CLAIM:/mnt"),
        (["--volume=faces:/usr"], "--volume: expected a place that the image does not use"),
        (["--volume=a:/mnt,b:/mnt/x"], "--volume: expected a place of its own"),
        (["--volume=faces:/mnt", "--data_dir=/mntx"], "mount their storage with --volume"),
        (["--volume=faces:/mnt", "--data_dir=/mnt/f", "--gcsfuse"], "expected a --data_dir on gs:// with --gcsfuse"),
        (["--env=DEEPDETECT_GPUS=many"], "DEEPDETECT_GPUS: expected a number of GPUs"),
        (["--sweep_workers=2", "--", "--tuner=magic"], "--tuner: expected one of"),
        (["--sweep_workers=2", "--", "--space=absent.yaml"], "--space: expected a readable YAML or JSON file"),
        (["--sweep_workers=2", "--", "--space=[{name: epochs, kind: int}]"], "parameter 1 (epochs): expected range"),
        (["--sweep_workers=2", "--", "--isolate_trial"], "did you mean 'isolate_trials'?"),
        (["--sweep_workers=2", "--", "--tuner=hyperband", "--prune=median"], "expected no --prune"),
        (["--max_trials=3"], "received --max_trials"),
        (["--accelerators=absent.yaml"], "--accelerators: expected a YAML file"),
    ],
)
def test_refusals_are_one_line_and_cost_no_cluster(words, says, capsys, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/absent")
    assert says in refusal(capsys, command.main, *dry(words))


@pytest.mark.parametrize("weights", ["gs://bucket/net.h5", "package:efficientnet_lite0", "none"])
def test_weights_that_a_pod_reaches_are_taken(weights):
    run = request.RunFlags(name="first", image="deepdetect:1", data_dir="gs://bucket/faces", job_dir="gs://bucket/jobs")
    words = ["--model=efficientnet_lite0", f"--weights={weights}", "--seeds=3"]
    assert checks.build(run, words).config.model.weights == weights


@needs_kubectl
def test_a_variable_that_the_run_sets_itself_is_refused(capsys):
    line = refusal(capsys, command.main, *dry(["--workers=2", "--env=DEEPDETECT_PORT=1"]))
    assert "DEEPDETECT_PORT" in line


def test_a_sweep_carries_its_space_and_every_flag_that_is_given(tmp_path):
    local = tmp_path / "space.yaml"
    local.write_text("- {name: dropout, kind: float, range: [0.1, 0.4]}\n- {name: xla, kind: bool}\n")
    (tmp_path / "kept.json").write_text('{"epochs": 7, "data_dir": "/elsewhere"}')
    words = ["--noisolate_trials", f"--space={local}", "--max_trials", "9", "--learning_rate=1e-3", "--deterministic"]
    checked = build(["--sweep_workers=2", "--spot"], [*words, f"--config={tmp_path / 'kept.json'}"])
    assert not any(str(tmp_path) in word for word in checked.trainer_words)
    assert "--learning_rate=0.001" in checked.trainer_words  # The default, but given: it holds for all trials.
    pod = sweep_request.parse(
        ["--data_dir=gs://bucket/faces", "--job_dir=gs://bucket/jobs/first", *checked.trainer_words]
    )
    assert [(one.name, one.high) for one in pod.space] == [("dropout", 0.4), ("xla", 0.0)]
    assert (pod.sweep.max_trials, pod.sweep.isolate_trials, pod.base.loop.epochs) == (9, False, 7)
    assert pod.base.runtime.deterministic
    assert pod.base.checkpoint.checkpoint_every_seconds == 300  # Added for a spot machine.
    # A resumed run gives the recorded words first, and the new ones win.
    again = build(["--sweep_workers=2"], [*checked.trainer_words, "--isolate_trials", "--max_trials=12"])
    assert again.sweep.sweep.isolate_trials
    assert (again.sweep.expected_trials, again.sweep.space) == (12, pod.space)


def test_latest_with_a_digest_or_permission_is_taken():
    for words in (["--image=a/b:latest", "--allow_latest"], ["--image=a/b:latest@sha256:" + "0" * 64]):
        assert build(words)


def test_the_price_table_can_be_edited(tmp_path, capsys):
    table = yaml.safe_load(plan.TABLE.read_text())
    mine = {**table["accelerators"]["nvidia-l4"], "price": 36.0, "images_per_second": {"cnn": 10}}
    table["accelerators"] = {"mine": mine}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(table))
    checked = build(["--accelerator=mine", f"--accelerators={tmp_path / 'mine.yaml'}"], ["--epochs=2"])
    lines = plan.describe(checked, plan.read_table(checked.run.accelerators), images=18_000)
    # 18,000 images are 563 steps of 32; 2 epochs at 10 images/s take 3,603 s.
    assert any("1,126 (2 epochs of 563" in line for line in lines)
    assert any("1.0 h, 36.03 USD" in line for line in lines)


def test_what_is_too_little_to_round_is_said_so():
    lines = plan.describe(build(["--gpus=2"], ["--epochs=1"]), plan.read_table(), images=320)
    assert any(line.endswith("under a minute, under 0.01 USD") for line in lines)


def test_help_and_a_typo_load_neither_tensorflow_nor_kubernetes():
    code = (
        "import sys, runpy\nsys.argv = ['submit.py', *sys.argv[1:]]\n"
        "try:\n    runpy.run_path('scripts/submit.py', run_name='__main__')\n"
        "except SystemExit as end:\n    code = end.code\n"
        "assert not {'tensorflow', 'kubernetes', 'numpy'} & set(sys.modules), sorted(sys.modules)\nsys.exit(code)"
    )
    for words, status in ((["--help"], 0), (["run", "--help"], 0), (["runn"], 2), (["run", "--nam=x"], 2)):
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == status, done.stderr


def test_platforms_keep_their_order_and_abilities():
    assert platforms.names() == ("gke-standard", "gke-autopilot", "generic")
    assert platforms.supporting("spot") == platforms.supporting("gcsfuse") == ["gke-standard", "gke-autopilot"]


@needs_kubectl
def test_a_new_overlay_folder_is_a_platform(tmp_path):
    # docs/architecture.md, "How to add a Kubernetes platform".  Nothing but the folder is added to the checkout.
    for name in ("trainer", "k8s", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    overlay = tmp_path / "k8s" / "overlays" / "oncloud"
    shutil.copytree(ROOT / "k8s" / "overlays" / "gke-standard", overlay)
    text = (overlay / "kustomization.yaml").read_text()
    (overlay / "kustomization.yaml").write_text(text.replace("spot,gcsfuse", "spot"))
    patches = overlay / "platform" / "kustomization.yaml"
    patches.write_text(patches.read_text().replace("iam.gke.io~1gke-metadata-server-enabled", "oncloud.example~1gpu"))

    def submit(*words):
        command_line = [sys.executable, "scripts/submit.py", "run", *BASE, *words]
        return subprocess.run(command_line, cwd=tmp_path, capture_output=True, text=True)

    done = submit("--platform=oncloud", "--spot", "--dry_run")
    assert done.returncode == 0, done.stderr
    (pod,) = pod_templates(yaml.safe_load(done.stdout))
    assert pod["spec"]["nodeSelector"]["oncloud.example/gpu"] == "true"
    assert "cloud.google.com/gke-spot" in done.stdout
    refused = submit("--platform=oncloud", "--gcsfuse", "--dry_run")
    assert refused.returncode == 2
    assert "on a platform that supports it (gke-standard, gke-autopilot), received --platform=oncloud" in refused.stderr
    assert "one of gke-standard, gke-autopilot, oncloud, generic, slurm; received" in submit("--platform=azure").stderr


def test_structured_log_lines(monkeypatch):
    import json
    import logging

    from trainer.core import cli

    record = logging.LogRecord("trainer.x", logging.WARNING, "f", 1, "half of %d", (2,), None)
    monkeypatch.setenv("DEEPDETECT_LOG", "json")
    entry = json.loads(cli.formatter().format(record))
    assert (entry["severity"], entry["message"]) == ("WARNING", "half of 2")
    monkeypatch.setenv("DEEPDETECT_LOG", "plain")
    assert cli.formatter().format(record) == "half of 2"
    monkeypatch.delenv("DEEPDETECT_LOG")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert isinstance(cli.formatter(), cli.JsonFormatter)
