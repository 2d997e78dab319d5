"""A real browser looks at a page: headless Chromium, without a network."""

import html
import json
import re
import shutil
import subprocess

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Chromium's windows are 500 pixels wide at least, so the page stands in a frame and tells its parent what it sees.
_FRAME = """<!doctype html><pre id="probe"></pre><script>
addEventListener("message", event => { document.getElementById("probe").textContent = event.data; });
</script><iframe width="{width}" height="800" style="border: 0" src="probed.html"></iframe>"""
_PROBE = """<script>addEventListener("load", () => {
  const all = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll"));
  document.querySelector(".skip").focus();
  parent.postMessage(JSON.stringify({
    width: innerWidth, page: document.documentElement.scrollWidth,
    wide: all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName),
    loaded: performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:")),
    broken: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.alt),
    skip: document.querySelector(".skip").getBoundingClientRect().left >= 0,
    paper: getComputedStyle(document.body).backgroundColor,
  }), "*");
});</script>"""


def look(page, scratch, *, width, dark=False):
    """Open a copy of the file ``page`` with a probe in it; return what the probe saw, and the console's errors."""
    (scratch / "probed.html").write_text(page.read_text().replace("</body>", _PROBE + "</body>"))
    frame = scratch / "frame.html"
    frame.write_text(_FRAME.replace("{width}", str(width)))
    done = _open(frame, scratch, dark=dark)
    seen = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', html.unescape(done.stdout))[1])
    return {**seen, "errors": [line for line in done.stderr.splitlines() if "CONSOLE" in line]}


def dom(page, scratch):
    """Return the elements of the file ``page`` after its scripts have run, as HTML without character references."""
    return html.unescape(_open(page, scratch).stdout)


def _open(page, scratch, *, dark=False):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        f"--user-data-dir={scratch / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1300,900",
        "--virtual-time-budget=5000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
