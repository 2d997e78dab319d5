"""The commands up and down against a stand-in for Google Cloud that keeps what was made, and may fail in the middle."""

import shutil
import subprocess

import pytest

from tests.helpers.fake_programs import Programs
from tests.helpers.kube_objects import submit

PLACE = ["--project=my-project", "--bucket=my-bucket"]
UP = ["up", *PLACE, "--queue", "--pools=on-demand,spot"]

# Everything is a file in $STATE, named by kind and name. "NAME.foreign" next to it: somebody else made it.
GCLOUD = r"""
if [ -e "$STATE/fail" ] && printf '%s' "$all" | grep -qF -- "$(cat "$STATE/fail")"; then
  echo "ERROR: (gcloud) PERMISSION_DENIED: no quota" >&2; exit 1
fi
kind=
while [ $# -gt 0 ]; do
  case "$1" in
  describe|create|create-auto|delete|list|enable|*-iam-policy*|get-credentials|rm) verb=$1; shift; break;; esac
  kind="$kind$1-"; shift
done
name=$(printf '%s' "$1" | sed 's#gs://##; s#@.*##')
file="$STATE/$kind$name"
role=$(printf '%s' "$all" | sed 's/.*--role=\([^ ]*\) --member=\([^ ]*\).*/\1,\2/')
case "$kind$verb" in
projects-describe) echo my-project;;
services-list) [ ! -e "$STATE/services" ] || cat "$STATE/services";;
services-enable) for word; do case "$word" in *.com) echo "$word" >> "$STATE/services";; esac; done;;
*describe) [ -e "$file" ] || { echo "ERROR: (gcloud.x) NOT_FOUND: Requested entity was not found." >&2; exit 1; }
  case "$all" in *abels.deepdetect*) [ -e "$file.foreign" ] || echo up;;
  *"value(description)"*) [ -e "$file.foreign" ] || echo deepdetect=up;; *) echo "$name";; esac;;
*create*) touch "$file";;
*delete) rm -f "$file" "$file.iam"
  [ "$kind" != container-clusters- ] || rm -f "$STATE"/container-node-pools-* "$STATE"/kubectl-*;;
storage-rm) rm "$STATE/storage-buckets-my-bucket";;
*get-credentials) touch "$STATE/kubectl-context";;
*add-iam-policy-binding) echo "$role" >> "$file.iam";;
*remove-iam-policy-binding) rm "$file.iam";;
*get-iam-policy) [ -e "$file" ] || { echo "ERROR: NOT_FOUND" >&2; exit 1; }; [ ! -e "$file.iam" ] || cat "$file.iam";;
*) echo "unknown: $all" >&2; exit 64;;
esac
"""
KUBECTL = r"""
if [ -e "$STATE/fail" ] && printf '%s' "$all" | grep -qF -- "$(cat "$STATE/fail")"; then
  echo "error: connection refused" >&2; exit 1
fi
absent() { echo "Error from server (NotFound): x" >&2; exit 1; }
case "$all" in
"config get-contexts"*) [ -e "$STATE/kubectl-context" ] && echo x || absent;;
"kustomize "*) echo "account: deepdetect@PROJECT_ID.iam";;
*"apply -f -") sed -n w"$STATE/kubectl-namespace";;
*"apply --server-side"*jobset*) touch "$STATE/kubectl-jobset-system";;
*"apply --server-side"*kueue*) touch "$STATE/kubectl-kueue-system";;
*"apply -k"*) touch "$STATE/kubectl-queue";;
*"rollout status"*) ;;
*"get serviceaccount/"*) [ ! -e "$STATE/kubectl-namespace" ] ||
  for word; do case "$word" in */*) echo "$word";; esac; done;;
*"get localqueue"*) [ -e "$STATE/kubectl-queue" ] && echo x || absent;;
*"-n "*"-system get "*) [ -e "$STATE/kubectl-$3" ] && echo x || absent;;
*) echo "unknown: $all" >&2; exit 64;;
esac
"""
CHANGES = (" create", "delete", "add-iam", "remove-iam", " rm ", "enable", "apply", "get-credentials")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    programs = Programs(tmp_path, monkeypatch)
    programs.add("gcloud", GCLOUD)
    programs.add("kubectl", KUBECTL)
    return programs


def changes(cloud):
    """Return the commands since the last question that change something."""
    calls = [line.replace("--enabled", "") for line in cloud.calls()]
    return [line for line in calls if any(part in line for part in CHANGES)]


def left(cloud):
    return {path.name for path in cloud.state.iterdir()}


