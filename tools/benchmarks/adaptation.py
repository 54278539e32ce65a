"""Time of what adapts without a training, in one run: at test time for each image, or from features of labelled images.

    python tools/benchmarks/adaptation.py                              # both parts, RN50 of random weights at 224 px
    python tools/benchmarks/adaptation.py --parts test_time --arch ViT-B-16 --classes 100 --images 3
    python tools/benchmarks/adaptation.py --parts features --shots 16

test_time: seconds an image of CLIP itself and of TDA, one view each, and of ZERO and TPT, --views of each image.
features: seconds in which GDA-CLIP and LP++ are fitted to --shots images of each class, 10 copies of each and 1, and
choose on 4 and 16 more. Other programs on the same cores disturb the figures.
"""

from __future__ import annotations

import argparse
import statistics
import time

import open_clip
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset

from vlm_dense.classification import ClsDataSample
from vlm_dense.cli.arguments import positive
from vlm_dense.registry import MODELS

PARTS = ('test_time', 'features')
WRITTEN = dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',))
LEARNED = dict(type='vlm_dense.CoOpPrompt', words='a photo of a')
TEST_TIME = {
    'CLIP': (WRITTEN, None, 1),
    'TDA': (WRITTEN, dict(type='vlm_dense.TDA'), 1),
    'ZERO': (WRITTEN, dict(type='vlm_dense.ZERO'), None),
    'TPT': (LEARNED, dict(type='vlm_dense.TPT'), None),
}
"""Name -> prompt, adaptation, and number of views, None: as asked for."""
FITTED = {
    'GDA-CLIP': (dict(type='vlm_dense.GDACLIP', passes=10), 4),
    'LP++': (dict(type='vlm_dense.LPPlusPlus'), 16),
}
"""Name -> head, and images of a class that it chooses on."""


def classifier(arch: str, classes: int, text_prompt: dict, **parts) -> torch.nn.Module:
    """A classifier with random weights, in eval mode."""
    torch.manual_seed(0)
    tower = dict(type='vlm_dense.CLIPViT', head=True)
    if 'vit' not in arch.lower():
        tower = dict(type='vlm_dense.CLIPResNet', attnpool=True)
    return MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor'),
            backbone=dict(tower, arch=arch),
            text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
            text_prompt=text_prompt,
            class_names=list(open_clip.IMAGENET_CLASSNAMES[:classes]),
            **parts,
        )
    ).eval()


def test_time(arch: str, classes: int, images: int, views: int, size: int) -> dict[str, float]:
    """Seconds an image, the median over ``images`` after one more that warms up; name -> seconds."""
    found = {}
    for name, (prompt, adaptation, count) in TEST_TIME.items():
        model = classifier(arch, classes, prompt, test_time=adaptation)
        count, seconds = count or views, []
        for number in range(images + 1):
            batch = torch.randn(1, count, 3, size, size, generator=torch.Generator().manual_seed(number))
            start = time.perf_counter()
            with torch.no_grad():
                model(batch[0] if adaptation is None else batch)
            seconds.append(time.perf_counter() - start)
        found[name] = statistics.median(seconds[1:])
        ratio = found[name] / found['CLIP']
        print(f'{name:5} {count:3} views: {found[name]:8.3f} s an image, {ratio:6.1f} times CLIP')
    return found


class RandomFeatures(Dataset):
    """Features around a direction of each class, again in each pass.

    Args:
        dim, classes: D and K.
        shots: Images of a class.
    """

    def __init__(self, dim: int, classes: int, shots: int):
        self.labels, self.dim = [label for label in range(classes) for _ in range(shots)], dim
        self.means = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the features of a pass."""
        noise = torch.randn(len(self.labels), self.dim, generator=torch.Generator().manual_seed(epoch + 1))
        self.features = self.means[self.labels] + noise

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        sample = ClsDataSample().set_label(self.labels[index])
        return dict(inputs=dict(global_=self.features[index]), data_samples=sample)


def features(arch: str, classes: int, shots: int) -> dict[str, float]:
    """Seconds of ``prepare``, reading the features included; name -> seconds."""
    found = {}
    for name, (head, validation) in FITTED.items():
        model = classifier(arch, classes, WRITTEN, head=head)
        sizes, dim = dict(support=shots, search=validation), model.backbone.embed_dim
        data = {
            key: DataLoader(RandomFeatures(dim, classes, count), 256, collate_fn=pseudo_collate)
            for key, count in sizes.items()
        }
        with torch.no_grad():
            model.text_side.class_embeddings()  # the text is encoded once and not part of the fit
        start = time.perf_counter()
        model.head.prepare(model, data)
        found[name] = time.perf_counter() - start
        print(f'{name:8} {shots} shots of {classes} classes, {dim} channels: {found[name]:.2f} s')
    return found


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--arch', default='RN50')
    parser.add_argument('--classes', type=positive, default=100)
    parser.add_argument('--images', type=positive, default=3)
    parser.add_argument('--views', type=positive, default=64)
    parser.add_argument('--size', type=positive, default=224)
    parser.add_argument('--shots', type=positive, default=16)
    args = parser.parse_args()
    if 'test_time' in args.parts:
        test_time(args.arch, args.classes, args.images, args.views, args.size)
    if 'features' in args.parts:
        features(args.arch, args.classes, args.shots)


if __name__ == '__main__':
    main()
