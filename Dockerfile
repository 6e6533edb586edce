# docker build -t inr-gan --build-arg UID=$(id -u) .
# docker run --rm -it --gpus all --shm-size 2g -v "$PWD:/workspace" -v inr-gan-cache:/cache inr-gan python train.py --help
#
# A devel image, so that nvcc is there to compile ops on first use. Its CUDA version should have the same major version
# as the torch wheel's (python -c "import torch; print(torch.version.cuda)").
ARG CUDA=13.0.1
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Files written to a mounted folder belong to this user, not to root. The base image's own user may have the same number.
ARG UID=1000
RUN (userdel --remove ubuntu 2>/dev/null || true) \
    && useradd --uid "${UID}" --create-home user \
    && mkdir -p /opt/venv /cache /workspace \
    && chown user /opt/venv /cache /workspace
USER user

ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1
COPY --chown=user requirements.txt /tmp/requirements.txt
RUN python3 -m venv /opt/venv && pip install --no-cache-dir -r /tmp/requirements.txt

# Compiled ops and downloads outlive the container.
ENV TORCH_EXTENSIONS_DIR=/cache/torch_extensions \
    DNNLIB_CACHE_DIR=/cache/downloads
VOLUME /cache

COPY --chown=user . /workspace
WORKDIR /workspace
