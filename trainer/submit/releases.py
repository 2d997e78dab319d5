"""What a cluster needs from others, in the versions that runs were tried with."""

JOBSET = "https://github.com/kubernetes-sigs/jobset/releases/download/v0.12.0/manifests.yaml"
KUEUE = "https://github.com/kubernetes-sigs/kueue/releases/download/v0.19.0/manifests.yaml"
