"""Private names of TensorFlow and Keras: one file has them all, each is checked before use, and each patch works."""

import ast
import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf

from trainer.core.config import DataConfig, RuntimeConfig
from trainer.core.errors import RequestError
from trainer.distributed import strategy as strategy_lib
from trainer.distributed import tf_private

TRAINER = Path(__file__).resolve().parents[2] / "trainer"
PRIVATE_FILE = "distributed/tf_private.py"
KERAS_TUNER_FILE = "sweep/keras_tuner_private.py"
PRIVATE_MODULES = {
    PRIVATE_FILE: ("tensorflow.python", "tensorflow.core", "tensorflow.compiler", "keras.src", "keras._"),
    KERAS_TUNER_FILE: ("keras_tuner.src",),
}


def iterators():
    return importlib.import_module(tf_private._ITERATORS)


def collectives():
    return importlib.import_module(tf_private._COLLECTIVES).CollectiveAllReduceExtended


def eager_context():
    return type(importlib.import_module(tf_private._CONTEXT).context())


def constants():
    return importlib.import_module(tf_private._CONSTANTS)


# Each name: who has it, who needs it, and something of another kind in its place.
NAMES = [
    (iterators, "_create_device_dataset", lambda: tf_private.switch_off_iterator_autotune.__wrapped__(), lambda a: a),
    (collectives, "_enable_check_health", tf_private.switch_off_coordination_service, lambda self: True),
    (eager_context, "configure_coordination_service", tf_private.switch_off_coordination_service, lambda self: None),
    (collectives, "_initialize_local_devices", lambda: tf_private.use_logical_cpus(["CPU:0"]), lambda self: None),
    (constants, "convert_variables_to_constants_v2", lambda: tf_private.freeze(None), lambda: None),
]


def changed(action, name):
    """Return the message of the error for a private name that changed; it names versions and a remedy."""
    with pytest.raises(RequestError) as caught:
        action()
    message = str(caught.value)
    assert name in message
    assert f"tensorflow {tf.__version__} and keras {keras.__version__}" in message
    assert "install the versions that setup.py names" in message
    assert "\n" not in message
    return message


@pytest.fixture
def nothing_else_changes(monkeypatch):
    """Undo every patch of a test, also those that it makes on purpose."""
    extended = collectives()
    monkeypatch.setattr(iterators(), "_create_device_dataset", iterators()._create_device_dataset)
    monkeypatch.setattr(extended, "_enable_check_health", extended._enable_check_health)
    monkeypatch.setattr(extended, "_initialize_local_devices", extended._initialize_local_devices)
    return monkeypatch


@pytest.mark.parametrize(("owner", "name", "action", "_"), NAMES)
def test_a_name_that_is_gone_is_refused(nothing_else_changes, owner, name, action, _):
    nothing_else_changes.delattr(owner(), name)
    assert "received no such name" in changed(action, name)


@pytest.mark.parametrize(("owner", "name", "action", "other"), NAMES)
def test_a_name_of_another_kind_is_refused(nothing_else_changes, owner, name, action, other):
    nothing_else_changes.setattr(owner(), name, other)
    changed(action, name)


def test_nothing_is_switched_off_if_a_name_is_gone(nothing_else_changes):
    nothing_else_changes.setattr(collectives(), "_enable_check_health", True)
    nothing_else_changes.setattr(eager_context(), "configure_coordination_service", None)
    changed(tf_private.switch_off_coordination_service, "configure_coordination_service")
    assert collectives()._enable_check_health is True


