# Serving, on top of the image that MLflow builds, which runs as root and has no health check:
#   mlflow models build-docker -m models:/NAME@champion -n tlkit-mlflow --env-manager local
#   docker build -f docker/serve.Dockerfile --build-arg IMAGE=tlkit-mlflow -t tlkit-serve docker
#   docker run --rm -p 8080:8080 tlkit-serve
ARG IMAGE=tlkit-mlflow
# hadolint ignore=DL3006
FROM ${IMAGE}
RUN useradd --create-home --uid 1000 tlkit \
    && chown --recursive tlkit /opt/mlflow /opt/ml /var/lib/nginx /var/log/nginx /run
USER 1000
WORKDIR /home/tlkit
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/ping')"]
