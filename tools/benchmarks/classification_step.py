"""Time of a step of classification methods against the plain formulation, in one run.

The plain formulation is that of the official codes: every prompt, of every class and for CoCoOp of every image, is a
sequence of 77 tokens, and all of them are one batch of CLIP's text transformer. Both ways run the same classifier, loss
and optimiser, in turn, with the same random weights of ViT-B/16's text size; images come as features, so that what is
compared is what the prompts cost.

    python tools/benchmarks/classification_step.py                # all parts
    python tools/benchmarks/classification_step.py coop tpt --classes 100

Parts: coop (shared vectors), csc (vectors of each class), cocoop (one prompt an image and class, and its memory), tpt
(one image of 64 views), plot (4 prompts of each class, images of 49 regions), lasp (the names of its loss are the
classes), subpt (as many novel names as classes) and variational (--samples prompts a class). Where the official code
sends the names of a loss through the text tower in a pass of their own, so does the plain formulation. It keeps some
40 MB a prompt. Other programs on the same cores disturb
the figures; see tools/benchmarks/text_tower.py.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.classification import ClsDataSample
from vlm_dense.cli.arguments import positive
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract import WiderContext
from vlm_dense.methods.text_prompts import LASPPrompt, SubPTPrompt
from vlm_dense.registry import MODELS

ARCH = dict(
    embed_dim=512,
    quick_gelu=True,
    vision_cfg=dict(image_size=32, layers=1, width=64, patch_size=16),
    text_cfg=dict(context_length=77, vocab_size=49408, width=512, heads=8, layers=12),
)
COOP = dict(type='vlm_dense.CoOpPrompt', num_contexts=16)
COCOOP = dict(type='vlm_dense.CoCoOpPrompt', words='a photo of a')
TPT = dict(type='vlm_dense.CoOpPrompt', words='a photo of a')
PLOT = dict(type='vlm_dense.PLOTPrompt', num_prompts=4, num_contexts=16)
LASP = dict(type='vlm_dense.LASPPrompt', templates='imagenet7')
SUBPT = dict(type='vlm_dense.SubPTPrompt', num_contexts=16)
VARIATIONAL = dict(type='vlm_dense.VariationalPrompt', words='a photo of a')


class PlainTower(TextTower):
    """Text tower that computes 77 tokens of every prompt, all prompts in one batch; hand-written ones only once."""

    def encode(self, embeddings: Tensor, eot: Tensor, *, prefix: Tensor, **kwargs) -> Tensor:
        """As :meth:`TextTower.encode`."""
        if not torch.is_grad_enabled():
            return super().encode(embeddings, eot, prefix=prefix, **kwargs)
        groups = prefix if prefix.dim() == 3 else prefix[None]
        count, before = len(embeddings), groups.shape[1]
        own = F.pad(embeddings, (0, 0, 0, self.context_length - before - embeddings.shape[1]))
        front = groups[:, None].expand(-1, count, -1, -1).flatten(0, 1)
        x = torch.cat([front, own.repeat(len(groups), 1, 1)], dim=1) + self.positional_embedding
        mask = x.new_full((len(self.positional_embedding),) * 2, -torch.inf).triu(1)
        for block in self.transformer.resblocks:
            x = block(x, attn_mask=mask)
        last = x[torch.arange(len(x)), before + eot.repeat(len(groups))]
        encoded = (self.ln_final(last) @ self.text_projection).unflatten(0, (len(groups), count))
        return encoded if prefix.dim() == 3 else encoded[0]


class TwoPasses(WiderContext):
    """The names of the loss go through the text tower in a pass of their own."""

    def forward(self, text_tower: TextTower, image_features: Tensor | None = None, classes: None = None) -> Tensor:
        """As :meth:`WiderContext.forward` in training."""
        self.loss_embeddings = self.encode(text_tower, self.ctx, self.loss_names)
        return self.encode(text_tower, self.ctx, torch.arange(len(self.class_names)))


class PlainLASP(LASPPrompt, TwoPasses):
    """LASP with a pass for each loss."""


class PlainSubPT(SubPTPrompt, TwoPasses):
    """SubPT with a pass for each loss."""


def build(text_prompt: dict, classes: int, plain: bool, arch: str | None = None, **parts) -> torch.nn.Module:
    """A classifier; both ways get the same weights."""
    torch.manual_seed(0)
    arch = arch or ARCH
    return MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            backbone=dict(type='vlm_dense.CLIPViT', arch=arch, head=True),
            text_encoder=dict(type=PlainTower if plain else TextTower, arch=arch),
            text_prompt=text_prompt,
            class_names=list(open_clip.IMAGENET_CLASSNAMES[:classes]),
            **parts,
        )
    )


def images(count: int, model: torch.nn.Module) -> ImageFeatures:
    """Random image features for a model."""
    tower, generator = model.text_encoder, torch.Generator().manual_seed(1)
    global_ = torch.randn(count, tower.embed_dim, generator=generator)
    dense = torch.randn(count, tower.embed_dim, 7, 7, generator=generator)
    device = tower.logit_scale.device
    return ImageFeatures(global_=global_.to(device), dense=dense.to(device))


def train_step(model, batch: int) -> tuple[Tensor, Tensor]:
    """Forward, backward and step: cosines (B, K), and the gradients of all that is trained."""
    torch.manual_seed(0)  # both ways draw the same samples
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0)
    features, kept = images(batch, model), []
    hook = model.loss_function.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    device = features.global_.device
    samples = [ClsDataSample().set_label(i % len(model.class_names)).to(device) for i in range(batch)]
    model.parse_losses(model(features, samples, mode='loss'))[0].backward()
    optimizer.step()
    hook.remove()
    gradients = torch.cat([p.grad.flatten() for p in trained])
    optimizer.zero_grad()
    return kept[0].logits.detach() / kept[0].logit_scale, gradients


def adapt(model, views: int) -> tuple[Tensor, Tensor]:
    """TPT on one image: cosines (1, K), and the tuned context."""
    tpt, prompt = model.test_time, model.text_prompt
    features = images(views, model)
    with torch.no_grad():
        context = tpt.tune(model, features, prompt.context(features.global_[:1]))
        logits = model.logits(features[:1], prompt.encode(model.text_encoder, context))
    return logits / model.text_encoder.logit_scale.exp(), context


def compare(name: str, step: Callable, models: tuple, size: int, repeats: int, aim: float) -> bool:
    """Print time and differences of the two ways; whether they meet the aim."""
    plain, ours = models
    step(ours, size)
    times: dict[str, list[float]] = dict(plain=[], ours=[])
    results = {}
    for _ in range(repeats):
        for way, model in (('plain', plain), ('ours', ours)):
            start = time.perf_counter()
            results[way] = step(model, size)
            times[way].append(time.perf_counter() - start)
    median = {way: statistics.median(values) for way, values in times.items()}
    ratio = median['plain'] / median['ours']
    (cosines, learned), (expected, wanted) = results['ours'], results['plain']
    differences = (
        (cosines - expected).abs().max().item(),
        ((learned - wanted).abs().max() / wanted.abs().max()).item(),
    )
    print(
        f'{name}: plain {median["plain"] * 1e3:.0f} ms, here {median["ours"] * 1e3:.0f} ms, '
        f'ratio {ratio:.1f} (aim: at least {aim}); difference of cosines {differences[0]:.1e}, of what '
        f'is learned from them {differences[1]:.1e} of its largest entry (aim: at most 1e-5)',
        flush=True,
    )
    return ratio >= aim and max(differences) <= 1e-5


def two_ways(text_prompt: dict, args: argparse.Namespace, plain_type: type | None = None, **parts) -> tuple:
    """A classifier in the plain formulation, and ours."""
    plain = dict(text_prompt, type=plain_type) if plain_type else text_prompt
    return (
        build(plain, args.classes, True, args.arch, **parts),
        build(text_prompt, args.classes, False, args.arch, **parts),
    )


def coop(args) -> bool:
    """CoOp, vectors that all classes share."""
    return compare('CoOp, shared', train_step, two_ways(COOP, args), 32, args.repeats, 5)


def csc(args) -> bool:
    """CoOp, vectors of each class."""
    models = two_ways(dict(COOP, class_specific=True), args)
    return compare('CoOp, class-specific', train_step, models, 32, args.repeats, 3)


def cocoop(args) -> bool:
    """CoCoOp, and its memory for other batch sizes."""
    peaks = []  # memory first: a process starts with the peak of the one that started it
    for batch in (args.batch, 8 * args.batch):
        command = [sys.executable, __file__, '--memory-of', str(batch), '--classes', str(args.classes)]
        command += ['--arch', args.arch] if args.arch else []
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        before, after = json.loads(output.splitlines()[-1])
        peaks.append(after - before)
    print(
        f'CoCoOp, peak memory above the loaded model: {peaks[0]:.0f} MiB for {args.batch} images, {peaks[1]:.0f} MiB '
        f'for {8 * args.batch}, ratio {peaks[1] / peaks[0]:.2f} (aim: at most 1.25)',
        flush=True,
    )
    models = two_ways(COCOOP, args)
    fast = compare(f'CoCoOp, {args.batch} images', train_step, models, args.batch, args.repeats, 3)
    return fast and peaks[1] <= 1.25 * peaks[0]


def tpt(args) -> bool:
    """TPT, one image of 64 views."""
    models = two_ways(TPT, args, test_time=dict(type='vlm_dense.TPT'))
    return compare('TPT, 64 views', adapt, models, 64, args.repeats, 2)


def plot(args) -> bool:
    """PLOT, 4 prompts that all classes share."""
    return compare('PLOT, 4 prompts', train_step, two_ways(PLOT, args), 32, args.repeats, 5)


def lasp(args) -> bool:
    """LASP, with the text-to-text loss of the classes."""
    models = two_ways(LASP, args, PlainLASP)
    for model in models:  # encoded once in a training
        model.text_prompt.references(model.text_encoder)
    return compare('LASP', train_step, models, 32, args.repeats, 5)


def subpt(args) -> bool:
    """SubPT with NFL on as many novel names."""
    novel = list(open_clip.IMAGENET_CLASSNAMES[args.classes : 2 * args.classes])
    models = two_ways(dict(SUBPT, novel_names=novel), args, PlainSubPT)
    for model in models:
        model.text_prompt.targets(model.text_encoder)
    return compare('SubPT', train_step, models, 32, args.repeats, 5)


def variational(args) -> bool:
    """Variational prompts."""
    models = two_ways(dict(VARIATIONAL, num_samples=args.samples), args)
    return compare(f'Variational prompts, {args.samples} samples', train_step, models, 32, args.repeats, 5)


PARTS = dict(coop=coop, csc=csc, cocoop=cocoop, tpt=tpt, plot=plot, lasp=lasp, subpt=subpt, variational=variational)


def measure_memory(batch: int, classes: int, arch: str | None) -> None:
    """Print, as JSON, this process's peak MiB before and after two steps of CoCoOp."""
    model = build(COCOOP, classes, False, arch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for _ in range(2):
        train_step(model, batch)
    print(json.dumps([before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', default=list(PARTS), help=f'of {", ".join(PARTS)}')
    parser.add_argument('--classes', type=positive, default=100)
    parser.add_argument('--arch', help='of CLIP, with a ViT; default: the text tower of ViT-B/16 alone')
    parser.add_argument('--batch', type=positive, default=2, help='images of a step of CoCoOp')
    parser.add_argument('--samples', type=positive, default=2, help='of variational prompts; the paper has 5 to 40')
    parser.add_argument('--repeats', type=positive, default=5, help='steps of each way')
    parser.add_argument('--threads', type=positive, help="torch's threads; default: its own choice")
    parser.add_argument('--memory-of', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f'unknown parts {", ".join(sorted(unknown))}; there are {", ".join(PARTS)}')
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_of:
        measure_memory(args.memory_of, args.classes, args.arch)
        return 0
    parts = sorted(args.parts, key=lambda part: part != 'cocoop')  # its memory is measured in processes of their own
    return 0 if all([PARTS[part](args) for part in parts]) else 1


if __name__ == '__main__':
    sys.exit(main())
