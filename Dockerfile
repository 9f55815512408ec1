FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 \
    HF_HOME=/cache/huggingface

# The cache exists before the volume does, so that the volume belongs to the user as well.
RUN useradd --create-home --uid 1000 --user-group circuit \
    && install --directory --owner=circuit --group=circuit /work /cache /cache/huggingface

COPY pyproject.toml README.md LICENSE /src/
COPY circuitcli /src/circuitcli
RUN pip install --no-cache-dir /src

USER 1000:1000
WORKDIR /work
VOLUME ["/cache/huggingface"]

ENTRYPOINT ["circuit"]
CMD ["--help"]
