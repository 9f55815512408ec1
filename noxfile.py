"""Everything that must hold before a change goes in: plain `nox` runs it all, each half in one environment."""

import functools
import json
import os
import re

import nox
from packaging.requirements import Requirement
from packaging.version import Version

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True
nox.options.sessions = ["docs", "tests", "saelens", "circuit_tracer", "side_by_side"]

# Two threads wherever the tests run: the order of torch's sums, and so their last bits, follows the number of threads.
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
BESIDE = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}  # where two processes test beside each other
NOTHING_CHOSEN = 5  # pytest's exit code where the arguments leave no test

# The oldest torch that the ranges admit comes with gigabytes of CUDA.
NEVER_OLDEST = {"torch"}


# What the whole suite was last seen to pass with. CI tests the newest instead, before they are written here.
PROVEN = "constraints.txt"
NEWEST = bool(os.environ.get("CIRCUIT_NEWEST"))


@nox.session
def tests(session: nox.Session) -> None:
    """Lint, types, import contracts and the whole suite: on proven versions, or with CIRCUIT_NEWEST on the newest."""
    session.install(*([] if NEWEST else ["--constraint", PROVEN]), ".[dev]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("hadolint", "Dockerfile")
    session.run("mypy")
    session.run("lint-imports")
    pytest = functools.partial(session.run, "pytest", *session.posargs, success_codes=[0, NOTHING_CHOSEN])
    pytest("-m", "not saelens and not huge and not timed", "-n", "2", "--dist", "loadfile", env=BESIDE)
    pytest("-m", "not saelens and not huge and timed", env=ENVIRONMENT)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, in site/: a link that leads nowhere fails, as does a page that needs the network.

    `python -m http.server -d site` shows it with its search; opened from disk its pages are whole but for that.
    """
    [builder] = nox.project.load_toml("pyproject.toml")["project"]["optional-dependencies"]["docs"]
    session.install(*([] if NEWEST else ["--constraint", PROVEN]), builder)
    session.run("mkdocs", "build", "--strict", "--quiet", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def readme(session: nox.Session) -> None:
    """Write the output in the tour anew, in the README and in docs/, from the commands in it."""
    session.install(".")
    session.run("python", "tests/support/readme.py", env=ENVIRONMENT)


@nox.session
def saelens(session: nox.Session) -> None:
    """SAELens itself beside our arithmetic, the whole pipeline and the hub, on the oldest versions that we admit."""
    oldest = session.create_tmp() + "/oldest.txt"
    with open(oldest, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in oldest_versions())
    session.install("--constraint", oldest, ".[test,saelens]")
    session.run("pytest", "-m", "(saelens or real or hub) and not huge", *session.posargs, env=ENVIRONMENT)


@nox.session
def seams(session: nox.Session) -> None:
    """The tests that lean on the insides of transformers and TransformerLens, on many versions of these.

    On the oldest of all ranges, on each minor version of transformers in its range that pip still finds, and on what
    lies beyond the caps, where a failure is told and isn't one. `nox -s seams -- 5.23 5.24` takes these minors alone.
    """
    run = ("pytest", "-m", "seams", "-q", "--no-header", "-p", "no:cacheprovider")
    session.install(".[test]")
    minors = [one for one in session.posargs if re.fullmatch(r"\d+\.\d+", one)] or minors_in_range(session)
    if not session.posargs:
        oldest = session.create_tmp() + "/oldest.txt"
        with open(oldest, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in oldest_versions())
        session.install("--constraint", oldest, ".[test]")
        session.run(*run, env=ENVIRONMENT)
    for minor in minors:
        session.install("--upgrade", f"transformers=={minor}.*", "transformer_lens", ".[test]")  # as pip pairs them
        session.run(*run, env=ENVIRONMENT)
    if not session.posargs:
        session.run("pip", "install", "--upgrade", "--no-deps", "transformers", "transformer_lens")
        beyond = session.run(*run, env=ENVIRONMENT, success_codes=range(256), silent=True)
        told = str(beyond).strip().splitlines()[-1]
        (session.warn if "failed" in told or "error" in told else session.log)(f"Newest, beyond the caps: {told}")


@nox.session
def proven(session: nox.Session) -> None:
    """Write down the newest versions, once CI has passed with them."""
    session.install("--upgrade", ".[dev,docs]")
    there = str(session.run("pip", "freeze", "--exclude", "circuitcli", silent=True)).splitlines()
    pins = sorted(line.split("+")[0] for line in there if re.match(r"[\w.-]+==", line))
    with open(PROVEN, "w", encoding="utf-8") as file:
        file.write("# What the whole suite was last seen to pass with: `nox -s proven` writes it.\n")
        file.writelines(f"{pin}\n" for pin in pins)


@nox.session
def circuit_tracer(session: nox.Session) -> None:
    """An exported graph under circuit-tracer's own models and its local server.

    circuit-tracer wants older versions of nearly everything than we do. What is tested needs neither theirs nor ours:
    of both only the code is installed.
    """
    session.install("pydantic", "pytest", "pytest-timeout", "hypothesis", "jsonschema")
    session.install("--no-deps", "circuit-tracer==0.5.0", ".")
    session.run("pytest", "--noconftest", "tests/tracer/test_server.py", *session.posargs)


@nox.session
def side_by_side(session: nox.Session) -> None:
    """circuit-tracer itself, in a process with libraries of its own, beside our replacement model."""
    theirs = session.create_tmp() + "/theirs"
    session.run("python", "-m", "venv", theirs)
    with open(PROVEN, encoding="utf-8") as file:  # the newest torch may come with gigabytes of CUDA
        [torch] = [line.strip() for line in file if line.startswith("torch==")]
    session.run(f"{theirs}/bin/pip", "install", "--quiet", "circuit-tracer==0.5.0", torch, external=True)
    session.install(*([] if NEWEST else ["--constraint", PROVEN]), ".[test]")
    there = ENVIRONMENT | {"CIRCUIT_TRACER_PYTHON": f"{theirs}/bin/python"}
    session.run("pytest", "tests/tracer/test_side_by_side.py", *session.posargs, env=there)


def oldest_versions() -> list[str]:
    """The lower end of every dependency's range, as pip constraints."""
    dependencies = nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    bounds = [re.match(r"([\w-]+)>=([\w.]+)", line).groups() for line in dependencies]
    return [f"{name}=={version}" for name, version in bounds if name not in NEVER_OLDEST]


def minors_in_range(session: nox.Session) -> list[str]:
    """The minor versions of transformers that its range admits, oldest first."""
    lines = nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    [need] = [need for need in map(Requirement, lines) if need.name == "transformers"]
    found = json.loads(str(session.run("pip", "index", "versions", "transformers", "--json", silent=True)))["versions"]
    admitted = {Version(one).release[:2] for one in found if need.specifier.contains(one)}
    return [f"{major}.{minor}" for major, minor in sorted(admitted)]
