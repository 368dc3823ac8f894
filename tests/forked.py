"""Programs in processes of their own, forked from one that has imported what they import.

A fresh interpreter takes five to seven seconds of a core to import PyTorch, transformers and the package, which is more
than most tests compute. A test of a launcher, or of what importing does, needs a fresh one all the same.
"""

import atexit
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    "torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp", "torchao.quantization", "pandas",
    "scipy.optimize", "sklearn.metrics", "PIL.Image",
)  # fmt: skip
"""What transformers imports. Transformers itself reads the environment while it is imported."""
PACKAGE = (
    "subcell_hf.workflows.pretrain", "subcell_hf.workflows.finetune", "subcell_hf.workflows.embed",
    "subcell_hf.training.pretraining.trainer", "subcell_hf.training.finetuning.finetuning",
    "subcell_hf.inference.engine.embedding",
)  # fmt: skip
"""The package, and transformers with the environment of the tests."""
_ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
_numbers = count()


@cache
def _server(imported: tuple[str, ...]) -> subprocess.Popen[str]:
    """The process that is forked. It reads a request per line, and ends where they end."""
    command = [sys.executable, "-m", "tests.forked", *imported]
    server = subprocess.Popen(command, cwd=ROOT, env=_ENVIRONMENT, stdin=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


class Forked:
    """A started program.

    Args:
        words: What would follow `python`: a script, `-m` and a module, or `-c` and a text; and its arguments.
        log: File that standard output and error are appended to.
        cwd: Working folder.
        env: Environment variables; those of this process by default.
        imported: Modules that the process has imported before.
    """

    def __init__(
        self,
        *words: str,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        imported: tuple[str, ...] = PACKAGE,
    ) -> None:
        self.log = log.absolute()
        self._status = self.log.with_name(f"{log.name}.status-{next(_numbers)}")
        request = {
            "words": words, "log": str(self.log), "status": str(self._status), "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
        }  # fmt: skip
        server = _server(imported)
        assert server.stdin is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        while not (said := self._said()):
            assert server.poll() is None, "the process that is forked has ended; its error is above"
            time.sleep(0.005)
        self.pid = int(said[0])

    def _said(self) -> list[str]:
        """Process id and, after its end, exit code."""
        return self._status.read_text().split("\n")[:-1] if self._status.exists() else []

    def poll(self) -> int | None:
        """Exit code, or minus the signal that ended it; None while it runs."""
        return int(said[1]) if len(said := self._said()) > 1 else None

    def wait(self, timeout_s: float = 600) -> int:
        """Exit code, likewise.

        Raises:
            TimeoutError: It runs longer.
        """
        end = time.monotonic() + timeout_s
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"process {self.pid} still runs after {timeout_s} s: {self.output[-3000:]}")
            time.sleep(0.01)
        return code

    @property
    def output(self) -> str:
        """What was written to standard output and error; nothing before the program has begun."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


def run_program(*words: str | Path, log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program that imports transformers and the package, or forbids it, by itself; returns what it wrote.

    The arguments are those of `Forked`.
    """
    program = Forked(*map(str, words), log=log, cwd=cwd, env=env, imported=LIBRARIES)
    code = program.wait()
    assert code == 0, program.output[-4000:]
    return program.output


def result_of(output: str, marker: str) -> Any:
    """The JSON that a program wrote on a line, behind a word."""
    (found,) = re.findall(rf"^{marker} (.*)$", output, flags=re.MULTILINE)
    return json.loads(found)


def start_ranks(number: int, *words: str, log: Path, cwd: Path | None = None) -> list[Forked]:
    """Start a program as the processes of one launch, with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = {
        "WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none",
    }  # fmt: skip
    return [
        Forked(
            *words, log=log.with_name(f"{log.name}.{rank}"), cwd=cwd,
            env=os.environ | launch | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(number)
    ]  # fmt: skip


def run_ranks(number: int, *words: str, log: Path, cwd: Path | None = None) -> str:
    """Run a program as the processes of one launch; returns what they wrote."""
    started = start_ranks(number, *words, log=log, cwd=cwd)
    codes = [process.wait() for process in started]
    written = "".join(process.output for process in started)
    assert codes == [0] * number, written[-4000:]
    return written


def _serve() -> None:
    """Fork for every request; returns in the process of the program, and at the end of requests."""
    for line in sys.stdin:
        request = json.loads(line)
        if not os.fork():  # who waits for the program
            if not (program := os.fork()):
                _become(**request)
                return
            partial, status = Path(f"{request['status']}.part"), Path(request["status"])
            partial.write_text(f"{program}\n")
            partial.rename(status)
            code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
            with status.open("a") as file:
                file.write(f"{code}\n")
            os._exit(0)


def _become(words: list[str], log: str, status: str, cwd: str, env: dict[str, str]) -> None:
    """Take the place of an interpreter that is started with these words."""
    with Path(log).open("ab") as written, Path(os.devnull).open("rb") as nothing:
        for source, stream in ((nothing, 0), (written, 1), (written, 2)):
            os.dup2(source.fileno(), stream)
    sys.stdin = os.fdopen(0)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = words


def _run_as_python(first: str, *words: str) -> None:
    if first == "-m":
        module, *sys.argv[1:] = words
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif first == "-c":
        text, *arguments = words
        sys.argv = ["-c", *arguments]
        sys.path.insert(0, "")
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(text, "<string>", "exec"), main.__dict__)
    else:
        sys.path.insert(0, str(Path(first).absolute().parent))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        import_module(name)
    sys.argv = []
    _serve()
    if sys.argv:
        _run_as_python(*sys.argv)
