"""From kernels to whole instances of text: labels that grow over a mask."""

import numpy as np

__all__ = ['pixel_group', 'contour_expand']


def pixel_group(
    score, mask, embedding, kernel_label, kernel_contour, kernel_region_num: int, dis_threshold: float
) -> list[list[float]]:
    """Instances by the distance of a pixel's embedding to the mean of a kernel (Wang et al., ICCV 2019).

    Args:
        score: (H, W) float32.
        mask: (H, W) bool, the text.
        embedding: (H, W, D) float32.
        kernel_label: (H, W) int32, from 1; 0 is no kernel.
        kernel_contour: (H, W) uint8, not 0 for pixels from which a kernel grows.
        kernel_region_num: One more than the largest label.
        dis_threshold: A pixel joins a kernel that is nearer than this.

    Returns:
        Of every label from 0 on: the mean score, the number of pixels, and x and y of every pixel, row by row.
    """
    embedding = embedding.numpy().reshape(-1, embedding.shape[2])
    shape, labels = kernel_label.shape, kernel_label.numpy().flatten()
    kernels = np.zeros((kernel_region_num, embedding.shape[1]), np.float32)
    for label in range(1, kernel_region_num):
        if (labels == label).any():
            kernels[label] = embedding[labels == label].mean(0)
    start = np.flatnonzero((labels > 0) & (kernel_contour.numpy().ravel() != 0))
    mask, limit = mask.numpy().ravel(), np.float32(dis_threshold) ** 2

    def joins(pixels, label):
        return mask[pixels] & (np.square(kernels[label] - embedding[pixels]).sum(1) < limit)

    labels = _grow(labels, shape, start, ((0, -1), (0, 1), (-1, 0), (1, 0)), joins)
    return [_instance(label, labels, shape, score.numpy().ravel()) for label in range(kernel_region_num)]


def _instance(label, labels, shape, score):
    pixels = np.flatnonzero(labels == label) if label else np.zeros(0, int)
    y, x = np.unravel_index(pixels, shape)
    mean = score[pixels].mean() if len(pixels) else 0.0
    return [float(mean), float(len(pixels)), *np.stack((x, y), 1).ravel().astype(float).tolist()]


def contour_expand(kernel_mask, internal_kernel_label, min_kernel_area: int, kernel_num: int) -> list[list[int]]:
    """Labels that grow over the first of several masks (Wang et al., CVPR 2019).

    mmcv means to grow over every mask in turn, from the smallest to the first, but reads the first one each time; so
    it is here.

    Args:
        kernel_mask: (kernels, H, W) uint8.
        internal_kernel_label: (H, W) int32, from 1; 0 is no kernel.
        min_kernel_area: Kernels of fewer pixels are left out.
        kernel_num: The largest label.

    Returns:
        Rows of labels.
    """
    labels = internal_kernel_label.numpy().flatten()
    areas = np.bincount(labels, minlength=kernel_num + 1)
    labels[areas[labels] < min_kernel_area] = 0
    mask = kernel_mask[0].numpy().ravel() != 0
    if len(kernel_mask) > 1:
        sides = (-1, 0), (1, 0), (0, -1), (0, 1)
        labels = _grow(
            labels, internal_kernel_label.shape, np.flatnonzero(labels), sides, lambda pixels, _: mask[pixels]
        )
    return labels.reshape(internal_kernel_label.shape).tolist()


def _grow(labels, shape, pixels, steps, joins):
    """Pixels pass their label to neighbours without one, in the order in which they got it themselves.

    Args:
        labels: (H * W,), written over.
        shape: H and W.
        pixels: Those that start.
        steps: Down and right, to each neighbour in turn.
        joins: Of pixels and the labels offered to them, whether they take it.
    """
    down, right = np.array(steps).T
    while len(pixels):
        y, x = pixels[:, None] // shape[1] + down, pixels[:, None] % shape[1] + right
        offered = np.broadcast_to(labels[pixels, None], y.shape)
        on_map = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
        near, offered = (y * shape[1] + x)[on_map], offered[on_map]
        taken = labels[near] <= 0
        near, offered = near[taken], offered[taken]
        willing = joins(near, offered)
        near, offered = near[willing], offered[willing]
        _, first = np.unique(near, return_index=True)
        first.sort()
        pixels = near[first]
        labels[pixels] = offered[first]
    return labels
