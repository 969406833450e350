"""The fast path's BPF object is compiled before the package's files are gathered; pyproject.toml has the rest.

Without clang the build goes on without it: the data plane is then the userspace one.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).parent / "mip6" / "dataplane" / "fastpath.bpf.c"


def compile_fastpath(source: Path, output: Path) -> None:
    """FileNotFoundError without clang, CalledProcessError when it refuses."""
    headers = Path("/usr/include") / (sysconfig.get_config_var("MULTIARCH") or "")  # asm/types.h on Debian
    options = ["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", f"-I{headers}"]
    subprocess.run(["clang", *options, "-c", source, "-o", output], check=True)


class BuildPy(build_py):
    def run(self) -> None:
        output = SOURCE.with_suffix(".o")
        output.unlink(missing_ok=True)
        try:
            compile_fastpath(SOURCE, output)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            print(f"mip6: building without the eBPF data plane: {error}", file=sys.stderr)
        super().run()


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildPy})