@pytest.mark.parametrize("name", ["_ITERATORS", "_COLLECTIVES", "_CONTEXT", "_CONSTANTS"])
def test_a_module_that_is_gone_is_refused(monkeypatch, name):
    monkeypatch.setattr(tf_private, name, "tensorflow.python.moved")
    actions = {
        "_ITERATORS": lambda: tf_private.switch_off_iterator_autotune.__wrapped__(),
        "_COLLECTIVES": lambda: tf_private.use_logical_cpus(["CPU:0"]),
        "_CONTEXT": tf_private.switch_off_coordination_service,
        "_CONSTANTS": lambda: tf_private.freeze(None),
    }
    assert "received no such module" in changed(actions[name], "tensorflow.python.moved")


@pytest.mark.parametrize("other", [None, 3, lambda self, gradients: gradients])
@pytest.mark.parametrize("module", ["_BASE_OPTIMIZER", "_TF_OPTIMIZER"])
def test_an_optimizer_that_updates_by_another_name_is_refused(module, other, monkeypatch):
    name = {"_BASE_OPTIMIZER": "BaseOptimizer", "_TF_OPTIMIZER": "TFOptimizer"}[module]
    owner = getattr(importlib.import_module(getattr(tf_private, module)), name)
    monkeypatch.setattr(owner, "_backend_update_step", other)
    changed(lambda: tf_private.update_where_called(keras.optimizers.SGD()), "_backend_update_step")


@pytest.mark.parametrize("writer", [SimpleNamespace(), SimpleNamespace(_resource=tf.constant(1.0))])
def test_a_writer_without_a_handle_is_refused(writer):
    changed(lambda: tf_private.writer_resource(writer), "_resource")


# The patches work.


@pytest.mark.parametrize(("patched", "weight"), [(True, -1.0), (False, -2.0)])
def test_an_optimizer_does_not_add_gradients_of_replicas_again(patched, weight):
    # The process's only one: a second would number its collectives from the same start (``strategy.py``).
    strategy = strategy_lib.setup(RuntimeConfig(num_devices=2, precision="float32"), DataConfig(batch_size=4)).strategy
    with strategy.scope():
        variable = keras.Variable(0.0)
        optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
        optimizer.build([variable])

    def update():
        with keras.StatelessScope(initialize_variables=False) as scope:
            optimizer.apply_gradients([(tf.constant(1.0), variable)])
        return scope.get_current_value(variable)

    if patched:  # A block that catches what is written sees everything, weight decay too.
        tf_private.update_where_called(optimizer)
        (new, _) = strategy.experimental_local_results(strategy.run(tf.function(update, autograph=False)))
        assert (float(new), float(variable.value.values[0])) == (weight, 0.0)
    else:
        strategy.run(tf.function(lambda: optimizer.apply_gradients([(tf.constant(1.0), variable)]), autograph=False))
        assert float(variable.value.values[0]) == weight


