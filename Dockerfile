# docker build --target cpu -t fgtrain .            # any machine
# docker build --target cuda -t fgtrain:cuda .      # NVIDIA GPUs, with DALI; the host needs only a driver for CUDA 13
# docker run --rm --gpus all --ipc host --user $(id -u):$(id -g) -v $PWD:/work fgtrain:cuda run cvsa
FROM python:3.12-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY fgdata fgdata
COPY fgtrain fgtrain
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim AS base
COPY constraints.txt /constraints.txt
RUN pip install --no-cache-dir -c /constraints.txt uv
COPY --from=wheel /wheels /wheels
# Any user may run the image: caches (numba, timm, torch) go to a folder that everybody can write.
ENV HOME=/tmp PYTHONUNBUFFERED=1
WORKDIR /work
ENTRYPOINT ["fgtrain"]
CMD ["--help"]

FROM base AS cpu
RUN uv pip install --system --no-cache --compile-bytecode --torch-backend cpu -c /constraints.txt \
    "fgtrain[train,onnx] @ file://$(ls /wheels/*.whl)"

FROM base AS cuda
# torch and DALI bring their CUDA libraries; the container toolkit adds the host's driver. video: DALI's decoders.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
RUN uv pip install --system --no-cache --compile-bytecode -c /constraints.txt \
    "fgtrain[dali,train,onnx] @ file://$(ls /wheels/*.whl)"
