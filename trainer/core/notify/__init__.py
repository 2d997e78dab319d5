"""Tell somebody that a job has ended: where to (``targets``), what (``message``), and how (``http``, ``mail``)."""
