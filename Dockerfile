# One image for everything that is ours: web, worker, migration and the demo's instances.
FROM python:3.11-slim-bookworm AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.txt /
RUN python -m venv /venv \
 && /venv/bin/pip install --only-binary :all: --require-hashes -r /requirements.txt

FROM python:3.11-slim-bookworm
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 STATIC_ROOT=/app/collected
# The folders are copied, with their owner, into the volumes that are mounted over them.
RUN groupadd --gid 10001 lockgate \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app lockgate \
 && install -d -o lockgate -g lockgate -m 700 /secrets /fleet
WORKDIR /app
COPY --from=packages /venv /venv
COPY manage.py ./
COPY rollouts ./rollouts
COPY dashboard ./dashboard
COPY templates ./templates
COPY static ./static
# Values for this one step: none of them stays in the image.
RUN SECRET_KEY=only-for-this-step-of-the-build-000000 ALLOWED_HOSTS=localhost \
    DATABASE_URL=postgresql://nobody@localhost/nothing REDIS_URL=redis://localhost/0 \
    python manage.py collectstatic --noinput --verbosity 0 \
 && python -m compileall -q rollouts dashboard
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["python", "-m", "dashboard.local.compose_start"]
CMD ["daphne", "-b", "0.0.0.0", "-p", "8000", "dashboard.asgi:application"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-m", "dashboard.local.compose_health", "web"]
