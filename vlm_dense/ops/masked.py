"""Convolution at chosen places only."""

import torch.nn.functional as F

__all__ = ['masked_im2col_forward', 'masked_col2im_forward']


def masked_im2col_forward(im, mask_h_idx, mask_w_idx, col, kernel_h, kernel_w, pad_h, pad_w):
    """Fill ``col`` (C * kernel_h * kernel_w, M) with the windows of ``im`` (1, C, H, W) at M places, zero outside."""
    windows = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h)).unfold(1, kernel_h, 1).unfold(2, kernel_w, 1)
    col.copy_(windows[:, mask_h_idx, mask_w_idx].permute(0, 2, 3, 1).flatten(0, 2))


def masked_col2im_forward(col, mask_h_idx, mask_w_idx, im, height, width, channels):
    """Put the columns of ``col`` (C, M) into ``im`` (1, C, height, width) at M places; the rest stays."""
    im[0, :, mask_h_idx, mask_w_idx] = col
