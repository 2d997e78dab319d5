"""Private names of TensorFlow and Keras: all that this program uses, each behind a function that checks it first.

A private name may change in any release, and some of these would then break a job in silence: gradients added twice, a
SIGTERM that never arrives.  So every function makes sure that the name is there and can be called as it is called here,
gives its reason, and names the test that would notice if the patch had no effect.  Seen with tensorflow 2.21.0 and
keras 3.15.1; ``tests/distributed/test_tf_private.py`` makes sure that no other module uses a private name.
Owns: private names.  Does not own: when they are needed, nor KerasTuner's (``trainer/sweep``).
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.core.errors import RequestError

_ITERATORS = "tensorflow.python.data.ops.multi_device_iterator_ops"
_COLLECTIVES = "tensorflow.python.distribute.collective_all_reduce_strategy"
_CONTEXT = "tensorflow.python.eager.context"
_CONSTANTS = "tensorflow.python.framework.convert_to_constants"
_SAVED_MODEL = "tensorflow.core.protobuf.saved_model_pb2"
_OBJECT_GRAPH = "tensorflow.core.protobuf.trackable_object_graph_pb2"
_BASE_OPTIMIZER = "keras.src.optimizers.base_optimizer"
_TF_OPTIMIZER = "keras.src.backend.tensorflow.optimizer"
# Methods of an optimizer that know tf.distribute in the one and not in the other, with their arguments.
_WITHOUT_DISTRIBUTION = {
    "assign": ("variable", "value"),
    "assign_add": ("variable", "value"),
    "assign_sub": ("variable", "value"),
    "_apply_weight_decay": ("variables",),
    "_backend_update_step": ("grads", "trainable_variables", "learning_rate"),
}
_GRAPH_ENTRY = "_CHECKPOINTABLE_OBJECT_GRAPH"  # Of a TensorFlow checkpoint: it names the variables.


@functools.cache
def switch_off_iterator_autotune() -> None:
    """Switch off tf.data's autotune for the iterators that a strategy makes on its devices.

    Their options are not public.  TensorFlow 2.21 often loses the notification that an iterator was dropped; whoever
    drops it then waits until autotune's thread wakes up, up to a minute: after each validation, and after SIGTERM.
    These iterators have nothing to tune.

    Noticed by ``tests/data/test_pipeline.py``: test_nothing_that_a_strategy_iterates_over_has_autotune.
    """
    iterators = _module(_ITERATORS)
    create = _function(iterators, "_create_device_dataset", "dataset", "incarnation_id", "buffer_size", "slack")
    options = tf.data.Options()
    options.autotune.enabled = False
    iterators._create_device_dataset = lambda *arguments: create(*arguments).with_options(options)


def switch_off_coordination_service() -> None:
    """Switch off the service by which TensorFlow watches the workers, and the older health check that would replace it.

    The service takes SIGTERM away from the program (its "preemption notifier") and ends processes by rules of its own.
    ``process_group.py`` watches the other processes instead.  There is no public switch.

    Noticed by ``tests/distributed/test_multi_worker.py``: test_kills_in_the_middle_of_a_save_..., where one of several
    workers gets a SIGTERM and all must save.
    """
    context = _function(_module(_CONTEXT), "context")()
    extended = _value(_module(_COLLECTIVES), "CollectiveAllReduceExtended", lambda value: isinstance(value, type))
    _value(extended, "_enable_check_health", lambda value: isinstance(value, bool))
    _function(context, "configure_coordination_service", service_type="")(service_type="")
    extended._enable_check_health = False


def use_logical_cpus(devices: Sequence[str]) -> None:
    """Make MultiWorkerMirroredStrategy compute on all these logical CPUs of a worker, not only on the first.

    TensorFlow 2.21 counts GPUs and TPUs, but always takes one CPU.

    Args:
        devices: of each worker, such as ``CPU:0``.

    Noticed by ``tests/distributed/test_multi_worker.py``: test_topologies_agree_to_the_last_bit[2-2].
    """
    extended = _value(_module(_COLLECTIVES), "CollectiveAllReduceExtended", lambda value: isinstance(value, type))
    _function(extended, "_initialize_local_devices", "self", "resolver", "worker")
    extended._initialize_local_devices = lambda self, resolver, worker: (
        tuple(f"{worker}/device:{device}" for device in devices),
        "CPU",
    )


def update_where_called(optimizer: keras.optimizers.Optimizer) -> None:
    """Make an optimizer update variables here and now, by the methods that it has without tf.distribute.

    Those of Keras's TensorFlow backend reduce gradients over the replicas, which ``training/step`` already does, and
    leave the replica for each variable, which XLA cannot compile.  keras 3.15 has no public way.  After a rename the
    patch would have no effect, and gradients would be added twice.

    Noticed by ``tests/distributed/test_tf_private.py``: test_an_optimizer_does_not_add_gradients_of_replicas_again.
    """
    general, of_backend = (
        _value(_module(module), name, inspect.isclass)
        for module, name in ((_BASE_OPTIMIZER, "BaseOptimizer"), (_TF_OPTIMIZER, "TFOptimizer"))
    )
    for name, arguments in _WITHOUT_DISTRIBUTION.items():
        method = _function(general, name, "self", *arguments)
        # Not one of a class outside Keras.
        if getattr(type(optimizer), name) is _function(of_backend, name, "self", *arguments):
            setattr(optimizer, name, method.__get__(optimizer))


def writer_resource(writer: tf.summary.SummaryWriter) -> tf.Tensor:
    """Return the handle of a summary writer, which ``tf.raw_ops.ImportEvent`` needs.

    ``tf.summary`` cannot write a "start" event, by which TensorBoard drops the steps that a resumed job repeats.

    Noticed by ``tests/distributed/test_tf_private.py``: test_the_handle_of_a_summary_writer_takes_events.
    """
    return _value(writer, "_resource", lambda value: getattr(value, "dtype", None) == tf.resource)


def freeze(function: Any) -> Any:
    """Return a tf.function of one signature as a concrete function with its variables as constants.

    TFLite's and ONNX's converters lose the variables of Keras 3 otherwise.

    Noticed by ``tests/commands/test_export.py``, where each converted file answers as the SavedModel does.
    """
    convert = _function(_module(_CONSTANTS), "convert_variables_to_constants_v2", "function")
    return convert(function.get_concrete_function())


def variable_keys(reader: Any) -> dict[str, str]:
    """Return the entries of a TensorFlow checkpoint that hold its variables, by the variables' names.

    Noticed by ``tests/training/test_initial_weights.py``, where an export gives its weights to another job.
    """
    graph = _value(_module(_OBJECT_GRAPH), "TrackableObjectGraph", inspect.isclass)()
    graph.ParseFromString(reader.get_tensor(_GRAPH_ENTRY))
    return {each.full_name: each.checkpoint_key for node in graph.nodes for each in node.attributes}


def signature_definitions(content: bytes) -> dict[str, Any]:
    """Return the SignatureDefs by name of a SavedModel, whose ``saved_model.pb`` this is.

    Noticed by ``tests/server/test_serve.py``: test_status_and_metadata.
    """
    model = _value(_module(_SAVED_MODEL), "SavedModel", inspect.isclass).FromString(content)
    return dict(model.meta_graphs[0].signature_def)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _changed(name, "no such module") from error


def _function(owner: Any, name: str, *arguments: Any, **options: Any) -> Callable[..., Any]:
    """Return a private function, after making sure that it takes such arguments; it is not called."""
    function: Callable[..., Any] = _value(owner, name, callable)
    signature = inspect.signature(function)
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise _changed(_full_name(owner, name), f"{name}{signature}") from error
    return function


def _value(owner: Any, name: str, is_expected: Callable[[Any], bool]) -> Any:
    """Return a private attribute, after making sure that it is there and of the expected kind."""
    if not hasattr(owner, name):
        raise _changed(_full_name(owner, name), "no such name")
    value = getattr(owner, name)
    if not is_expected(value):
        raise _changed(_full_name(owner, name), repr(value)[:100])
    return value


def _full_name(owner: Any, name: str) -> str:
    """Return a name for messages: of an attribute of a module, a class, or an object of a class."""
    named = owner if inspect.ismodule(owner) or inspect.isclass(owner) else type(owner)
    return f"{named.__name__}.{name}"


def _changed(name: str, received: str) -> RequestError:
    """Return the error for a private name that is not as expected, with the versions that are installed and known."""
    return RequestError(
        f"expected {name} as in tensorflow 2.21 and keras 3.15, received {received} with tensorflow "
        f"{tf.__version__} and keras {keras.__version__}; install the versions that setup.py names: "
        "pip install 'tensorflow>=2.21,<2.22' 'keras>=3.15,<3.16'"
    )
