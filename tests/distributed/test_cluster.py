"""A process reads its rank from TF_CONFIG, Kubernetes or Slurm; each wrong description has one clear refusal."""

import json

import pytest

from trainer.core.errors import RequestError
from trainer.distributed import cluster


def tf_config(hosts, kind="worker", index=0):
    return {"TF_CONFIG": json.dumps({"cluster": hosts, "task": {"type": kind, "index": index}})}


def kubernetes(count=3, index="1", **others):
    return {"DEEPDETECT_NUM_WORKERS": str(count), "JOB_COMPLETION_INDEX": index, **others}


def slurm(rank=0, tasks="3", nodes="node[01-03]", per_node="1(x3)", **others):
    return {"SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": tasks, "SLURM_STEP_NODELIST": nodes,
            "SLURM_STEP_TASKS_PER_NODE": per_node, **others}  # fmt: skip


def refusal(environment, strategy="auto"):
    with pytest.raises(RequestError) as caught:
        cluster.from_environment(environment, strategy)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PATTERN = {"DEEPDETECT_WORKER_HOSTS": "train-workers-0-{index}.train"}


def test_without_a_description_a_process_is_alone():
    batch_script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "node[1-4]"}
    for environment in ({}, {"TF_CONFIG": ""}, {"JOB_COMPLETION_INDEX": "3"}, slurm(tasks="1"), batch_script):
        alone = cluster.from_environment(environment)
        assert (alone.num_workers, alone.worker_index, alone.addresses) == (1, 0, ())
        assert alone.is_chief


@pytest.mark.parametrize("value", [{}, {"cluster": {}}])
def test_an_empty_tf_config_is_not_a_cluster(value):
    assert cluster.from_environment({"TF_CONFIG": json.dumps(value)}) == cluster.Cluster()


def test_a_cluster_of_one_is_one_process_alone():
    for strategy in ("auto", "single", "mirrored", "multi_worker"):
        one = cluster.from_environment(tf_config({"worker": ["a:1"]}), strategy)
        assert (one.num_workers, one.is_chief) == (1, True)


@pytest.mark.parametrize(("kind", "index", "place"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)])
def test_the_chief_of_tf_config_comes_first(kind, index, place):
    described = cluster.from_environment(tf_config({"worker": ["b:2", "c:3"], "chief": ["a:1"]}, kind, index))
    assert described.addresses == ("a:1", "b:2", "c:3")
    assert (described.num_workers, described.worker_index, described.is_chief) == (3, place, place == 0)
    assert described.meeting_place == ("a", 1001)
    assert described.name(2) == "worker 2 (c:3)"


def test_the_meeting_place():
    hosts = {"worker": ["a:65000", "b:1"]}
    assert cluster.from_environment(tf_config(hosts)).meeting_place == ("a", 64000)
    with_port = {**tf_config(hosts), "DEEPDETECT_PEER_PORT": "7000"}
    assert cluster.from_environment(with_port).meeting_place == ("a", 7000)
    assert cluster.from_environment(tf_config({"worker": ["[::1]:5", "b:1"]})).meeting_place == ("::1", 1005)
    for bad in ("65000", "0", "65536"):
        assert "DEEPDETECT_PEER_PORT: expected a port" in refusal({**with_port, "DEEPDETECT_PEER_PORT": bad})
    assert "expected a whole number, received 'x'" in refusal({**with_port, "DEEPDETECT_PEER_PORT": "x"})


