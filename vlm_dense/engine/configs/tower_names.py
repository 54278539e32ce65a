"""Short names of CLIPs; nothing heavy is imported here."""

TOWERS = {
    'tiny-vit': ('tiny-vit', 'bundled'),
    'tiny-rn': ('tiny-rn', 'bundled'),
    'tiny-siglip': ('tiny-siglip', 'bundled'),
    'tiny-convnext': ('tiny-convnext', 'bundled'),
    'vit-b16': ('ViT-B-16', 'openai'),
    'vit-l14': ('ViT-L-14', 'openai'),
    'siglip2-b16': ('ViT-B-16-SigLIP2', 'webli'),
    'siglip2-so400m14': ('ViT-SO400M-14-SigLIP2', 'webli'),
    'pe-core-b16': ('PE-Core-B-16', 'meta'),
    'pe-core-l14': ('PE-Core-L-14-336', 'meta'),
    'eva02-b16': ('EVA02-B-16', 'merged2b_s8b_b131k'),
    'eva02-l14': ('EVA02-L-14', 'merged2b_s4b_b131k'),
    'convnext-b': ('convnext_base_w', 'laion2b_s13b_b82k_augreg'),
    'convnext-l': ('convnext_large_d', 'laion2b_s26b_b102k_augreg'),
    'mobileclip2-s0': ('MobileCLIP2-S0', 'dfndr2b'),
    'mobileclip2-b': ('MobileCLIP2-B', 'dfndr2b'),
    'dfn-h14': ('ViT-H-14-quickgelu', 'dfn5b'),
    'metaclip2-h14': ('ViT-H-14-worldwide-quickgelu', 'metaclip2_worldwide'),
}
"""Name -> (arch, pretrained)."""
