"""What catches every exception lets stop requests and outages pass, or stands on a short list with its reason."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "trainer"
BROAD = {"Exception", "BaseException"}

# By file and function.
ALLOWED = {
    "data/audit/measure.py:_orientation": "reads bytes in memory, in worker processes that get no stop request",
    "data/decoding/worker.py:work": "in other processes, which get no stop request; the job does the work itself",
    "core/signals.py:stop_requests": "turns what a stop request became back into StoppedEarly",
    "core/signals.py:interruptible": "the same for KeyboardInterrupt",
    "data/interruptible.py:_do": "runs on a thread; whoever waits for the result gets the error",
    "training/selftest/__init__.py:_report": "an outage is a finding, and all checks run in any case",
    "training/checkpoints/writer.py:_try": "runs on a thread; ``collect`` and ``refuse_unsaved_end`` raise it later",
    "training/exports/live_report.py:_make": "runs on a thread that makes a page; training meets the outage itself",
    "core/notify/send.py:read": "runs on a thread; what cannot be read is left out of a message about the job's end",
    "core/notify/send.py:_send": "runs on a thread; a message that cannot be sent must not change how the job ends",
    "core/notify/job.py:_results": "whether the job was done before; the job itself meets the outage",
    "submit/images.py:require": "a hint from a bucket that this machine need not reach",
    "submit/images.py:count": "the same",
    "submit/progress.py:read": "one bucket's trouble is a cell of the table, the other runs must be listed",
    "server/batcher.py:_answer": "runs on a thread; whoever waits for an answer gets the error",
    "server/app.py:_answer": "runs on the event loop; the client gets an answer, and the log the error",
    "core/storage/lease.py:_keep_beating": "runs on a thread; ``check`` meets it again in the one that has to stop",
    "core/storage/lease.py:release": "must not hide the error that ended the job",
    "distributed/process_group.py:_abort": "last actions of a process that ends at once, on a thread",
    "training/trackers/delivery.py:_work": "runs on a thread; a tracker that fails must not fail the job",
    "sweep/tuner.py:report": "runs on a thread, which reports that a trial is alive to a chief that may be restarting",
}


def names_of(node):
    """Return the names in an ``except`` clause; a bare one catches BaseException."""
    if node is None:
        return {"BaseException"}
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return {part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "") for part in parts}


def lets_stops_pass(handlers, position):
    """Return whether an earlier clause re-raises StoppedEarly, or the broad one re-raises everything at its end."""
    for earlier in handlers[:position]:
        if names_of(earlier.type) & {"StoppedEarly"} and isinstance(earlier.body[0], ast.Raise):
            return earlier.body[0].exc is None
    last = handlers[position].body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def is_suppress(node):
    return isinstance(node, ast.Call) and "suppress" in names_of(node.func)


def broad_handlers(node, function=""):
    """Yield the innermost function's name, the line, and whether stop requests pass, of each broad handler."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        function = node.name
    handlers = getattr(node, "handlers", [])
    for position, handler in enumerate(handlers):
        if names_of(handler.type) & BROAD:
            yield function, handler.lineno, lets_stops_pass(handlers, position)
    if is_suppress(node) and any(names_of(argument) & BROAD for argument in node.args):
        yield function, node.lineno, False
    for child in ast.iter_child_nodes(node):
        yield from broad_handlers(child, function)


def test_broad_handlers_let_stop_requests_pass():
    swallowing = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).as_posix()
        text = path.read_text()
        tree = ast.parse(text if "Exception" in text or "except:" in text else "")  # Most files have none: seconds.
        for function, line, passes in broad_handlers(tree):
            if not passes:
                swallowing[f"{relative}:{function}"] = line
    assert swallowing.keys() - ALLOWED.keys() == set(), swallowing
    assert ALLOWED.keys() - swallowing.keys() == set(), "remove what is no longer needed"


def test_the_check_sees_what_it_should():
    code = """
def swallows():
    try: work()
    except Exception: pass
def passes():
    try: work()
    except (StoppedEarly, KeyError): raise
    except Exception: pass
def undoes():
    try: work()
    except BaseException:
        undo()
        raise
def translates():
    try: work()
    except errors.StoppedEarly as error: raise RequestError from error
    except Exception: pass
def suppresses():
    with contextlib.suppress(Exception): work()
def bare():
    try: work()
    except: pass
"""
    found = {name: passes for name, _, passes in broad_handlers(ast.parse(code))}
    assert found == {
        "swallows": False, "passes": True, "undoes": True, "translates": False, "suppresses": False, "bare": False,
    }  # fmt: skip
