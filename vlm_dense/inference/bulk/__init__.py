"""Labels and features of any number of images: where they come from, the worker, what is written, and the run.

:class:`vlm_dense.inference.bulk.worker.Worker` is the model as a function of batches; the programs ``label`` and
``features``, and engines such as Ray Data, call it.
"""
