"""What pyproject.toml cannot express: the extension of the userspace SCTP carrier, and which modules are compiled.

A checkout is pure Python. Wheels, and what is measured, have the modules below compiled by mypyc as they stand: set
FCGI_SCTP_COMPILED=1, as `script/setup compiled` does; it needs mypy.
"""

import ast
import os
import re
from pathlib import Path

from setuptools import setup

# `bench/compiled.py` shows how often a request, or a line of a log, passes through each
COMPILED = (
    # what a message and a record pass through
    *(f"protocol/{name}" for name in ("records", "flow", "outbox", "streams", "states", "events")),
    *(f"protocol/{name}" for name in ("request", "settings", "feedback", "connection", "web", "application")),
    *("common/bounded_queue", "hosting/byte_stream", "hosting/driver", "hosting/load_watch"),
    *("hosting/exchange", "testing_request"),
    *("sctp/carrier", "sctp/silence", "sctp/userspace/association", "sctp/userspace/stack"),
    # what plugins have of each request, each item and each line
    *("hosting/links", "hosting/half_host", "hosting/supervisor", "hosting/isolation"),
    *(f"hosting/{name}" for name in ("delivery", "inbox", "outgoing")),
    # what a request passes through
    *(f"web/{name}" for name in ("client_socket", "exchange", "downstream", "waiting", "balance")),
    *("web/service", "web/site", "web/upstream", "web/association", "web/pool", "web/growth", "web/probe"),
    *("app/associations", "app/exchange", "app/asgi", "app/asgi_scope", "app/gateway"),
    *("app/rules", "app/threads", "app/wsgi"),
    *("app/fastcgi/client", "app/fastcgi/pool", "app/fastcgi/bridge"),
)
COMPILED_SYSLOG = (
    *("about", "application", "batch", "capture", "formats", "lines", "maker", "rules", "sender", "source", "stderr"),
    "web",
)
"""Of the syslog plugin: what a line passes through."""


_METHOD = re.compile(r'(\(PyCFunction\)CPyPy_(\w+),\s+[A-Z_| ]+, PyDoc_STR\()(NULL|"(?:[^"\\]|\\.)*")')
_PROPERTY = re.compile(r"(\(getter\)(\w+),[^,]*,\n\s*)NULL(, NULL})")
_CLASS = re.compile(r'(\.tp_doc = PyDoc_STR\("(\w+)\((?:[^"\\]|\\.)*?)(--\\n\\n"\))')


def documented(code: str, source: str) -> str:
    """The C code that mypyc made of a module, with the docstrings and signatures that `help()` shows of its source."""
    classes: dict[str, ast.ClassDef] = {}
    functions: dict[str, ast.FunctionDef] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            classes[node.name] = node
            functions |= {f"{node.name}___{one.name}": one for one in node.body if isinstance(one, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            functions[node.name] = node

    def function(name: str, separator: str = "___") -> ast.FunctionDef | None:
        parts = name.rsplit(separator)
        return functions.get("___".join(parts[-2:])) or functions.get(parts[-1])

    def method(match: re.Match[str]) -> str:
        found = function(match[2])
        if found is None:
            return match[0]
        signature = match[3].strip('"') if match[3] != "NULL" else c_text(signature_of(found) + "\n--\n\n")
        return f'{match[1]}"{signature}{c_text(ast.get_docstring(found) or "")}"'

    def getter(match: re.Match[str]) -> str:
        found = function(match[2].replace("_get_", "___"))
        text = None if found is None else ast.get_docstring(found)
        return f'{match[1]}PyDoc_STR("{c_text(text)}"){match[3]}' if text else match[0]

    def class_(match: re.Match[str]) -> str:
        text = ast.get_docstring(classes[match[2]]) if match[2] in classes else None
        return f'{match[1]}--\\n\\n{c_text(text)}")' if text else match[0]

    return _CLASS.sub(class_, _PROPERTY.sub(getter, _METHOD.sub(method, code)))


def signature_of(function: ast.FunctionDef) -> str:
    """A signature as `inspect` reads it: without annotations, and with `...` for a default that is no literal."""
    given = function.args
    for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
        if argument is not None:
            argument.annotation = None
    hidden = ast.Constant(...)
    given.defaults = [one if isinstance(one, ast.Constant) else hidden for one in given.defaults]
    given.kw_defaults = [one if one is None or isinstance(one, ast.Constant) else hidden for one in given.kw_defaults]
    return f"{function.name}({re.sub('^(self|cls)', lambda match: '$' + match[0], ast.unparse(given))})"


def c_text(text: str) -> str:
    """Text within the quotes of a C string."""
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\?' else f"\\{byte:03o}" for byte in text.encode())


def compiled() -> list:
    """The extensions of the compiled modules; what mypy cannot find while it builds is taken as untyped."""
    from mypyc.build import mypycify

    options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "--no-error-summary"]
    sources = [f"fcgi_core/{name}.py" for name in COMPILED]
    sources += [f"plugins/syslog/fcgi_syslog/{name}.py" for name in COMPILED_SYSLOG]
    # -O1: half the time of -O2, and no slower that could be measured. One C file for each module, and one library
    # inside of the package, so that it is found from wherever the package is
    extensions = mypycify(
        [*options, *sources], opt_level="1", debug_level="0", multi_file=True, group_name="fcgi_core.compiled"
    )
    for path in sources:
        code = Path(
            "build", f"__native_{path.removesuffix('.py').replace('plugins/syslog/', '').replace('/', '___')}.c"
        )
        code.write_text(documented(code.read_text(), Path(path).read_text()))
    for extension in extensions:
        extension.include_dirs.append("build/fcgi_core")  # where mypyc puts the headers of a group with that name
    return extensions


setup(
    cffi_modules=["fcgi_core/sctp/userspace/_usrsctp_build.py:ffibuilder"],
    ext_modules=compiled() if os.environ.get("FCGI_SCTP_COMPILED") else [],
)
