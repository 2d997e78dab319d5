"""Write a data set as TFRecord shards."""
