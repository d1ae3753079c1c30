"""Documents agree with the code: paths and links exist, tables and quoted messages are those of the code, and the
commands of the README and of docs/getting-started.md run."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fcgi_cli.main import make_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
TOP = {path.name for path in ROOT.iterdir() if not path.name.startswith(".") or path.name in (".ci",)}
"""What may begin a path that a document names."""


def prose(page: Path) -> str:
    """A page without its fenced blocks, where # begins no heading and brackets no link."""
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        text = LINK.sub(lambda link: link[0].partition("]")[0].lstrip("!["), heading).replace("`", "")
        anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = 0
        while (name := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken, f"{page.name} links to {broken}"


def paths_named(text: str) -> Iterator[str]:
    """Paths of this repository in code spans: `docs/x.md`, `script/lab run`, `fcgi_core/web/`, `tests/x.py::test_y`."""
    for span in CODE.findall(text):
        for word in span.split():
            path = word.partition("::")[0].rstrip(".,;:)")
            if "/" in path and path.partition("/")[0] in TOP and not re.search(r"[*{}<>$…]|NAME", path):
                yield path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page: Path) -> None:
    text = page.read_text()
    if page.name == "plugins.md":
        text = FENCED.sub("", text).replace("`tests/test_bruteforce.py`", "")  # of the plugin that the page writes
    missing = sorted({path for path in paths_named(text) if not (ROOT / path).exists()})
    assert not missing, f"{page.name} names {missing}, which is not there"


def test_every_page_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    ways = [ROOT / "README.md"]
    while ways:
        page = ways.pop()
        if page in seen:
            continue
        seen.add(page)
        links = (target.partition("#")[0] for target in LINK.findall(prose(page)))
        targets = (page.parent / target for target in links if "://" not in target)
        ways += [target.resolve() for target in targets if target.suffix == ".md" and target.resolve() != page]
    assert not {str(page.relative_to(ROOT)) for page in PAGES if page not in seen}


# ---- docs/configuration.md


def script(name: str) -> Any:
    """A script of docs/ as a module."""
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(ROOT / "docs" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    loader.exec_module(module)
    return module


def test_the_configuration_reference_is_the_models() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert script("make-configuration").page(text) == text, "run .venv/bin/python docs/make-configuration"


def test_every_key_has_a_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", (ROOT / "docs" / "configuration.md").read_text(), re.M)
    assert len(rows) > 90
    assert not [name for name, meaning in rows if not meaning.strip()], "a field of a model has no docstring"


# ---- docs/troubleshooting.md

FORMAT = re.compile(r"%[-+ #0]*[\d.*]*[sdrfgx]")


def messages() -> set[str]:
    """Every text in the code, with … for what is filled in."""
    found: set[str] = set()
    sources = [*ROOT.glob("fcgi_core/**/*.py"), *ROOT.glob("cli/fcgi_cli/**/*.py"), *ROOT.glob("plugins/*/fcgi_*/*.py")]
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [one.value if isinstance(one, ast.Constant) else "…" for one in node.values]
                found.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(FORMAT.sub("…", node.value))
    for source in ROOT.glob("fcgi_core/**/*.c"):
        found |= {FORMAT.sub("…", text) for text in re.findall(r'"([^"\n]{8,})"', source.read_text())}
    return found


def test_quoted_messages_stand_in_the_code() -> None:
    """The first cell of each row quotes a message as it stands in the code, with … for what is filled in."""
    quoted = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    assert len(quoted) > 40
    known = {text.replace("`", "") for text in messages()}
    gone = [text for text in quoted if not any(text in one for one in known)]
    assert not gone, (
        "docs/troubleshooting.md quotes messages that no string in the code contains any more: change each quotation "
        f"to the new wording, or remove its row: {gone}"
    )


def is_said(call: ast.Call) -> bool:
    """Whether the call writes a line of at least a warning into the operator's log."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name in ("say", "log"):
        return bool(call.args) and ast.unparse(call.args[0]) in ("logging.WARNING", "logging.ERROR", "logging.CRITICAL")
    return name in ("warning", "error", "critical")


def test_every_warning_has_a_row() -> None:
    """An operator who searches the page for a warning of the log finds it."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = [text.replace("…", "") for text in re.findall(r"^\| `([^`]+)` \|", page, re.M)]
    missing, seen = [], 0
    for source in [*ROOT.glob("fcgi_core/**/*.py"), *ROOT.glob("plugins/*/fcgi_*/*.py")]:
        for node in ast.walk(ast.parse(source.read_text())):
            if not (isinstance(node, ast.Call) and is_said(node)):
                continue
            for text in [
                one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)
            ]:
                plain = FORMAT.sub("", text).replace("`", "").replace("%%", "%")
                seen += 1
                if len(plain.split()) > 3 and not any(one in plain for one in quoted):
                    missing.append(f"{source.relative_to(ROOT)}:{node.lineno}: {text}")
    assert seen > 50
    assert not missing, f"docs/troubleshooting.md says nothing about {missing}"


