# docker build --tag cifar-10 .    with CUDA: docker build --build-arg TORCH_INDEX=https://pypi.org/simple --tag cifar-10 .
# docker run --rm --volume "$PWD/input:/work/input" --volume "$PWD/submissions:/work/submissions" cifar-10 all
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /work
COPY requirements.txt /work/
RUN grep -E '^torch(vision)?==' requirements.txt > torch.txt \
    && pip install --no-cache-dir --index-url "$TORCH_INDEX" --extra-index-url https://pypi.org/simple -r torch.txt \
    && pip install --no-cache-dir -r requirements.txt
COPY run.py /work/
COPY pipeline /work/pipeline
COPY configs /work/configs
ENTRYPOINT ["python", "run.py"]
