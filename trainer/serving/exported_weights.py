"""Read the variables of an export of this package: the arrays of its SavedModel, none of its functions.

Does not own: where exports lie (``exported_model.py``).
"""

from trainer.core.arrays import Arrays
from trainer.core.storage import files


def read_export(version: str) -> Arrays:
    """Return the variables in a version folder of an export by their names, sorted."""
    import tensorflow as tf

    from trainer.distributed import tf_private

    with files.local_copy(version) as folder:
        reader = tf.train.load_checkpoint(files.join(folder, "variables", "variables"))
        keys = tf_private.variable_keys(reader)
        return {name: reader.get_tensor(keys[name]) for name in sorted(keys) if name}
