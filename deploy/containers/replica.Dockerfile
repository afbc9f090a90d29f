# syntax=docker/dockerfile:1
# GPU replicas: vLLM's own image, with Ray and Pointsman on top. From the root of the repository:
#
#     docker build -f deploy/containers/replica.Dockerfile -t pointsman-replica .
ARG VLLM_VERSION=0.32.0

FROM vllm/vllm-openai:v${VLLM_VERSION}
ARG VLLM_VERSION
ARG RAY_VERSION=2.60.0
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY policies policies
COPY haproxy haproxy
COPY router router
COPY engine engine
COPY simulator simulator
COPY pointsman pointsman
# vLLM is named so that no dependency can move the one the image was built for.
RUN uv pip install --system --no-cache "vllm==${VLLM_VERSION}" "ray[default]==${RAY_VERSION}" ".[engine]" \
    && groupadd --gid 10001 pointsman \
    && useradd --uid 10001 --gid 10001 --create-home --home-dir /var/lib/pointsman --shell /usr/sbin/nologin pointsman \
    && install -d -o 10001 -g 10001 /var/lib/pointsman/models
ENV HOME=/var/lib/pointsman HF_HOME=/var/lib/pointsman/models PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/pointsman
# No health check: each replica's port is picked by the system, and HAProxy checks every one of them.
ENTRYPOINT ["pointsman"]
CMD ["engine", "vllm", "--config", "/etc/pointsman/engine.yaml"]
