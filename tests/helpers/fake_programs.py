"""Small programs on PATH in place of docker, gcloud and others, which record their words."""

import os
import shlex
import stat
from pathlib import Path

_HEAD = """\
#!/bin/sh
printf '%s' {name} >> {log}
for word; do printf ' %s' "$word" >> {log}; done
echo >> {log}
all="$*"
"""


class Programs:
    """A folder that is all of PATH, but for /bin's tools that the programs themselves need."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder / "programs"
        self.folder.mkdir()
        self.log = folder / "calls"
        self.state = folder / "state"
        self.state.mkdir()
        self.log.touch()
        monkeypatch.setenv("PATH", str(self.folder))
        monkeypatch.setenv("STATE", str(self.state))
        for tool in ("sh", "cat", "touch", "rm", "grep", "mkdir", "sed"):
            (self.folder / tool).symlink_to(f"/bin/{tool}")

    def add(self, name: str, body: str) -> None:
        """Write a program; in its body ``$all`` holds its words, and ``$STATE`` is a folder that stays."""
        path = self.folder / name
        path.write_text(_HEAD.format(name=name, log=shlex.quote(str(self.log))) + body + "\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def calls(self) -> list[str]:
        """Return all calls since the last question, one line each."""
        lines = self.log.read_text().splitlines()
        os.truncate(self.log, 0)
        return lines
