# A set of migrations with the command that registers it, for sets that a ConfigMap of Kubernetes cannot hold:
#
#   docker build -f deploy/migrations.Dockerfile --build-arg DUNLIN=registry.example.com/dunlin:0.1.0 -t migrations MIGRATIONS
ARG DUNLIN=dunlin:0.1.0
FROM ${DUNLIN}
COPY . /migrations