@pytest.mark.parametrize("text", ["not json", "[1]", "3", '{"cluster": 5}', '{"cluster": {"worker": 3}}', "null"])
def test_what_is_not_a_cluster_is_refused(text):
    assert "expected TF_CONFIG to be a JSON object" in refusal({"TF_CONFIG": text})


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (tf_config({"worker": ["a:1"], "ps": ["b:1"]}), "only the jobs chief and worker, received ps"),
        (tf_config({"chief": ["a:1", "b:1"]}, "chief"), "one chief at most, received 2"),
        (tf_config({"worker": ["a:1", "b:1"]}, "chief"), "a task of type worker, received 'chief'"),
        (tf_config({"worker": ["a:1", "b:1"]}, "evaluator"), "received 'evaluator'"),
        (tf_config({"worker": ["a:1", "b:1"]}, index=2), "a worker index in 0..1, received 2"),
        (tf_config({"worker": ["a:1", "b:1"]}, index=-1), "received -1"),
        (tf_config({"worker": ["a:1", "b:1"]}, index=None), "the index of this task, received None"),
        (tf_config({"worker": ["a:1", "a:1"]}), "received 'a:1' twice"),
        (tf_config({"worker": ["a:1", "b"]}), "received 'b'"),
        (tf_config({"worker": ["a:1", "b:0"]}), "received 'b:0'"),
        (tf_config({"worker": ["a:1", "::1:5"]}), "host:port or [IPv6]:port with a port in 1..65535, received '::1:5'"),
        (tf_config({"worker": ["a:1", "b:99999"]}), "received 'b:99999'"),
        ({"TF_CONFIG": json.dumps({"cluster": {"worker": ["a:1", "b:1"]}})}, "received None"),
    ],
)
def test_a_wrong_tf_config_is_refused(environment, words):
    message = refusal(environment)
    assert "TF_CONFIG" in message
    assert words in message


def test_an_indexed_job_and_a_jobset():
    described = cluster.from_environment(kubernetes(**PATTERN))
    assert described.addresses == tuple(f"train-workers-0-{index}.train:2222" for index in range(3))
    assert (described.worker_index, described.meeting_place) == (1, ("train-workers-0-0.train", 3222))
    own = kubernetes(2, "1", HOSTNAME="faces-workers-0-1", DEEPDETECT_SUBDOMAIN="faces", DEEPDETECT_PORT="4000")
    assert cluster.from_environment(own).addresses == ("faces-workers-0-0.faces:4000", "faces-workers-0-1.faces:4000")
    listed = kubernetes(2, "0", DEEPDETECT_WORKER_HOSTS="a, b:9")
    assert cluster.from_environment(listed).addresses == ("a:2222", "b:9")
    ipv6 = kubernetes(3, "0", DEEPDETECT_WORKER_HOSTS="fd00::1, [fd00::2], [fd00::3]:9")
    assert cluster.from_environment(ipv6).addresses == ("[fd00::1]:2222", "[fd00::2]:2222", "[fd00::3]:9")
    assert cluster.from_environment(kubernetes(1, "0", DEEPDETECT_WORKER_HOSTS="a")).num_workers == 1


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (kubernetes("x", **PATTERN), "DEEPDETECT_NUM_WORKERS: expected a whole number, received 'x'"),
        (kubernetes(0, **PATTERN), "processes in 1..10000, received 0"),
        (kubernetes(index="", **PATTERN), "JOB_COMPLETION_INDEX: expected a whole number, received ''"),
        (kubernetes(index="3", **PATTERN), "index of this process in 0..2, received 3"),
        (kubernetes(), "DEEPDETECT_WORKER_HOSTS: expected the pods' names, received none"),
        (kubernetes(DEEPDETECT_WORKER_HOSTS="train-0.train"), "expected {index} in the name"),
        (kubernetes(DEEPDETECT_WORKER_HOSTS="a,b"), "expected 3 names (DEEPDETECT_NUM_WORKERS), received 2"),
        (kubernetes(DEEPDETECT_WORKER_HOSTS="a,b,a"), "received 'a:2222' twice"),
        (kubernetes(DEEPDETECT_PORT="0", **PATTERN), "a port in 1..65535"),
        (kubernetes(DEEPDETECT_SUBDOMAIN="s", HOSTNAME="pod-2"), "a HOSTNAME that ends in -1"),
    ],
)
def test_a_wrong_kubernetes_description_is_refused(environment, words):
    assert words in refusal(environment)


