"""Everything that must hold before a change goes in: plain `nox` runs it all, each half in one environment."""

import re

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True
nox.options.sessions = ["tests", "saelens", "circuit_tracer"]

# Two threads wherever the tests run: the order of torch's sums, and so their last bits, follows the number of threads.
ENVIRONMENT = {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}

# The oldest torch that the ranges admit comes with gigabytes of CUDA.
NEVER_OLDEST = {"torch"}


@nox.session
def tests(session: nox.Session) -> None:
    """Lint, types, import contracts and the whole suite, on the newest versions that the ranges admit."""
    session.install(".[dev]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("hadolint", "Dockerfile")
    session.run("mypy")
    session.run("lint-imports")
    session.run("pytest", "-m", "not saelens and not huge", *session.posargs, env=ENVIRONMENT)


@nox.session
def saelens(session: nox.Session) -> None:
    """SAELens itself beside our arithmetic, the whole pipeline and the hub, on the oldest versions that we admit."""
    oldest = session.create_tmp() + "/oldest.txt"
    with open(oldest, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in oldest_versions())
    session.install("--constraint", oldest, ".[test,saelens]")
    session.run("pytest", "-m", "(saelens or real or hub) and not huge", *session.posargs, env=ENVIRONMENT)


@nox.session
def circuit_tracer(session: nox.Session) -> None:
    """An exported graph under circuit-tracer's own models and its local server.

    circuit-tracer wants older versions of nearly everything than we do. What is tested needs neither theirs nor ours:
    of both only the code is installed.
    """
    session.install("pydantic", "pytest", "pytest-timeout", "hypothesis", "jsonschema")
    session.install("--no-deps", "circuit-tracer>=0.5,<0.6", ".")
    session.run("pytest", "--noconftest", "tests/tracer", *session.posargs)


def oldest_versions() -> list[str]:
    """The lower end of every dependency's range, as pip constraints."""
    dependencies = nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    bounds = [re.match(r"([\w-]+)>=([\w.]+)", line).groups() for line in dependencies]
    return [f"{name}=={version}" for name, version in bounds if name not in NEVER_OLDEST]
