"""Setup of the process by our programs before they begin; no import does it."""

from vlm_dense.libraries import import_quietly, name_packages


def setup() -> None:
    """Prepare this process for a program of ours; called again, it changes nothing.

    - mmseg and mmdet are imported without their notes, see :func:`~vlm_dense.libraries.import_quietly`.
    - mmengine reads checkpoints with loaders that run no code and name a damaged file, see
      :func:`vlm_dense.engine.checkpoints.reading.install_loaders`.
    - mmengine finds the configs of vlm_dense and mmseg by name, see :func:`~vlm_dense.libraries.name_packages`.

    The programs in ``tools/`` call it first. In a program of another project, calling it is a choice: without it the
    components of vlm_dense work as well, and checkpoints are read as mmengine reads them.

    Raises:
        MissingLibraryError: mmengine, mmcv or mmseg is not installed.

    Examples:
        >>> import vlm_dense
        >>> vlm_dense.setup()
    """
    import_quietly()
    from vlm_dense.engine.checkpoints.reading import install_loaders

    install_loaders()
    name_packages()
