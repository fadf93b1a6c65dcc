import subprocess
import sys


def test_naming_the_room_imports_nothing_heavy():
    script = "import sys, sage_eval.engine; sys.exit(bool({'torch', 'sglang', 'lm_eval'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
