"""What the server forks cells from has imported: set up, as a program is, when it imports this module."""

import vlm_dense

vlm_dense.setup()

import vlm_dense.methods  # noqa: E402
import vlm_dense.segmentation  # noqa: E402, F401
