# TaskFlow as an image: one static program, the authorities that it believes, and a folder of its own.
#
#   docker build --build-arg VERSION="$(git describe --tags --always)" -t taskflow .

# build compiles on the builder's own platform, for whichever platform is asked for.
FROM --platform=$BUILDPLATFORM golang:1.26-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev TARGETOS TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /out/taskflow .
RUN mkdir -p /out/data/files

# Nothing else is in the image: no shell, no package, and no user but a number.
FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="TaskFlow" \
      org.opencontainers.image.description="Self-hosted task management with PostgreSQL and Redis beside it" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# A new volume that is mounted here takes the owner along, so that the program can write to it.
COPY --from=build --chown=10001:10001 /out/data /var/lib/taskflow
COPY --from=build /out/taskflow /taskflow
ENV DATA_DIR=/var/lib/taskflow
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/taskflow", "healthcheck"]
ENTRYPOINT ["/taskflow"]
CMD ["serve"]
