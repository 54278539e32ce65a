"""Install with ``pip install -e '.[tests]'``; see README.md."""

from pathlib import Path

from setuptools import find_packages, setup

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
EXPORT = ['onnx', 'onnxscript', 'onnxruntime']
TESTS = [*MM, *PROBE, *EXPORT, 'pytest', 'pytest-xdist', 'scipy']
DEMO = ['gradio>=6,<7']
DEV = [*TESTS, *DEMO, 'ruff', 'pre-commit', 'selenium']

setup(
    name='vlm-dense',
    version=VERSION,
    description='CLIP for dense prediction on the OpenMMLab libraries',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['vlm_dense', 'vlm_dense.*']),
    package_data={'vlm_dense': ['clip/bundled/*', 'data/**/*']},
    python_requires='>=3.10,<3.14',
    install_requires=[
        'torch>=2.4',
        'torchvision',
        'open_clip_torch>=2.30,<4',
        'timm',
        'safetensors',
        'numpy',
        'pillow',
        'matplotlib',
    ],
    extras_require={'mm': MM, 'probe': PROBE, 'export': EXPORT, 'tests': TESTS, 'demo': DEMO, 'dev': DEV},
)
