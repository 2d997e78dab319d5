"""Read the variables of an export of this package: the arrays of its SavedModel, none of its functions.

Does not own: where exports lie (``serving/exported_model.py``).
"""

from trainer.core.arrays import Arrays
from trainer.core.storage import files

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # Entry of a TensorFlow checkpoint that names its variables.


def read_export(version: str) -> Arrays:
    """Return the variables in a version folder of an export by their names, sorted."""
    import tensorflow as tf
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    with files.local_copy(version) as folder:
        reader = tf.train.load_checkpoint(files.join(folder, "variables", "variables"))
        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        graph.ParseFromString(reader.get_tensor(_OBJECT_GRAPH))
        keys = {each.full_name: each.checkpoint_key for node in graph.nodes for each in node.attributes}
        return {name: reader.get_tensor(keys[name]) for name in sorted(keys) if name}
