"""A method is found because its file is there, and only what is asked for is imported."""

from __future__ import annotations

import subprocess
import sys

import vlm_dense.methods
from vlm_dense.methods import text_prompts
from vlm_dense.registry import MODELS

PLANTED = """
from vlm_dense.contract import TextPrompt
from vlm_dense.registry import MODELS

@MODELS.register_module()
class PlantedPrompt(TextPrompt):
    pass
"""

LOOK_UP = """
import sys
sys.modules['mmdet'] = None  # as if it were not installed
from vlm_dense.registry import MODELS
assert MODELS.get('KgCoOpPrompt') and 'DenseCLIPTwoStage' not in MODELS._module_dict
assert not any(name.startswith('vlm_dense.export') for name in sys.modules), 'an exporter was imported'
assert MODELS.get('vlm_dense.ExportedSegmentor').__module__ == 'vlm_dense.export.models'
"""


def test_a_new_file_is_found_without_being_named(tmp_path, monkeypatch):
    (tmp_path / 'planted.py').write_text(PLANTED)
    monkeypatch.setattr(text_prompts, '__path__', [*text_prompts.__path__, str(tmp_path)])
    try:
        vlm_dense.methods._import_all()
        assert MODELS.get('PlantedPrompt') is text_prompts.PlantedPrompt
    finally:
        MODELS.module_dict.pop('PlantedPrompt', None)
        sys.modules.pop('vlm_dense.methods.text_prompts.planted', None)
        vars(text_prompts).pop('PlantedPrompt', None)


def test_a_look_up_imports_no_exporter_and_needs_no_mmdet():
    subprocess.run([sys.executable, '-c', LOOK_UP], check=True)
