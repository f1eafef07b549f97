"""Sphinx: MyST pages, furo, and every example run as a doctest."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "_ext")]
try:
    import stillalive
except ImportError:  # not installed: the source tree works without a compiler
    sys.path.insert(0, str(HERE.parent / "src"))
    import stillalive

project = "stillalive"
author = project_copyright = "The stillalive authors"
version = release = stillalive.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "tables",
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

html_theme = "furo"
html_title = f"stillalive {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"SocketLike": "SocketLike"}
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False

doctest_global_setup = "from doctest_setup import *"
doctest_global_cleanup = "close_pairs()"
doctest_test_doctest_blocks = "default"
