# Training: docker build -t tlkit . && docker run --rm --shm-size=1g -v "$PWD/mlruns:/app/mlruns" tlkit
FROM python:3.11-slim

# On a CPU the frozen part needs no compiler of the system: ONNX Runtime and OpenVINO bring their own.
RUN useradd --create-home --uid 1000 tlkit \
    && mkdir --parents /app/mlruns /cache \
    && chown --recursive tlkit /app /cache
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir --requirement requirements.txt
COPY --chown=tlkit . .
USER 1000
ENV TLKIT_CACHE=/cache \
    MLFLOW_TRACKING_URI=sqlite:////app/mlruns/mlflow.db \
    PYTHONUNBUFFERED=1
# A training container is healthy as long as its tracking store can be reached.
HEALTHCHECK --interval=60s --timeout=30s --start-period=120s \
    CMD ["python", "-c", "import mlflow; mlflow.search_experiments(max_results=1)"]
# No entry point: MLflow's docker_env appends a whole command, `python -m experiments.…`.
CMD ["python", "-m", "experiments.suite", "--config", "experiments/configs/default.yaml"]
