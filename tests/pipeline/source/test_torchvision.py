import subprocess
import sys


def test_a_torchvision_of_another_torch_can_be_imported(tmp_path):
    """In a process of its own: declaring operators cannot be undone."""
    code = (
        "from enginery.pipeline.source.torchvision import prepare_torchvision as prepare\n"
        "steps = prepare()\n"
        "import torchvision.transforms\n"
        "assert prepare() == steps\n"
        "from torchvision.extension import _has_ops\n"
        "assert _has_ops() == (not steps), steps\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, cwd=tmp_path)
