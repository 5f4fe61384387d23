# An image with nndiff, for the CPU or for CUDA.
#
#     docker build -t nndiff .                            the small build of torch for the CPU
#     docker build -t nndiff --build-arg DEVICE=cuda .    PyPI's build, with CUDA; needs NVIDIA's container toolkit
#
#     docker run --rm -it --ipc=host -v /data:/data nndiff doctor
#     docker run --rm -it --ipc=host -v /data:/data --gpus all nndiff train 1 bridge 0
#
# The versions are those of constraints.txt. The root folders are /data/raw, /data/preprocessed and /data/results.

ARG PYTHON=3.11
FROM python:${PYTHON}-slim
ARG DEVICE=cpu

WORKDIR /opt/nndiff
COPY constraints.txt setup.py pyproject.toml README.md LICENSE ./
COPY nndiff nndiff
COPY dataset_conversion dataset_conversion
RUN case "$DEVICE" in \
        cpu) pip install --no-cache-dir --no-deps -c constraints.txt \
             --index-url https://download.pytorch.org/whl/cpu torch ;; \
        cuda) ;; \
        *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 1 ;; \
    esac \
    && pip install --no-cache-dir -c constraints.txt ".[dicom]"

ENV nndiff_raw=/data/raw nndiff_preprocessed=/data/preprocessed nndiff_results=/data/results
WORKDIR /data
ENTRYPOINT ["nndiff"]
