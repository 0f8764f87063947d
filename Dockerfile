# syntax=docker/dockerfile:1
# docker build -t mergesafe .                                       merges, plans and checks on the CPU
# docker build -t mergesafe --build-arg EXTRAS=tune,serve .         with extras, here torch and transformers
# docker build -t mergesafe:cuda --target cuda --build-arg EXTRAS=torch .     with CUDA kernels for all GPUs
# docker run --rm -v "$PWD:/models" mergesafe merge recipe.yml out

FROM python:3.12-slim-bookworm AS build-cpu
ARG EXTRAS=""
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.2.0-3 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
ENV MERGESAFE_CUDA=OFF PIP_CONSTRAINT=/source/constraints.txt PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/mergesafe && /opt/mergesafe/bin/pip install ".${EXTRAS:+[$EXTRAS]}"

FROM nvidia/cuda:12.9.1-devel-ubuntu24.04 AS build-cuda
ARG EXTRAS="torch"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
ENV MERGESAFE_CUDA=ON PIP_CONSTRAINT=/source/constraints.txt PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/mergesafe && /opt/mergesafe/bin/pip install ".${EXTRAS:+[$EXTRAS]}"

# torch brings CUDA's libraries; the kernels hold the rest of what they need.
FROM ubuntu:24.04 AS cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 merger
COPY --from=build-cuda /opt/mergesafe /opt/mergesafe
ENV PATH=/opt/mergesafe/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /models
ENTRYPOINT ["mergesafe"]
CMD ["--help"]

FROM python:3.12-slim-bookworm AS cpu
RUN useradd --create-home --uid 10001 merger
COPY --from=build-cpu /opt/mergesafe /opt/mergesafe
ENV PATH=/opt/mergesafe/bin:$PATH
USER 10001
WORKDIR /models
ENTRYPOINT ["mergesafe"]
CMD ["--help"]
