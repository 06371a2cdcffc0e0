# One image for the coordinator and for every service; the command says which: docker run IMAGE run MODULE:CLASS
FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

RUN useradd --uid 10001 --create-home fabric && install -d -o fabric -g fabric /data
WORKDIR /app

# The dependencies have a layer of their own, which a change of the code leaves alone.
COPY requirements-run.lock ./
RUN pip install --quiet --require-hashes -r requirements-run.lock

COPY pyproject.toml README.md LICENSE ./
COPY fabric fabric
COPY services services
RUN pip install --quiet --no-deps --no-build-isolation -e . && python -m compileall -q fabric services

USER fabric
ENTRYPOINT ["fabric"]
