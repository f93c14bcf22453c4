"""Times statements as psql measures them: without the start of a session."""
from __future__ import annotations

import statistics
import subprocess


def medians(psql: list[str], questions: dict[str, str], runs: int, before: str = "") -> dict[str, float]:
    """Seconds that each question takes. The first run does not count; `before` is a script that sets psql's variables."""
    script = before + "\\timing on\n"
    script += "".join(f"\\echo {name}\n{question};\n" for name, question in questions.items() for _ in range(runs + 1))
    told = subprocess.run(psql, input=script, capture_output=True, text=True, check=True).stdout
    took: dict[str, list[float]] = {name: [] for name in questions}
    name = ""
    for line in told.splitlines():
        if line in took:
            name = line
        elif line.startswith("Time: "):
            took[name].append(float(line.split()[1]) / 1000)
    return {name: statistics.median(times[1:]) for name, times in took.items()}
