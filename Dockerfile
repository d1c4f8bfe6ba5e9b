# docker build --tag cifar-10 .
# docker run --rm --volume "$PWD/input:/work/input" --volume "$PWD/submissions:/work/submissions" cifar-10 all
#
# The image has torch with CUDA (docker run --gpus all). For the CPU alone and several GB smaller: docker build
# --build-arg TORCH_INDEX=URL, with the index of CPU wheels that pytorch.org/get-started shows.
FROM python:3.11-slim
# torch.compile, which a GPU uses, needs a C compiler.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX
WORKDIR /work
COPY requirements.txt /work/
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r requirements.txt
COPY run.py /work/
COPY pipeline /work/pipeline
COPY configs /work/configs
ENTRYPOINT ["python", "run.py"]
