"""Put low-rank updates into the weights of a CLIP.

vlm-dense merge-lora CONFIG CHECKPOINT OUT

OUT is a CLIP in OpenAI's layout: pretrained='OUT' of both towers. With --whole it is a checkpoint of the whole model,
for one that has more than its towers. Without the updates in the config, a model then gives the same as before, at no
further cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import vlm_dense
from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('merge-lora', __doc__)
    arguments.add_config(parser, 'config of the training')
    parser.add_argument('checkpoint', help='what it has saved')
    parser.add_argument('out', help='file to write')
    parser.add_argument('--whole', action='store_true', help='write a checkpoint of the whole model')
    arguments.add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    vlm_dense.setup()  # before others import mmseg
    import torch
    from mmengine.config import ConfigDict
    from mmengine.registry import MODELS, init_default_scope
    from open_clip.transformer import QuickGELU

    from vlm_dense.engine.checkpoints.reading import read_checkpoint
    from vlm_dense.engine.configs.checks import check_values
    from vlm_dense.engine.files import atomic_write
    from vlm_dense.engine.outputs import claim
    from vlm_dense.engine.runner import launch
    from vlm_dense.methods.fine_tuning.clip_lora import merged
    from vlm_dense.methods.fine_tuning.merging import clip_of, whole, with_updates

    with user_errors():
        cfg = launch.load_config(args.config, args.cfg_options)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        check_values(cfg)
        launch.fill_class_names(cfg)
        model = MODELS.build(ConfigDict(cfg.model.to_dict()))
        checkpoint = read_checkpoint(args.checkpoint, map_location='cpu')
        weights = checkpoint.get('state_dict', checkpoint)
        parts = with_updates(model, weights, args.checkpoint)
        updates = {name: part for each in parts for name, part in each.official().items()}
        if args.whole:
            content = whole(model, parts, weights, checkpoint.get('meta', {}))
        else:
            clip = clip_of(cfg.model)
            content = merged(clip.state_dict(), updates)
        claim([args.out], [args.checkpoint])
        with atomic_write(args.out) as begun:
            torch.save(content, begun)
    use = 'as checkpoint'
    if not args.whole:
        arch = cfg.model.text_encoder.arch
        quick = any(isinstance(module, QuickGELU) for module in clip.modules())
        if isinstance(arch, str) and quick and not arch.startswith('tiny'):
            arch = f'{arch.removesuffix("-quickgelu")}-quickgelu'  # a file does not tell
        use = f'as arch={arch!r}, pretrained={args.out!r} of backbone and text_encoder'
    print(f'{len(updates)} maps updated. Use {args.out} {use}, without the updates in the config.')
