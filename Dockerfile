# docker build -t dsrna . && docker run --rm -it -v "$PWD/runs:/dsrna/runs" dsrna
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /dsrna
COPY . .
RUN make setup
ENV PATH="/dsrna/.venv/bin:$PATH"
CMD ["make", "demo"]
