"""Importing this module imports mmseg and mmdet without their notes on parts that nothing here uses.

On every start they print that line NMS, deformable attention and some data sets are absent, with advice to compile
something. A program whose first words are those hides its own message.
"""

import contextlib
import io
import logging
import warnings
from importlib.util import find_spec

from mmengine.logging import MMLogger

_logger = MMLogger.get_current_instance()  # its handler keeps the stream that it finds, which must be the real one
logging.disable(logging.WARNING)
try:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import mmseg.datasets
        import mmseg.models  # noqa: F401

        if find_spec('mmdet'):
            import mmdet.apis  # noqa: F401
finally:
    logging.disable(logging.NOTSET)
    _logger.setLevel(_logger.level)  # forgets that warnings were off
