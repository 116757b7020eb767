import subprocess
import sys

import pytest
from pydantic import ValidationError

from pipeline.study.findings import Finding


def test_a_finding_in_words_names_check_finding_and_remedy():
    finding = Finding(check="spacing", verdict="warn", found="10 mm", remedy="Correct it.")
    assert str(finding) == "spacing: 10 mm. Correct it."
    assert Finding.model_validate_json(finding.model_dump_json()) == finding


def test_there_is_no_other_check_or_verdict():
    for wrong in ({"check": "mood"}, {"verdict": "perhaps"}, {"severity": "error"}):
        with pytest.raises(ValidationError):
            Finding(**({"check": "flip", "verdict": "warn", "found": "", "remedy": ""} | wrong))


def test_reading_findings_needs_no_network_library():
    code = "import sys, pipeline.study.findings; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
