"""Few shots: test on the classes of the training (CLIP, section 3; CoOp, section 4.1)."""

from vlm_dense.comparison.protocols.protocol import Protocol


class FewShot(Protocol):
    """Accuracy over the number of training images."""

    columns = 'shots'