# ---- packaging


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {name: ROOT / folder for name, folder in settings["package-dir"].items()}
    found = {
        ".".join([name, *file.parent.relative_to(folder).parts])
        for name, folder in folders.items()
        for file in folder.rglob("__init__.py")
        if "templates" not in file.parts  # data, which `fcgi-sctp plugins new` fills in
    }
    assert found == set(settings["packages"])


# ---- commands


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `fcgi-sctp` command in a block of a page, without comments and what the shell does with it."""
    for line in re.findall(r"^(?: {4}| {7}|)(fcgi-sctp [a-z].*)$", page.read_text(), re.M):
        lexer = shlex.shlex(re.sub(r"<\(.*?\)", "pipe", line), posix=True, punctuation_chars="|&<>")
        lexer.whitespace_split = True
        words = list(lexer)
        yield next(([*words[:end]] for end, word in enumerate(words) if set(word) <= set("|&<>")), words)[1:]


def test_the_parser_accepts_every_command_that_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    found = [(page, words) for page in PAGES for words in commands(page)]
    assert len(found) > 30
    refused = []
    for page, words in found:
        try:
            make_parser().parse_args(words)
        except SystemExit as end:
            if end.code:
                refused.append(f"{page.name}: fcgi-sctp {' '.join(words)}: {capsys.readouterr().err.splitlines()[-1]}")
    assert not refused


def test_pre_commit_runs_what_the_tests_run() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    for command in ("ruff check", "ruff format --check", "mypy"):
        assert f".venv/bin/{command}" in hooks
    assert (ROOT / ".ci" / "run").exists()


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def on_free_ports(texts: list[str]) -> list[str]:
    """The texts of one site with ports that are free here, the same in all of them."""
    sctp = f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}/{free_port(socket.SOCK_DGRAM)}"
    ports = {"127.0.0.1:9000": sctp, **{f"127.0.0.1:{port}": f"127.0.0.1:{free_port()}" for port in (9001, 8080)}}
    return [re.sub("|".join(map(re.escape, ports)), lambda found: ports[found[0]], text) for text in texts]


def shell(text: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FCGI_SCTP_")}
    program = subprocess.Popen(
        ["bash", "-e", "-c", text],
        cwd=folder,
        env={**kept, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = program.communicate(timeout=90)
    finally:
        try:
            os.killpg(program.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of them have ended
    assert program.returncode == 0, f"{text}\n\n{out}"
    return out


@pytest.fixture
def web_server() -> None:
    if shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None or shutil.which("curl") is None:
        pytest.skip("nginx and curl are needed (script/setup test)")


def test_the_site_of_the_readme(web_server: None, tmp_path: Path) -> None:
    (block,) = [text for kind, text in FENCED.findall((ROOT / "README.md").read_text()) if "mkdir hello" in text]
    out = shell(*on_free_ports([block]), tmp_path)
    assert "hello\n" in out
    assert "a request for /some/page" in out


def test_getting_started(web_server: None, tmp_path: Path) -> None:
    """Its files are written and its commands run, all as printed but for the ports."""
    text = (ROOT / "docs" / "getting-started.md").read_text()
    blocks, end = [], 0
    for block in FENCED.finditer(text):
        names = re.findall(r"\bin `([\w./-]+)`", text[end : block.start()], re.I)
        blocks.append(("" if block[1] == "sh" else names[-1], block[2]))
        end = block.end()
    changed = on_free_ports([content for _, content in blocks])
    for (name, _), content in zip(blocks, changed, strict=True):
        if name:
            (tmp_path / name).write_text(content)
    assert {name for name, _ in blocks if name} == {"site.yaml", "hello.py", "nginx.conf"}
    out = shell("\n".join(content for (name, _), content in zip(blocks, changed, strict=True) if not name), tmp_path)
    assert "hello\n" in out
    assert "a request for /some/page" in out
    assert "syslog.severity: " in out
