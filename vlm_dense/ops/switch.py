"""A switch for programs that import nothing of vlm_dense: every Python of an environment has the stand-in.

The switch is a ``.pth`` file among the installed packages. Python runs its one line when it starts; that loads neither
torch nor mmcv, and does nothing once vlm_dense is gone.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

LINE = "import importlib.util; importlib.util.find_spec('vlm_dense') and __import__('vlm_dense.ops')\n"
_SERVED = "import sys; sys.exit('vlm_dense.ops' not in sys.modules)"


def path() -> Path:
    """The file, whether it exists or not."""
    return Path(sysconfig.get_path('purelib')) / 'vlm_dense_ops.pth'


def install() -> str:
    """Turn the switch on; a second time changes nothing.

    Returns:
        What was done.

    Raises:
        OSError: The folder of packages cannot be written to, or a Python that starts there does not find vlm_dense;
            nothing is left behind.
    """
    file = path()
    try:
        file.write_text(LINE)
    except OSError as error:
        raise OSError(f'{file} cannot be written ({error.strerror}); use a virtual environment of your own') from error
    done = subprocess.run([sys.executable, '-c', _SERVED], cwd=file.parent.parent, check=False)
    if done.returncode:
        file.unlink()
        raise OSError(
            'A new Python of this environment does not find vlm_dense, so the switch would have no effect. Install it '
            "first: pip install -e '.[mm]' in its folder"
        )
    return (
        f'on: {file}\nEvery Python of this environment has the stand-in; python -m vlm_dense.ops uninstall removes it'
    )


def uninstall() -> str:
    """Turn the switch off.

    Returns:
        What was done.
    """
    file = path()
    if not file.exists():
        return f'off: there was no {file}'
    file.unlink()
    return f'off: {file} is removed'


def status() -> str:
    """Whether the switch is on, and its file."""
    return f'on: {path()}' if path().exists() else f'off: no {path()}'
