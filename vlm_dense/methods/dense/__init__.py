"""MaskCLIP's successors, one file a method: parts that make dense features of a frozen ViT's last blocks, and LPOSS."""
