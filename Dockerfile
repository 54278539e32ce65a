# The command vlm-dense with all that its programs need, for CPUs and, with --gpus, for NVIDIA's GPUs.
#
#   docker build -t vlm_dense .
#   docker run --rm -v "$PWD:/work" vlm_dense segment photo.jpg --classes sky road car --model maskclip_vit-b16
#   docker run --rm -v "$PWD:/work" --gpus all --ipc=host vlm_dense train denseclip_ade20k --data-root data/ade
#
# pip's torch brings CUDA, several GB. For CPUs alone, give what the selector on pytorch.org shows behind `pip install
# torch torchvision` for "CPU":
#
#   docker build -t vlm_dense --build-arg TORCH_OPTIONS='--index-url ...' .
#
# Weights that open_clip downloads are kept by a volume: -v vlm_dense_cache:/root/.cache
FROM python:3.11-slim

# OpenCV's wheel needs both
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 && rm -rf /var/lib/apt/lists/*

ARG TORCH_OPTIONS=""
# hadolint ignore=DL3013,SC2086
RUN pip install --no-cache-dir 'torch>=2.4' torchvision ${TORCH_OPTIONS}

COPY . /src
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '/src[mm,probe,export]' && rm -rf /src

WORKDIR /work
ENTRYPOINT ["vlm-dense"]
CMD ["--help"]
