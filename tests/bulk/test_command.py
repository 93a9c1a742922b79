"""The command `embedrt bulk`, in this process."""

import json
from pathlib import Path

from embedrt.cli.main import main
from tests.bulk import jobs


def test_a_newline_in_a_template(tmp_path: Path, tiny_bundle: Path) -> None:
    """Shells leave its two characters as they are."""
    jobs.write_source(tmp_path / "in", 20)
    words = [str(tmp_path / "in"), str(tmp_path / "out"), "--model", str(tiny_bundle)]
    assert main(["bulk", *words, "--text", "text", "--template", r"{text}\n{text}"]) == 0
    record = json.loads((tmp_path / "out" / "_job" / "job.json").read_text())
    assert record["wanted"]["meaning"]["template"] == "{text}\n{text}"
