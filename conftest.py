"""For all tests and doctests: the library is imported before pytest collects it.

Otherwise pytest, which loads each module that has doctests by itself, would put the module
`avalon.fit` in the place of the function `av.fit`.
"""

import avalon


def pytest_report_header() -> str:
    """The version under test, in the first lines of the output."""
    return f"avalon {avalon.__version__}"