@pytest.mark.parametrize(
    ("environment", "addresses"),
    [
        (slurm(), ["node01:8888", "node02:8888", "node03:8888"]),
        (slurm(tasks="4", nodes="a[1,3],b", per_node="1(x2),2"), ["a1:8888", "a3:8888", "b:8888", "b:8889"]),
        (slurm(tasks="2", nodes="x[1-2]y", per_node="", DEEPDETECT_PORT="5"), ["x1y:5", "x2y:5"]),
        (slurm(tasks="4", nodes="r[1-2]n[1-2]", per_node="1(x4)"), [f"r{r}n{n}:8888" for r in (1, 2) for n in (1, 2)]),
        (slurm(tasks="3", nodes="a,b", per_node="2,1", SLURM_DISTRIBUTION="cyclic"), ["a:8888", "b:8888", "a:8889"]),
    ],
)
def test_slurm(environment, addresses):
    described = cluster.from_environment(environment)
    assert list(described.addresses) == addresses
    assert described.worker_index == 0


def test_slurm_agrees_with_tensorflows_resolver(monkeypatch):
    import tensorflow as tf

    environment = slurm(2, tasks="5", nodes="m5,n[08-10]", per_node="1(x2),2,1")  # In order: the resolver sorts.
    for name, value in {**environment, "CUDA_VISIBLE_DEVICES": "0,1"}.items():
        monkeypatch.setenv(name, value)
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(auto_set_gpu=False)
    assert list(cluster.from_environment(environment).addresses) == resolver.cluster_spec().as_dict()["worker"]
    assert cluster.from_environment(environment).worker_index == resolver.get_task_info()[1]


def test_a_slurm_job_without_a_step_is_a_cluster_when_asked_for():
    environment = {
        "SLURM_PROCID": "1",
        "SLURM_NTASKS": "2",
        "SLURM_JOB_NODELIST": "a,b",
        "SLURM_TASKS_PER_NODE": "1(x2)",
    }
    described = cluster.from_environment(environment, "multi_worker")
    assert (described.addresses, described.worker_index) == (("a:8888", "b:8888"), 1)
    assert described.source == "SLURM_NTASKS"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (slurm(3), "index of this process in 0..2, received 3"),
        (slurm("x"), "SLURM_PROCID: expected a whole number"),
        (slurm(nodes=""), "SLURM_STEP_NODELIST: expected a list of nodes"),
        (slurm(nodes="a[1-"), "expected a list of nodes such as node[01-03,7], received 'a[1-'"),
        (slurm(nodes="a[x]"), "expected a list of nodes"),
        (slurm(per_node="1(y3)"), "expected numbers of tasks"),
        (slurm(per_node="2(x3)"), "SLURM_STEP_NUM_TASKS: expected 3 tasks on the nodes"),
        (slurm(per_node="1"), "unset SLURM_STEP_NUM_TASKS if this process is to train alone, as in srun --pty"),
        (slurm(per_node="1(x2)"), "expected 3 tasks on the nodes"),
        (slurm(nodes="a,a,b"), "received 'a:8888' twice"),
    ],
)
def test_a_wrong_slurm_description_is_refused(environment, words):
    assert words in refusal(environment)


def test_the_strategy_must_fit():
    several = tf_config({"worker": ["a:1", "b:1"]}, index=1)
    assert cluster.from_environment(several, "multi_worker") == cluster.from_environment(several, "auto")
    for strategy in ("single", "mirrored"):
        assert "received TF_CONFIG with 2; use --strategy=multi_worker or unset" in refusal(several, strategy)
    assert "--strategy=multi_worker: expected a cluster in the environment" in refusal({}, "multi_worker")


def test_the_process_environment_is_read_by_default(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "broken")
    with pytest.raises(RequestError):
        cluster.from_environment()
