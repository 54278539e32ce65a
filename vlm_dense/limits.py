"""Limits on input from outside; nothing is imported here, so that programs can name them in their help."""

MAX_PIXELS = 100_000_000
"""Pixels of an image or mask above which it is refused, unless an option says otherwise: 1.2 GB while it is read."""

PAGE_PIXELS, PAGE_CONCURRENCY, PAGE_WAITING = 25_000_000, 2, 64
"""Limits of the page in the browser: pixels of an upload, requests that run at the same time, and that wait at most."""

MAX_DOWNLOAD, DOWNLOAD_SECONDS = 200_000_000, 30
"""Bytes of an image from a URL, and how long its server may be silent."""
