"""The project's container images, built with docker or buildah from the Dockerfiles."""
