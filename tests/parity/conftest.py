"""Says at the end of a run how many cases were compared."""

from tests.parity.harness import COUNTS


def pytest_terminal_summary(terminalreporter):
    if not COUNTS:
        return
    cases = sum(number for kind, number in COUNTS.items() if kind.endswith("cases"))
    terminalreporter.section(f"compared with PyTorch: {cases} cases")
    for kind, number in sorted(COUNTS.items()):
        terminalreporter.write_line(f"{number:6d}  {kind}")