def test_the_handle_of_a_summary_writer_takes_events(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    event = tf.compat.v1.Event(wall_time=1.0, step=7).SerializeToString()
    tf.raw_ops.ImportEvent(writer=tf_private.writer_resource(writer), event=event)
    writer.close()
    (file,) = tmp_path.iterdir()
    assert 7 in [tf.compat.v1.Event.FromString(record.numpy()).step for record in tf.data.TFRecordDataset([str(file)])]


def test_logical_cpus_and_no_health_check_reach_the_strategys_class(nothing_else_changes):
    tf_private.use_logical_cpus(["CPU:0", "CPU:1"])
    local, kind = collectives()._initialize_local_devices(None, None, "/job:worker/task:1")
    assert (local, kind) == (("/job:worker/task:1/device:CPU:0", "/job:worker/task:1/device:CPU:1"), "CPU")
    settings = []
    nothing_else_changes.setattr(
        eager_context(), "configure_coordination_service", lambda self, service_type: settings.append(service_type)
    )
    tf_private.switch_off_coordination_service()
    assert settings == [""]
    assert collectives()._enable_check_health is False


def test_a_frozen_function_has_no_variables():
    variable = tf.Variable([1.0, 2.0])
    function = tf.function(lambda x: x + variable, input_signature=[tf.TensorSpec([2])], autograph=False)
    frozen = tf_private.freeze(function)
    variable.assign([0.0, 0.0])
    assert not frozen.variables
    assert frozen(tf.constant([10.0, 10.0]))[0].numpy().tolist() == [11.0, 12.0]


# No other file knows a private name.


def nodes_of(text):
    """Return all nodes of a file's tree: a walk takes longer than what is done with its nodes."""
    return list(ast.walk(ast.parse(text)))


def sources():
    return {path.relative_to(TRAINER).as_posix(): nodes_of(path.read_text()) for path in TRAINER.rglob("*.py")}


def private_imports(nodes, prefixes):
    """Yield the modules below the prefixes that a file imports, or names for ``importlib``."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            names = [node.value]  # A name for importlib.
        else:
            names = []
        yield from (name for name in names if name.startswith(prefixes))


def is_private(name):
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__") and name != "__internal__")


def defined_names(nodes):
    """Return what a file defines itself: functions, classes, variables, and attributes that it sets on ``self``."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            names.add(node.attr)
    return names


def is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def foreign_names(nodes, own):
    """Yield private attributes that nobody in the trainer defines: by a dot, or by name in ``getattr`` and the like."""
    for node in nodes:
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "getattr",
            "setattr",
            "hasattr",
            "delattr",
        ):
            name = ast.literal_eval(node.args[1]) if isinstance(node.args[1], ast.Constant) else ""
        else:
            continue
        if is_private(name) and name not in own:
            yield name


# Neither TensorFlow's nor Keras's: the standard library's ``os._exit``, and the credentials of google-cloud's client.
STANDARD_LIBRARY = {"_exit"}
ALLOWED = {"core/storage/gcs_client.py": {"_credentials"}}


def test_no_other_module_uses_a_private_name():
    trees = sources()
    own = set().union(*(defined_names(nodes) for nodes in trees.values()))
    homes = [home for home in PRIVATE_MODULES if home in trees]
    for file, nodes in trees.items():
        for home in homes:
            if file != home:
                assert list(private_imports(nodes, PRIVATE_MODULES[home])) == [], f"{file}: this belongs in {home}"
        is_exempt = file in homes or (file.startswith("sweep/") and KERAS_TUNER_FILE not in homes)
        names = set(foreign_names(nodes, own)) - STANDARD_LIBRARY - ALLOWED.get(file, set())
        assert is_exempt or names == set(), f"{file}: see {PRIVATE_FILE}"


@pytest.mark.parametrize(
    "line",
    ["from tensorflow.python.eager import context", "import keras.src.backend", "from tensorflow import python",
     "x = importlib.import_module('tensorflow.core.protobuf')"],
)  # fmt: skip
def test_the_rule_sees_a_private_module(line):
    assert list(private_imports(nodes_of(line), PRIVATE_MODULES[PRIVATE_FILE]))


@pytest.mark.parametrize(
    "line", ["optimizer._all_reduce(x)", "model._functional", "setattr(o, '_x', 1)", "tf.__internal__"]
)
def test_the_rule_sees_a_private_attribute(line):
    assert list(foreign_names(nodes_of(line), {"_own"}))
    assert not list(foreign_names(nodes_of("other._own + x.__name__"), {"_own"}))


def test_every_function_names_the_test_that_would_notice():
    names = [name for name in vars(tf_private) if not name.startswith("_")]
    values = [inspect.unwrap(getattr(tf_private, name)) for name in names if callable(getattr(tf_private, name))]
    functions = [value for value in values if value.__module__ == tf_private.__name__]
    assert len(functions) >= 6
    for function in functions:
        _, _, sentence = function.__doc__.partition("Noticed by ``")
        file, _, words = sentence.partition("``")
        text = (TRAINER.parent / file).read_text()
        for word in words.replace("[", " ").replace(".", " ").split():
            if word.startswith("test_"):
                assert word.rstrip("_,") in text