@pytest.mark.slow
def test_what_is_there_is_not_made_again_and_all_of_it_goes(cloud, capfd):
    assert submit(*UP) == 0
    output = capfd.readouterr().out
    made = changes(cloud)
    assert len(made) == 14
    printed = [line.replace("'", "") for line in output.splitlines()]
    assert all(f"$ {line}" in printed for line in made if "kustomize" not in line and "-f -" not in line)
    assert (cloud.state / "kubectl-namespace").read_text().strip() == "account: deepdetect@my-project.iam"
    assert "made 14 of 14" in output
    state = left(cloud)
    assert submit(*UP) == 0
    assert changes(cloud) == []
    assert "made 0 of 14: all was there" in capfd.readouterr().out
    assert left(cloud) == state
    down = ["down", *PLACE, "--pools=on-demand,spot"]
    assert submit(*down) == 2
    assert changes(cloud) == []
    output = capfd.readouterr()
    assert "would run: gcloud container clusters delete deepdetect" in output.out
    assert "expected --yes" in output.err
    assert submit(*down, "--yes") == 0
    assert not [line for line in changes(cloud) if "node-pools" in line]  # They go with the cluster.
    assert left(cloud) == {"services", "storage-buckets-my-bucket"}
    assert submit(*down, "--yes") == 0
    assert changes(cloud) == []
    assert "nothing that up made was there" in capfd.readouterr().out
    assert submit(*down, "--yes", "--delete_bucket") == 0
    assert left(cloud) == {"services"}


@pytest.mark.slow
@pytest.mark.parametrize("at", ["node-pools create l4-4-spot", "apply --server-side"])
def test_the_next_up_goes_on_where_one_failed(cloud, capfd, at):
    (cloud.state / "fail").write_text(at)
    assert submit(*UP) == 1
    assert "run the same up again: it goes on from here" in capfd.readouterr().err
    first = changes(cloud)
    (cloud.state / "fail").unlink()
    assert submit(*UP) == 0
    second = changes(cloud)
    assert at in first[-1]
    assert at in second[0]
    assert not set(first[:-1]) & set(second)


@pytest.mark.slow
def test_what_cannot_be_told_is_not_made_and_what_others_made_stays(cloud, capfd):
    (cloud.state / "fail").write_text("clusters describe")  # Denied, which is not "not found".
    assert submit(*UP) == 1
    assert "cannot tell whether it is there: ERROR: (gcloud) PERMISSION_DENIED" in capfd.readouterr().err
    assert not [line for line in changes(cloud) if "clusters create" in line]
    (cloud.state / "fail").write_text("projects describe")
    assert submit(*UP) == 1
    (cloud.state / "fail").unlink()
    for name in ("container-clusters-deepdetect", "iam-service-accounts-deepdetect"):
        (cloud.state / name).touch()
        (cloud.state / f"{name}.foreign").touch()
    assert submit(*UP) == 0
    assert submit("down", *PLACE, "--pools=on-demand,spot", "--yes") == 0
    assert {"container-clusters-deepdetect", "iam-service-accounts-deepdetect",
            "storage-buckets-my-bucket.iam"} <= left(cloud)  # fmt: skip
    assert not [name for name in left(cloud) if "node-pools" in name or "repositories" in name]


@pytest.mark.slow
def test_the_printed_script_does_the_same(cloud, tmp_path, capfd):
    for words in (UP, ["down", *PLACE, "--delete_bucket"]):
        assert submit(*words, "--dry_run") == 0
        assert not cloud.calls()
        script = tmp_path / f"{words[0]}.sh"
        script.write_text(capfd.readouterr().out)
        assert subprocess.run([BASH, "-n", script]).returncode == 0
        if SHELLCHECK:
            assert subprocess.run([SHELLCHECK, script]).returncode == 0
    for expected in (14, 0):
        assert subprocess.run([SH, tmp_path / "up.sh"]).returncode == 0
        assert len(changes(cloud)) == expected
    assert subprocess.run([SH, tmp_path / "down.sh"]).returncode == 0
    assert left(cloud) == {"services"}


def test_names_that_google_would_refuse_are_refused_first(cloud, capfd):
    for word in ("--project=", "--project=a;b", "--bucket=gs://x", "--region=us", "--gpus=3", "--zones=us-central1"):
        assert submit("up", *PLACE, word) == 2, word
    assert not cloud.calls()
    assert "expected" in capfd.readouterr().err
    assert submit("up", *PLACE, "--platform=gke-autopilot", "--dry_run") == 0
    script = capfd.readouterr().out
    assert "clusters create-auto" in script
    assert "node-pools" not in script


BASH, SH, SHELLCHECK = shutil.which("bash"), shutil.which("sh"), shutil.which("shellcheck")
